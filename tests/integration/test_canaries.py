"""Canaries against real servers: what is reported, what is taken out, and when each endpoint is asked."""

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from django.conf import LazySettings
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from integrations import canaries, loop, operations, recorder, snapshot
from integrations.models import AuditEntry, BreakerEvent, CallRecord, CallStats, Canary, Endpoint, ModelConfig
from integrations.record_writer import Writer
from tests.fixtures_records import a_call
from tests.operators import create_roles
from tests.upstreams import Upstream

pytestmark = pytest.mark.django_db


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server
    loop.stop()


def an_endpoint(upstream: Upstream, **fields: Any) -> Endpoint:
    model = ModelConfig.objects.create(slug="m", upstream_model="test-model", **fields)
    return Endpoint.objects.create(model=model, url=upstream.url, protocol=upstream.protocol)


def ask_again() -> Canary:
    """As if the interval had passed; return what is known then."""
    Canary.objects.update(asked_at=datetime.now(UTC) - timedelta(hours=1))
    assert canaries.check_due() == 1
    return Canary.objects.get()


def closing(do: Callable[[], object]) -> Callable[[], None]:
    """The same in a thread, which has a connection of its own."""

    def run() -> None:
        do()
        connection.close()

    return run


def forced(endpoint: Endpoint) -> tuple[bool, str]:
    endpoint.refresh_from_db()
    return endpoint.forced_open, endpoint.forced_by


def test_the_first_answer_becomes_the_reference_and_no_client_has_called(upstream: Upstream) -> None:
    an_endpoint(upstream, passage_prefix="passage: ")
    assert canaries.check_due() == 1
    assert canaries.check_due() == 0  # not before the interval has passed
    first = Canary.objects.get()
    assert (first.state, first.error) == ("well", "")
    assert first.asked_at == first.well_at == first.reference_at
    again = ask_again()
    assert again.state == "well"
    assert again.cosine == pytest.approx(1.0)
    assert again.reference_at == first.reference_at
    assert upstream.texts == {"passage: " + canaries.TEXT: 2}
    assert recorder.waiting() == 0
    assert not CallRecord.objects.exists()
    assert not CallStats.objects.exists()


def test_another_vector_is_reported_and_forgotten_when_the_old_one_is_back(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = an_endpoint(upstream)
    canaries.check_due()
    upstream.weights = "another model"
    moved = ask_again()
    assert moved.state == "moved"
    assert moved.cosine is not None
    assert moved.cosine < 0.9
    assert moved.well_at is not None
    assert moved.well_at < moved.asked_at == moved.since
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.endpoint for record in told] == [upstream.url]  # type: ignore[attr-defined]
    assert ask_again().since == moved.since
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1  # once, not each time
    assert forced(endpoint) == (False, "")
    upstream.weights = ""
    assert ask_again().state == "well"


@pytest.mark.parametrize("configured", [8, None])
def test_another_length_is_reported_although_calls_refuse_it_themselves(
    upstream: Upstream, configured: int | None
) -> None:
    an_endpoint(upstream, dimensions=configured)
    canaries.check_due()
    upstream.dimensions = 12
    changed = ask_again()
    assert (changed.state, changed.cosine) == ("resized", None)


def test_a_first_answer_of_the_wrong_length_is_no_reference(upstream: Upstream) -> None:
    an_endpoint(upstream, dimensions=12)
    canaries.check_due()
    assert (Canary.objects.get().state, Canary.objects.get().reference) == ("resized", None)


def test_a_server_that_does_not_answer_is_not_one_that_has_moved(upstream: Upstream) -> None:
    endpoint = an_endpoint(upstream, canary="take_out")
    canaries.check_due()
    for fail in (upstream.nan, upstream.html, lambda: upstream.status(503)):
        fail()
        failed = ask_again()
        assert failed.state == "well"
        assert failed.error.startswith("upstream_")
    upstream.clear()
    assert ask_again().error == ""
    assert forced(endpoint) == (False, "")


@pytest.mark.parametrize(
    "change",
    [{"upstream_model": "other"}, {"passage_prefix": "p: "}, {"normalise": False}],
    ids=lambda c: next(iter(c)),
)
def test_another_configuration_takes_a_new_reference_at_once(upstream: Upstream, change: dict[str, Any]) -> None:
    an_endpoint(upstream)
    canaries.check_due()
    before = bytes(Canary.objects.get().reference or b"")
    ModelConfig.objects.update(**change)
    upstream.weights = "another model"
    assert canaries.check_due() == 1
    after = Canary.objects.get()
    assert after.state == "well"
    assert bytes(after.reference or b"") != before


def test_a_server_at_another_address_must_give_the_old_vectors(upstream: Upstream) -> None:
    endpoint = an_endpoint(upstream)
    canaries.check_due()
    with Upstream() as other:
        other.weights = "another model"
        Endpoint.objects.filter(pk=endpoint.pk).update(url=other.url)
        assert ask_again().state == "moved"


def test_an_endpoint_is_taken_out_and_put_back_only_by_a_reset(upstream: Upstream) -> None:
    endpoint = an_endpoint(upstream, canary="take_out")
    canaries.check_due()
    upstream.weights = "another model"
    ask_again()
    assert forced(endpoint) == (True, operations.CANARY)
    assert AuditEntry.objects.get().actor == operations.CANARY
    assert BreakerEvent.objects.get().to_state == "forced_open"
    ask_again()
    assert AuditEntry.objects.count() == 1  # it is out already
    operations.reset_breaker([endpoint.pk], actor="ann")
    assert canaries.check_due() == 1  # at once after a reset, and nothing has been mended
    assert forced(endpoint) == (True, operations.CANARY)
    upstream.weights = ""
    ask_again()
    assert forced(endpoint) == (True, operations.CANARY)  # what took it out may come back
    operations.reset_breaker([endpoint.pk], actor="ann")
    canaries.check_due()
    assert forced(endpoint) == (False, "")


def test_what_an_operator_holds_open_stays_the_operators(upstream: Upstream) -> None:
    endpoint = an_endpoint(upstream, canary="take_out")
    canaries.check_due()
    operations.trip_breaker([endpoint.pk], actor="ann", reason="new disks")
    upstream.weights = "another model"
    assert ask_again().state == "moved"
    assert forced(endpoint) == (True, "ann")
    operations.retake_reference([endpoint.pk], actor="ann", reason="a new model")
    assert forced(endpoint) == (True, "ann")


def test_an_operator_takes_a_new_reference_and_that_is_on_record(upstream: Upstream) -> None:
    endpoint = an_endpoint(upstream, canary="take_out")
    canaries.check_due()
    upstream.weights = "another model"
    ask_again()
    operations.retake_reference([endpoint.pk], actor="ann", reason="a new model")
    assert forced(endpoint) == (False, "")
    entry = AuditEntry.objects.get(action="retake_reference")
    assert (entry.actor, entry.reason, entry.target) == ("ann", "a new model", upstream.url)
    assert canaries.check_due() == 1
    assert Canary.objects.get().state == "well"
    assert ask_again().cosine == pytest.approx(1.0)
    assert forced(endpoint) == (False, "")


def test_an_endpoint_is_asked_at_once_when_its_breaker_has_closed_or_the_clock_has_stepped_back(
    upstream: Upstream,
) -> None:
    endpoint = an_endpoint(upstream)
    canaries.check_due()
    event = {"model": "m", "endpoint": endpoint, "url": upstream.url, "from_state": "half_open"}
    BreakerEvent.objects.create(at=datetime.now(UTC), to_state="open", **event)
    assert canaries.check_due() == 0
    BreakerEvent.objects.create(at=datetime.now(UTC), to_state="closed", **event)
    assert canaries.check_due() == 1
    assert canaries.check_due() == 0
    assert len(canaries.due(datetime.now(UTC) - timedelta(hours=1))) == 1


def test_who_is_switched_off_is_not_asked(upstream: Upstream, settings: LazySettings) -> None:
    endpoint = an_endpoint(upstream)
    for row, field, off in (
        (endpoint, "enabled", False),
        (endpoint.model, "enabled", False),
        (endpoint.model, "canary", "off"),
    ):
        was = getattr(row, field)
        setattr(row, field, off)
        row.save()
        assert canaries.due() == []
        setattr(row, field, was)
        row.save()
    settings.CANARY_INTERVAL = 0
    assert canaries.due() == []
    settings.CANARY_INTERVAL = 60
    assert canaries.due() == [endpoint]


def test_the_cache_forgets_what_is_in_doubt(upstream: Upstream) -> None:
    endpoint = an_endpoint(upstream, cache=True)

    def emptied() -> int:
        return ModelConfig.objects.get().cache_epoch

    canaries.check_due()
    ask_again()
    assert emptied() == 0
    upstream.weights = "another model"
    ask_again()
    ask_again()
    assert emptied() == 1
    assert AuditEntry.objects.get(action="purge_cache").actor == operations.CANARY
    upstream.weights = ""
    ask_again()
    assert emptied() == 2
    operations.retake_reference([endpoint.pk], actor="ann", reason="a new model")
    assert emptied() == 3


def test_an_endpoint_that_was_never_like_its_replica_is_reported_alone(upstream: Upstream) -> None:
    first = an_endpoint(upstream, canary="take_out")
    with Upstream(dimensions=upstream.dimensions) as other:
        other.weights = "another model"
        second = Endpoint.objects.create(model=first.model, position=1, url=other.url)
        canaries.check_due()
        states = dict(Canary.objects.values_list("endpoint_id", "state"))
        assert states == {first.pk: "well", second.pk: "unlike"}
        assert forced(second) == (False, "")
        other.weights = ""
        ask_both_again()
        assert Canary.objects.get(endpoint=second).state == "moved"  # its reference was the wrong one
        operations.retake_reference([second.pk], actor="ann", reason="it is mended")
        ask_both_again()
        assert set(Canary.objects.values_list("state", flat=True)) == {"well"}


def ask_both_again() -> None:
    Canary.objects.update(asked_at=datetime.now(UTC) - timedelta(hours=1))
    assert canaries.check_due() == 2


@pytest.mark.parametrize(("role", "answer"), [("viewer", 403), ("operator", 200)])
def test_an_operator_takes_a_new_reference_from_the_console_and_a_viewer_may_not(
    upstream: Upstream, settings: LazySettings, role: str, answer: int
) -> None:
    settings.WHITENOISE_AUTOREFRESH = True
    endpoint = an_endpoint(upstream)
    canaries.check_due()
    upstream.weights = "another model"
    row = ask_again()
    create_roles()
    user = User.objects.create(username="ann", is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    page = reverse("admin:integrations_canary_changelist")
    assert "other vectors" in client.get(page).content.decode()
    model_page = reverse("admin:integrations_modelconfig_state", args=[endpoint.model_id])
    snapshot.load()
    assert "other vectors" in client.get(model_page).content.decode()
    Writer().write([a_call(model="m", endpoint=upstream.url, texts=n) for n in (3, 4)], dropped=0)
    one = client.get(reverse("admin:integrations_canary_change", args=[row.pk])).content.decode()
    assert "up to 7 texts in 2 calls" in one
    form = {"action": "retake", "_selected_action": [row.pk]}
    assert client.post(page, form).status_code == answer
    client.post(page, {**form, "apply": "1", "reason": "a new model"})
    assert AuditEntry.objects.filter(action="retake_reference", actor="ann").exists() == (role == "operator")


@pytest.mark.django_db(transaction=True)
def test_an_answer_to_a_configuration_that_has_changed_meanwhile_counts_for_nothing(upstream: Upstream) -> None:
    endpoint = an_endpoint(upstream)
    upstream.delay = 0.5
    asking = threading.Thread(target=closing(canaries.check_due))
    asking.start()
    upstream.wait_in_flight(1)
    ModelConfig.objects.filter(pk=endpoint.model_id).update(passage_prefix="p: ")
    asking.join()
    assert upstream.calls == 1
    assert not Canary.objects.exists()


@given(st.integers(0, 2**32 - 1), st.sampled_from(["float16", "int8", "noise"]))
def test_rounding_of_numbers_stays_above_the_bound_and_another_model_under_it(seed: int, how: str) -> None:
    random = np.random.default_rng(seed)
    vector = random.standard_normal(384).astype(np.float32)
    rounded = {
        "float16": lambda: vector.astype(np.float16).astype(np.float32),
        "int8": lambda: np.round(vector / np.abs(vector).max() * 127).astype(np.float32),
        "noise": lambda: vector * (1 + random.uniform(-0.05, 0.05, 384)).astype(np.float32),
    }[how]()
    assert canaries.judge(rounded, vector, dimensions=None, at_least=0.99).state == "well"
    other = random.standard_normal(384).astype(np.float32)
    assert canaries.judge(other, vector, dimensions=None, at_least=0.99).state == "moved"
    assert canaries.judge(vector * 0, vector, dimensions=None, at_least=0.99).state == "moved"
