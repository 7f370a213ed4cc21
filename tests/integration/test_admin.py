"""The admin's pages over HTTP: they render, they write through operations, and they refuse beside the field."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from integrations import operations, snapshot
from integrations.admin_model_forms import seal_of
from integrations.models import (
    ApiKey,
    AuditEntry,
    BreakerEvent,
    CallRecord,
    CallStats,
    ConfigVersion,
    Endpoint,
    ModelConfig,
    PatternAssignment,
)
from integrations.values import hash_key

OURS = (
    ModelConfig,
    Endpoint,
    PatternAssignment,
    ApiKey,
    CallRecord,
    CallStats,
    BreakerEvent,
    AuditEntry,
    ConfigVersion,
)
WRITTEN_BY_CITADEL = (CallRecord, CallStats, BreakerEvent, AuditEntry, ConfigVersion)


@pytest.fixture
def phi3(db: None) -> ModelConfig:
    model = ModelConfig(slug="phi3", upstream_model="phi3")
    rows = [Endpoint(url="http://127.0.0.1:9001"), PatternAssignment(pattern="real_time")]
    operations.save_model(model, rows=rows, actor="setup")
    return model


@pytest.fixture
def everything(phi3: ModelConfig) -> None:
    """At least one row of each table."""
    operations.create_key("search", ["embed"], actor="setup")
    operations.trip_breaker([phi3.endpoints.get().pk], actor="setup", reason="fire")
    shared: dict[str, Any] = {"model": "phi3", "pattern": "real_time", "mode": "live", "code": "ok", "texts": 1}
    now = datetime.now(UTC)
    CallRecord.objects.create(started_at=now, request_id="r1", duration_ms=1.5, **shared)
    CallStats.objects.create(width="minute", bucket=now, kind="call", histogram=[1], **shared)


def url(row: Any, page: str, *args: Any) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_{page}", args=args)


def latest() -> AuditEntry:
    return AuditEntry.objects.latest("id")


def model_form(**changes: Any) -> dict[str, Any]:
    """What a browser sends for a new model with one pattern and one endpoint."""
    data = {
        "slug": "hermes",
        "enabled": "on",
        "upstream_model": "hermes",
        "truncate": "error",
        "canary": "report",
        "assignments-TOTAL_FORMS": "1",
        "assignments-INITIAL_FORMS": "0",
        "assignments-0-pattern": "hybrid",
        "assignments-0-position": "0",
        "endpoints-TOTAL_FORMS": "1",
        "endpoints-INITIAL_FORMS": "0",
        "endpoints-0-url": "http://127.0.0.1:9004/",
        "endpoints-0-protocol": "tei",
        "endpoints-0-enabled": "on",
        "endpoints-0-position": "0",
        "endpoints-0-auth_header": "Authorization",
    }
    return data | changes


def text(response: Any) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


def test_every_model_of_ours_has_a_page() -> None:
    assert [m.__name__ for m in OURS if not admin.site.is_registered(m)] == []


@pytest.mark.parametrize("row", OURS)
def test_lists_render_empty(operator: Client, row: Any) -> None:
    assert operator.get(url(row, "changelist")).status_code == 200


@pytest.mark.parametrize("row", OURS)
@pytest.mark.usefixtures("everything")
def test_lists_and_single_pages_render_with_data(operator: Client, row: Any) -> None:
    assert operator.get(url(row, "changelist")).status_code == 200
    assert operator.get(url(row, "change", row.objects.first().pk)).status_code == 200


@pytest.mark.parametrize("row", WRITTEN_BY_CITADEL)
@pytest.mark.usefixtures("everything")
def test_what_citadel_writes_cannot_be_edited(operator: Client, row: Any) -> None:
    first = row.objects.first()
    assert operator.post(url(row, "change", first.pk), {}).status_code == 403
    assert operator.post(url(row, "delete", first.pk), {"post": "yes"}).status_code == 403
    assert operator.get(url(row, "add")).status_code == 403


def test_strangers_are_sent_to_the_log_in(db: None) -> None:
    answer = Client().get(url(ModelConfig, "changelist"))
    assert (answer.status_code, "/login/" in answer["Location"]) == (302, True)


def test_a_new_model_is_one_write_with_its_patterns_and_endpoints(operator: Client) -> None:
    answer = operator.post(url(ModelConfig, "add"), model_form())
    assert answer.status_code == 302
    (entry,) = AuditEntry.objects.all()
    assert (entry.actor, entry.action, entry.model) == ("ann", "save_model", "hermes")
    assert entry.after["endpoints"] == [{"url": "http://127.0.0.1:9004", "protocol": "tei"}]
    model = snapshot.load().model("hermes")
    assert [a.pattern for a in model.assignments] == ["hybrid"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assignments-TOTAL_FORMS": "0"}, "Assign at least one pattern."),
        ({"endpoints-0-url": "ftp://127.0.0.1"}, "must begin with http"),
        ({"endpoints-0-protocol": "grpc"}, "grpc is not one of the available choices"),
        ({"endpoints-0-auth_env": "SECRET_KEY"}, "Citadel's own secret"),
        ({"slug": "PHI3"}, "Another model is called “phi3”."),
        ({"slug": "batch"}, "is reserved"),
        (
            {
                "assignments-TOTAL_FORMS": "2",
                "assignments-1-pattern": "bulk_only",
                "assignments-1-position": "1",
            },
            "bulk_only cannot stand beside a live pattern.",
        ),
    ],
)
def test_a_model_against_the_rules_is_refused_beside_the_field(
    operator: Client, phi3: ModelConfig, changes: dict[str, str], message: str
) -> None:
    audits = AuditEntry.objects.count()
    answer = operator.post(url(ModelConfig, "add"), model_form(**changes))
    assert answer.status_code == 200
    assert message.replace("'", "&#x27;") in text(answer)
    assert (ModelConfig.objects.count(), AuditEntry.objects.count()) == (1, audits)


def test_a_fallback_of_another_space_is_refused_beside_the_field(operator: Client, phi3: ModelConfig) -> None:
    answer = operator.post(url(ModelConfig, "add"), model_form(fallbacks=[phi3.pk], embedding_space="e5"))
    assert "must not mix" in text(answer)
    assert answer.context["adminform"].form.errors["fallbacks"]


def change_form(model: ModelConfig, **changes: Any) -> dict[str, Any]:
    endpoint, assignment = model.endpoints.get(), model.assignments.get()
    ours = {
        "seen": seal_of(model),
        "assignments-INITIAL_FORMS": "1",
        "assignments-0-id": assignment.pk,
        "assignments-0-model": model.pk,
        "assignments-0-pattern": assignment.pattern,
        "endpoints-INITIAL_FORMS": "1",
        "endpoints-0-id": endpoint.pk,
        "endpoints-0-model": model.pk,
        "endpoints-0-url": endpoint.url,
        "endpoints-0-protocol": endpoint.protocol,
    }
    return model_form(upstream_model=model.upstream_model) | ours | changes


def test_an_edit_keeps_the_slug_and_records_before_and_after(operator: Client, phi3: ModelConfig) -> None:
    data = change_form(phi3, **{"slug": "other", "dimensions": "384", "assignments-0-pattern": "hybrid"})
    assert operator.post(url(ModelConfig, "change", phi3.pk), data).status_code == 302
    entry = latest()
    assert (entry.before["patterns"], entry.after["patterns"]) == (["real_time"], ["hybrid"])
    model = snapshot.load().model("phi3")
    assert (model.dimensions, [a.pattern for a in model.assignments]) == (384, ["hybrid"])


def test_removing_the_last_endpoint_is_allowed_with_a_warning(operator: Client, phi3: ModelConfig) -> None:
    data = change_form(phi3, **{"endpoints-0-DELETE": "on"})
    answer = operator.post(url(ModelConfig, "change", phi3.pk), data, follow=True)
    assert "no enabled endpoint" in text(answer)
    assert latest().after["endpoints"] == []


def test_deleting_models_is_one_write(operator: Client, phi3: ModelConfig) -> None:
    operator.post(url(ModelConfig, "add"), model_form())
    audits = AuditEntry.objects.count()
    ids = list(ModelConfig.objects.values_list("pk", flat=True))
    data = {"action": "delete_selected", "_selected_action": ids, "post": "yes"}
    operator.post(url(ModelConfig, "changelist"), data)
    assert not ModelConfig.objects.exists()
    assert AuditEntry.objects.count() == audits + 1
    assert latest().before.keys() == {"phi3", "hermes"}


def test_one_model_can_be_deleted(operator: Client, phi3: ModelConfig) -> None:
    operator.post(url(ModelConfig, "delete", phi3.pk), {"post": "yes"})
    assert latest().action == "delete_models"
    assert not ModelConfig.objects.exists()


@pytest.mark.parametrize("row", [Endpoint, ModelConfig])
@pytest.mark.parametrize("action", ["trip", "reset"])
def test_the_actions_on_breakers_lead_to_the_pages_that_ask(
    operator: Client, phi3: ModelConfig, row: Any, action: str
) -> None:
    chosen = {"action": action, "_selected_action": [row.objects.get().pk]}
    answer = operator.post(url(row, "changelist"), chosen)
    assert answer["Location"] == f"/admin/breakers/{action}/?endpoint={phi3.endpoints.get().pk}"
    assert not BreakerEvent.objects.exists()


def test_a_model_is_drained_and_undrained_in_two_steps(operator: Client, phi3: ModelConfig) -> None:
    page = url(ModelConfig, "changelist")
    chosen = {"_selected_action": [phi3.pk], "apply": "yes"}
    operator.post(page, {"action": "drain", "reason": "new driver", **chosen})
    assert snapshot.load().model("phi3").draining
    operator.post(page, {"action": "undrain", **chosen})
    assert not snapshot.load().model("phi3").draining
    assert [e.action for e in AuditEntry.objects.all()[:2]] == ["undrain_model", "drain_model"]


def test_a_trip_of_a_model_without_endpoints_is_refused(operator: Client, phi3: ModelConfig) -> None:
    phi3.endpoints.all().delete()
    data = {"action": "trip", "_selected_action": [phi3.pk]}
    answer = operator.post(url(ModelConfig, "changelist"), data, follow=True)
    assert "Choose at least one enabled endpoint." in text(answer)


def test_patterns_are_listed_with_the_way_to_their_model_and_edited_only_there(
    operator: Client, phi3: ModelConfig
) -> None:
    assignment = phi3.assignments.get()
    assert url(ModelConfig, "change", phi3.pk) in operator.get(url(PatternAssignment, "changelist")).content.decode()
    assert operator.post(url(PatternAssignment, "change", assignment.pk), {"position": "1"}).status_code == 403
    assert operator.get(url(PatternAssignment, "add")).status_code == 403


def test_a_key_is_shown_once_and_never_again(operator: Client) -> None:
    data = {"client": "search", "scopes": ["embed", "read"]}
    shown = operator.post(url(ApiKey, "add"), data)
    assert "no-store" in shown["Cache-Control"]
    (key,) = re.findall(r"ck_[A-Za-z0-9_-]{43}", text(shown))
    row = ApiKey.objects.get()
    assert (row.hash, row.scopes) == (hash_key(key), ["embed", "read"])
    for page in (url(ApiKey, "changelist"), url(ApiKey, "change", row.pk), url(AuditEntry, "change", latest().pk)):
        body = operator.get(page).content.decode()
        assert key not in body
        assert row.hash not in body


def test_a_key_is_revoked_never_changed_or_deleted(operator: Client) -> None:
    operator.post(url(ApiKey, "add"), {"client": "search", "scopes": ["embed"]})
    row = ApiKey.objects.get()
    assert operator.post(url(ApiKey, "change", row.pk), {"client": "other"}).status_code == 403
    assert operator.post(url(ApiKey, "delete", row.pk), {"post": "yes"}).status_code == 403
    operator.post(url(ApiKey, "changelist"), {"action": "revoke", "_selected_action": [row.pk], "apply": "yes"})
    assert not ApiKey.objects.get().enabled
    assert snapshot.load().keys == {}
