"""The records' pages over HTTP: calls, transitions, the audit trail and its export; and data to measure them with."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from batches import clock, ended
from batches.models import BatchJob, EndedSums
from integrations import audit_export, operations, rollups
from integrations.admin_lists import WindowPaginator
from integrations.models import AuditEntry, BreakerEvent, CallRecord, CallStats, Endpoint
from integrations.patterns import Attempt
from tests.fixtures_console import words
from tests.fixtures_records import a_call
from tests.made_api import serve

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_db")]

CALLS = "/admin/integrations/callrecord/"


def recorded(**fields: Any) -> CallRecord:
    given = {"started_at": datetime.now(UTC), "request_id": "r", "model": "phi3", "pattern": "real_time"}
    rest: dict[str, Any] = {"mode": "live", "code": "ok", "duration_ms": 80, "texts": 1}
    return CallRecord.objects.create(**(given | rest | fields))


# --- Calls, transitions ----------------------------------------------------------------------------------------------


def found(operator: Client, query: str) -> list[str]:
    """The request ids that the list shows."""
    return re.findall(r"\bid-\w+", words(operator.get(f"{CALLS}?{query}")))


def test_calls_are_found_by_what_is_known_of_them(operator: Client) -> None:
    serve("phi3", "real_time")
    serve("mixtral", "bulk_only")
    old = datetime.now(UTC) - timedelta(hours=3)
    recorded(request_id="id-one")
    recorded(request_id="id-two", code="upstream_timeout", duration_ms=30_000)
    recorded(
        request_id="id-three", model="mixtral", pattern="bulk_only", mode="bulk", batch_id="batch_1", started_at=old
    )
    assert found(operator, "") == ["id-two", "id-one", "id-three"]
    assert found(operator, "model=mixtral") == ["id-three"]
    assert found(operator, "pattern=real_time&outcome=failed") == ["id-two"]
    assert found(operator, "outcome=ok&mode=live") == ["id-one"]
    assert found(operator, "outcome=upstream_timeout") == ["id-two"]
    assert found(operator, "slow=1000") == ["id-two"]
    assert found(operator, "within=hour") == ["id-two", "id-one"]
    assert found(operator, "q=batch_1") == ["id-three"]
    assert found(operator, "q=+id-one+") == ["id-one"]
    assert found(operator, "q=id-o") == []


def test_a_call_shows_its_attempts_in_order(operator: Client) -> None:
    attempts = [
        {"endpoint": "http://a:1", "outcome": "upstream_timeout", "ms": 900.0, "detail": "no answer <i>"},
        {"endpoint": "http://b:2", "outcome": "ok", "ms": 85.0},
    ]
    call = recorded(attempts=attempts, duration_ms=1000)
    shown = words(operator.get(f"{CALLS}{call.pk}/change/"))
    first, second = shown.index("http://a:1"), shown.index("http://b:2")
    assert first < second
    assert "upstream timeout no answer &lt;i&gt; 900 ms" in shown[first:second]
    refused = recorded(request_id="id-refused", code="circuit_open")
    assert "refused before any server was asked" in words(operator.get(f"{CALLS}{refused.pk}/change/"))


def test_long_lists_count_to_a_bound_and_say_so(operator: Client, settings: Any) -> None:
    recorded()
    with CaptureQueriesContext(connection) as seen:
        operator.get(CALLS)
    counts = [q["sql"] for q in seen if "COUNT(" in q["sql"]]
    assert [sql for sql in counts if "callrecord" in sql and "LIMIT" not in sql] == []
    rows = CallRecord.objects.order_by("-started_at")
    pages = WindowPaginator(rows, 30)
    assert (pages.count, pages.more) == (1, False)
    pages.LIMIT = 0
    del pages._found
    assert (pages.count, pages.more) == (0, True)


def test_transitions_name_who_and_why(operator: Client) -> None:
    serve("live", "real_time", "http://127.0.0.1:9")
    operations.trip_breaker([Endpoint.objects.get().pk], actor="bob", reason="fire")
    BreakerEvent.objects.create(
        at=datetime.now(UTC), model="live", url="u", from_state="closed", to_state="open", reason="upstream_failed: x"
    )
    page = "/admin/integrations/breakerevent/"
    assert "fire bob" in words(operator.get(f"{page}?to_state=forced_open"))
    assert "upstream_failed: x Citadel" in words(operator.get(f"{page}?to_state=open"))
    assert "fire" not in words(operator.get(f"{page}?model=other"))


# --- Audit -----------------------------------------------------------------------------------------------------------


def test_an_audit_entry_shows_what_is_different(operator: Client) -> None:
    entry = AuditEntry.objects.create(
        actor="bob",
        action="save_model",
        before={"dimensions": None, "endpoints": [{"url": "http://a"}], "same": 1},
        after={"dimensions": 384, "endpoints": [{"url": "http://b"}], "same": 1},
    )
    shown = words(operator.get(f"/admin/integrations/auditentry/{entry.pk}/change/"))
    assert "dimensions – 384" in shown
    assert "endpoints.0.url http://a http://b" in shown
    assert "same 1" not in shown


def test_differences_of_new_removed_and_plain_values() -> None:
    assert audit_export.differences(None, {"a": 1}) == [("a", None, 1)]
    assert audit_export.differences({"a": [1, 2]}, {"a": [1]}) == [("a.1", 2, None)]
    assert audit_export.differences({"a": 1}, {"a": 1}) == []


def exported(operator: Client, form: str, query: str = "") -> bytes:
    answer: Any = operator.get(f"/admin/integrations/auditentry/export/{form}/{query}")
    assert answer.status_code == 200
    assert answer["Content-Disposition"] == f'attachment; filename="audit.{form}"'
    return b"".join(answer.streaming_content)


def test_the_trail_is_exported_whole_and_in_order_with_the_lists_filters(operator: Client) -> None:
    at = datetime.now(UTC)
    AuditEntry.objects.bulk_create(
        AuditEntry(actor="bob", action="a", model=f"m{n % 2}", target=str(n), after={"n": n}) for n in range(1203)
    )
    AuditEntry.objects.update(at=at)  # one moment for all: the slices must not lose or repeat any
    rows = [orjson.loads(line) for line in exported(operator, "jsonl").splitlines()]
    assert [int(row["target"]) for row in rows] == list(range(1202, -1, -1))
    assert rows[0]["after"] == {"n": 1202}
    assert rows[0]["at"] == f"{at:%Y-%m-%dT%H:%M:%SZ}"
    assert len(exported(operator, "jsonl", "?action=a&q=120").splitlines()) == 5  # 1120 too
    assert exported(operator, "jsonl", "?action=b") == b""


def test_no_cell_of_the_csv_is_a_formula(operator: Client) -> None:
    AuditEntry.objects.create(actor="=cmd()", action="a", reason="+1", after=["x", 'with "quotes"'])
    header, row = exported(operator, "csv").decode().splitlines()
    assert header == "at,actor,action,model,target,before,after,reason"
    assert "'=cmd()" in row
    assert row.endswith("'+1")


def test_the_trail_is_for_those_who_may_see_it(operator: Client) -> None:
    client = Client()
    client.force_login(User.objects.create_user("eve", is_staff=True))
    assert client.get("/admin/integrations/auditentry/export/csv/").status_code == 403
    assert operator.get("/admin/integrations/auditentry/export/xml/").status_code == 404


# --- Sample data -----------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_sample_data_adds_up_and_never_mixes_with_real_records(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandError, match="no model yet"):
        call_command("load_sample_data")
    serve("phi3", "real_time", "http://127.0.0.1:9", "http://127.0.0.1:10")
    serve("open", "hybrid", "http://127.0.0.1:9")
    for _ in range(2):  # the second run replaces the first
        call_command("load_sample_data", calls=2000, batches=200, days=3)
    assert CallRecord.objects.count() == 2000
    calls = CallStats.objects.filter(kind="call")
    for widths in (("minute", "hour"), ("total",)):
        assert sum(calls.filter(width__in=widths).values_list("count", flat=True)) == 2000
    for row in calls[:50]:
        assert sum(row.histogram) == row.count
    from_scratch = rollups.collect(
        a_call(
            started_at=c.started_at,
            duration_ms=c.duration_ms,
            attempts=tuple(Attempt(endpoint=a["endpoint"], outcome=a["outcome"], ms=a["ms"]) for a in c.attempts),
        )
        for c in CallRecord.objects.all()
    )
    attempts = sum(s.count for key, s in from_scratch.items() if key[1] == "attempt")
    assert sum(CallStats.objects.filter(kind="attempt", width="total").values_list("count", flat=True)) == attempts
    now = clock.now()
    counted = ended.by_model(now - timedelta(days=4), now=now)
    assert 0 < EndedSums.objects.filter(model="").count() <= 3 * 96 + 1
    assert sum(sums.completed for sums in counted.values()) == BatchJob.objects.filter(state="completed").count()
    EndedSums.objects.all().delete()
    assert ended.by_model(now - timedelta(days=4), now=now) == counted
    CallRecord.objects.create(
        started_at=datetime.now(UTC),
        request_id="real",
        model="phi3",
        pattern="real_time",
        mode="live",
        code="ok",
        duration_ms=1,
        texts=1,
    )
    with pytest.raises(CommandError, match="real calls or batches"):
        call_command("load_sample_data", calls=10, batches=10, days=1)
