"""The read side of the rollups on a real PostgreSQL."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from integrations import statistics
from integrations.record_writer import Writer
from tests.fixtures_records import PHI3, REPLICA, a_call

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 7, 15, 14, 30, 20, tzinfo=UTC)


def write(*calls: dict[str, Any]) -> None:
    Writer().write([a_call(**({"started_at": NOW - timedelta(seconds=5)} | fields)) for fields in calls], dropped=0)


def test_a_window_is_its_whole_minutes_and_the_running_one() -> None:
    ages = (5, 19, 21, 300, 319, 321, 359, 400)
    write(*({"started_at": NOW - timedelta(seconds=age), "texts": age, "duration_ms": 0.0} for age in ages))
    period = statistics.window(300, now=NOW)
    assert period.since == datetime(2026, 7, 15, 14, 25, tzinfo=UTC)
    assert statistics.total(period.select()).texts == sum(age for age in ages if age <= 320)


@pytest.mark.parametrize("seconds", [0, 59, 86_401])
def test_a_window_that_the_minutes_do_not_cover_is_refused(seconds: int) -> None:
    with pytest.raises(ValueError, match="60 to 86400"):
        statistics.window(seconds)


def test_one_query_reads_a_window_however_many_models_there_are() -> None:
    write(*({"model": f"m{n}", "endpoint": f"http://127.0.0.1:{n}"} for n in range(60)))
    with CaptureQueriesContext(
        connection,
    ) as queries:
        period = statistics.window(60, now=NOW)
    assert len(queries) == 1
    assert len(period.select()) == len(period.select("attempt")) == 60


def test_errors_are_counted_by_code_and_a_rate_leaves_out_what_is_the_clients_own() -> None:
    write(
        *[{}] * 6,
        *[{"code": "upstream_timeout"}] * 2,
        {"code": "circuit_open"},
        {"code": "text_rejected"},
        {"code": "cancelled"},
    )
    totals = statistics.total(statistics.window(300, now=NOW).select())
    assert totals.count == 11
    assert totals.errors == {"upstream_timeout": 2, "cancelled": 1, "circuit_open": 1, "text_rejected": 1}
    assert next(iter(totals.errors)) == "upstream_timeout"
    assert totals.success_rate == 66.67


def test_a_full_queue_is_our_own_fault_and_a_clients_limit_is_not() -> None:
    assert "queue_full" not in statistics.NOT_JUDGED
    assert {"rate_limited", "invalid_request", "pattern_conflict"} <= statistics.NOT_JUDGED


def test_without_calls_there_is_no_rate_and_no_time() -> None:
    totals = statistics.total(statistics.window(300, now=NOW).select())
    assert (totals.success_rate, totals.mean_ms, totals.quantile_ms(0.5)) == (None, None, None)


def test_times_come_from_all_cells_together() -> None:
    write(*({"duration_ms": float(ms), "endpoint": PHI3 if ms % 2 else REPLICA} for ms in range(1, 201)))
    totals = statistics.total(statistics.window(300, now=NOW).select(model="phi3"))
    assert totals.mean_ms == pytest.approx(100.5)
    quantiles = [totals.quantile_ms(q) for q in (0.5, 0.95, 0.99)]
    assert quantiles == pytest.approx([100, 190, 198], rel=0.13)


def test_totals_since_ever_do_not_end() -> None:
    write({"started_at": NOW - timedelta(days=500)}, {})
    assert statistics.total(statistics.since_ever().select()).count == 2
