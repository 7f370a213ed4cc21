"""What an operator does is one transaction, one audit row and one bump, and nothing at all when it is refused."""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.utils import timezone

from integrations import operations, snapshot
from integrations.models import (
    ApiKey,
    AuditEntry,
    BreakerEvent,
    ConfigVersion,
    Endpoint,
    ModelConfig,
    PatternAssignment,
)
from integrations.values import hash_key

pytestmark = pytest.mark.django_db


def version() -> int:
    row = ConfigVersion.objects.filter(id=1).first()
    return row.version if row else 1


@contextmanager
def one_write(action: str) -> Iterator[list[AuditEntry]]:
    """Asserts one audit row with this action and one new version; gives the row afterwards."""
    audits, before, found = AuditEntry.objects.count(), version(), []
    yield found
    assert (AuditEntry.objects.count(), version()) == (audits + 1, before + 1)
    found.append(AuditEntry.objects.latest("id"))
    assert found[0].action == action


@contextmanager
def no_write(field: str) -> Iterator[None]:
    """Asserts a refusal that names this field, and that nothing was written."""
    audits, before = AuditEntry.objects.count(), version()
    with pytest.raises(ValidationError) as refused:
        yield
    assert field in refused.value.message_dict
    assert (AuditEntry.objects.count(), version()) == (audits, before)


def make(slug: str, *patterns: str, urls: tuple[str, ...] = ("http://127.0.0.1:9001",), **fields: Any) -> ModelConfig:
    model = ModelConfig(slug=slug, upstream_model=slug, **fields)
    rows: list[Endpoint | PatternAssignment] = [Endpoint(url=url, position=n) for n, url in enumerate(urls)]
    rows += [PatternAssignment(pattern=p, position=n) for n, p in enumerate(patterns or ("real_time",))]
    operations.save_model(model, rows=rows, actor="ann")
    return model


def test_a_new_model_is_stored_with_its_rows_as_one_write() -> None:
    with one_write("save_model") as found:
        make("phi3", "real_time", "hybrid", urls=("http://127.0.0.1:9001/", "http://127.0.0.1:9002"))
    (entry,) = found
    assert (entry.actor, entry.model, entry.before) == ("ann", "phi3", None)
    assert entry.after["endpoints"] == ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]
    model = snapshot.load().model("phi3")
    assert [a.pattern for a in model.assignments] == ["real_time", "hybrid"]


def test_a_trip_holds_the_breaker_open_in_the_snapshot_until_it_is_reset() -> None:
    ids = [e.pk for e in make("phi3", urls=("http://127.0.0.1:9001", "http://127.0.0.1:9002")).endpoints.all()]
    until = timezone.now() + timedelta(hours=1)
    with one_write("trip_breaker") as found:
        operations.trip_breaker(ids, actor="ann", reason="new disks", until=until)
    assert (found[0].model, found[0].reason) == ("phi3", "new disks")
    assert [v["forced_open"] for v in found[0].before.values()] == [False, False]
    first, second = snapshot.load().model("phi3").endpoints
    assert first.forced is not None
    assert second.forced is not None
    assert (first.forced.reason, first.forced.by, first.forced.until) == ("new disks", "ann", until)

    with one_write("reset_breaker"):
        operations.reset_breaker(ids, actor="bob")
    first, second = snapshot.load().model("phi3").endpoints
    assert (first.forced, first.breaker_epoch, second.breaker_epoch) == (None, 1, 1)
    events = BreakerEvent.objects.filter(endpoint_id=ids[0]).order_by("id")
    assert [(e.from_state, e.to_state, e.actor) for e in events] == [
        ("closed", "forced_open", "ann"),
        ("forced_open", "closed", "bob"),
    ]


def test_a_trip_needs_a_reason_a_future_and_endpoints_that_exist() -> None:
    (endpoint,) = make("phi3").endpoints.all()
    with no_write("reason"):
        operations.trip_breaker([endpoint.pk], actor="ann", reason="  ")
    with no_write("reason"):
        operations.trip_breaker([endpoint.pk], actor="ann", reason="x" * 201)
    with no_write("until"):
        operations.trip_breaker([endpoint.pk], actor="ann", reason="x", until=timezone.now())
    with no_write("endpoints"):
        operations.trip_breaker([endpoint.pk, 10**9], actor="ann", reason="x")
    with no_write("endpoints"):
        operations.reset_breaker([], actor="ann")
    with no_write("actor"):
        operations.reset_breaker([endpoint.pk], actor="")
    assert not Endpoint.objects.filter(forced_open=True).exists()


def test_assigning_patterns_keeps_the_settings_of_those_that_stay() -> None:
    model = make("openchat", "real_time", "hybrid")
    model.assignments.filter(pattern="hybrid").update(deadline=7)
    with one_write("assign_patterns") as found:
        operations.assign_patterns("openchat", ["hybrid", "real_time"], actor="ann")
    assert found[0].after == [{"pattern": "hybrid", "deadline": 7.0}, "real_time"]
    assert [a.deadline for a in snapshot.load().model("openchat").assignments] == [7.0, 30.0]
    with one_write("assign_patterns"):
        operations.assign_patterns("openchat", ["bulk_only"], actor="ann")
    assert [a.pattern for a in model.assignments.all()] == ["bulk_only"]


@pytest.mark.parametrize("patterns", [[], ["bulk_only", "hybrid"], ["hybrid", "hybrid"], ["sometimes"]])
def test_an_assignment_against_the_rules_changes_nothing(patterns: list[str]) -> None:
    model = make("openchat", "real_time")
    with no_write("patterns"):
        operations.assign_patterns("openchat", patterns, actor="ann")
    assert [a.pattern for a in model.assignments.all()] == ["real_time"]


def test_what_changes_nothing_leaves_no_trace() -> None:
    make("openchat", "real_time")
    audits, before = AuditEntry.objects.count(), version()
    operations.assign_patterns("openchat", ["real_time"], actor="ann")
    assert (AuditEntry.objects.count(), version()) == (audits, before)


def test_a_model_is_drained_and_let_work_again() -> None:
    make("phi3")
    with one_write("drain_model"):
        operations.drain_model("phi3", actor="ann", reason="new driver")
    assert (snapshot.load().model("phi3").draining, snapshot.load().model("phi3").drain_reason) == (True, "new driver")
    with one_write("undrain_model"):
        operations.undrain_model("phi3", actor="ann")
    assert not snapshot.load().model("phi3").draining
    with no_write("reason"):
        operations.drain_model("phi3", actor="ann", reason="")
    with no_write("model"):
        operations.drain_model("phi4", actor="ann", reason="x")


def test_an_edit_that_was_begun_before_a_trip_or_a_drain_does_not_undo_it() -> None:
    model = make("phi3")
    (endpoint,) = model.endpoints.all()
    operations.trip_breaker([endpoint.pk], actor="bob", reason="fire")
    operations.drain_model("phi3", actor="bob", reason="fire")
    endpoint.max_batch = 16
    operations.save_model(model, rows=[endpoint], actor="ann")
    operations.save_endpoint(endpoint, actor="ann")
    stored = Endpoint.objects.get(pk=endpoint.pk)
    assert (stored.max_batch, stored.forced_open, stored.model.draining) == (16, True, True)


def test_a_fallback_of_another_space_is_refused_from_either_side() -> None:
    other = make("e5", embedding_space="e5")
    model = make("phi3", embedding_space="minilm")
    with no_write("fallbacks"):
        operations.save_model(model, fallbacks=[other], actor="ann")
    other.embedding_space = "minilm"
    operations.save_model(other, actor="ann")
    operations.save_model(model, fallbacks=[other], actor="ann")
    assert snapshot.load().model("phi3").fallbacks == ("e5",)
    other.embedding_space = "e5"
    with no_write("embedding_space"):
        operations.save_model(other, actor="ann")


def test_a_model_like_another_but_for_the_case_is_refused() -> None:
    make("phi3")
    with no_write("slug"):
        make("Phi3")


def test_a_model_cannot_be_left_without_a_pattern() -> None:
    model = make("phi3")
    with no_write("patterns"):
        operations.save_model(model, removed=list(model.assignments.all()), actor="ann")
    assert model.assignments.count() == 1


def test_an_assignment_of_its_own_may_not_contradict_its_neighbours() -> None:
    model = make("phi3")
    with no_write("pattern"):
        operations.save_assignment(PatternAssignment(model=model, pattern="bulk_only"), actor="ann")
    with one_write("save_assignment"):
        operations.save_assignment(PatternAssignment(model=model, pattern="hybrid", position=1), actor="ann")


def test_deleting_keeps_what_was_deleted_in_the_trail() -> None:
    model = make("phi3", urls=("http://127.0.0.1:9001", "http://127.0.0.1:9002"))
    first, _ = model.endpoints.all()
    with one_write("delete_endpoints") as found:
        operations.delete_endpoints([first.pk], actor="ann")
    assert found[0].before["phi3"]["endpoints"] == ["http://127.0.0.1:9001", "http://127.0.0.1:9002"]
    assert found[0].after["phi3"]["endpoints"] == ["http://127.0.0.1:9002"]
    with one_write("delete_models") as found:
        operations.delete_models(["phi3"], actor="ann")
    assert (list(found[0].before), found[0].after) == (["phi3"], None)
    assert not Endpoint.objects.exists()


def test_a_key_is_given_once_and_only_its_hash_is_kept() -> None:
    with one_write("create_key") as found:
        key = operations.create_key("search", ["read", "embed"], actor="ann")
    assert key.startswith("ck_")
    assert len(base64.urlsafe_b64decode(key.removeprefix("ck_") + "=")) == 32
    row = ApiKey.objects.get()
    assert (row.hash, row.prefix, row.scopes) == (hash_key(key), key[:12], ["embed", "read"])
    assert snapshot.load().keys[hash_key(key)].scopes == {"embed", "read"}
    stored = f"{found[0].before} {found[0].after} {found[0].target}"
    assert key not in stored
    assert row.hash not in stored


def test_a_revoked_key_is_known_no_more() -> None:
    key = operations.create_key("search", ["embed"], actor="ann")
    with one_write("revoke_keys") as found:
        operations.revoke_keys([ApiKey.objects.get().pk], actor="ann", reason="leaked")
    assert [k["enabled"] for k in found[0].after] == [False]
    assert hash_key(key) not in snapshot.load().keys
    with no_write("keys"):
        operations.revoke_keys([10**9], actor="ann")


def test_a_key_needs_a_client_scopes_that_exist_and_a_future() -> None:
    with no_write("scopes"):
        operations.create_key("search", [], actor="ann")
    with no_write("scopes"):
        operations.create_key("search", ["everything"], actor="ann")
    with no_write("client"):
        operations.create_key(" ", ["embed"], actor="ann")
    with no_write("expires_at"):
        operations.create_key("search", ["embed"], actor="ann", expires_at=timezone.now())


@pytest.mark.django_db(transaction=True)
def test_two_operators_at_once_write_one_after_the_other() -> None:
    make("phi3")
    before, barrier, failed = version(), threading.Barrier(2), []

    def drain(name: str) -> None:
        barrier.wait()
        try:
            operations.drain_model("phi3", actor=name, reason=name)
        except Exception as error:
            failed.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=drain, args=(name,)) for name in ("ann", "bob")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    first, second = AuditEntry.objects.filter(action="drain_model").order_by("id")
    # The second saw what the first had done: no write is lost between them.
    assert second.before == first.after
    assert version() == before + 2
