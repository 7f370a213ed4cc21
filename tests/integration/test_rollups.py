"""Rollups in a real PostgreSQL: every call in exactly one row beside its total, whoever writes, folds and prunes."""

import contextlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import Sum

from integrations import pruning, rollups
from integrations.models import CallRecord, CallStats
from integrations.pruning import Pruned
from integrations.record_writer import Writer
from tests.fixtures_records import PHI3, a_call

NOW = datetime(2026, 7, 15, 14, 30, 20, tzinfo=UTC)
ENDPOINTS = [f"http://127.0.0.1:{port}" for port in range(11400, 11412)]


def write(*, ago: timedelta, calls: int = 1, ms: float = 10.0, code: str = "ok") -> None:
    """Write calls that began so long before NOW."""
    made = [a_call(started_at=NOW - ago, duration_ms=ms, code=code, texts=2, retries=1) for _ in range(calls)]
    Writer().write(made, dropped=0)


def sums(*widths: str) -> dict[str, float]:
    """What the rows of these widths add up to."""
    rows = CallStats.objects.filter(width__in=widths)
    names = ("count", "texts", "retries", "failovers", "total_ms")
    return rows.aggregate(**{name: Sum(name) for name in names}) | {
        "histogram": sum(sum(row.histogram) for row in rows),
        "long": sum(row.histogram[-1] for row in rows if row.code == "upstream_timeout"),
    }


def folded_widths() -> dict[str, int]:
    rows = CallStats.objects.exclude(width="total").filter(kind="call")
    return {width: rows.filter(width=width).count() for width in ("minute", "hour", "day")}


@pytest.mark.django_db(transaction=True)
def test_four_writers_of_the_same_rows_never_deadlock_and_every_sum_is_exact() -> None:
    together = threading.Barrier(4)

    def work(seed: int) -> None:
        shuffle, writer = random.Random(seed), Writer()
        calls = [
            a_call(started_at=NOW, model=f"m{n % 6}", endpoint=url, texts=3) for n in range(6) for url in ENDPOINTS
        ]
        together.wait()
        for _ in range(15):
            shuffle.shuffle(calls)
            writer.write(calls, dropped=1)
        writer.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert CallRecord.objects.count() == 4 * 15 * 72
    for width in ("minute", "total"):
        rows = list(CallStats.objects.filter(width=width, kind="call"))
        assert len(rows) == 72
        assert {(row.count, row.texts, sum(row.histogram)) for row in rows} == {(60, 180, 60)}
    assert CallStats.objects.get(width="total", kind="drop").count == 60


@pytest.mark.django_db
def test_the_places_of_two_histograms_add_up_one_by_one_whatever_their_lengths() -> None:
    write(ago=timedelta(0), ms=0.2)
    write(ago=timedelta(0), ms=0.52)
    write(ago=timedelta(0), ms=0.3)
    row = CallStats.objects.get(width="minute", kind="call")
    assert row.histogram == [2, 1]
    assert row.total_ms == pytest.approx(1.02)


@pytest.mark.django_db
def test_folding_moves_old_minutes_into_hours_and_old_hours_into_days_and_keeps_every_sum() -> None:
    for ago in (timedelta(0), timedelta(days=1), timedelta(days=2, hours=3), timedelta(days=2, hours=3, minutes=7)):
        write(ago=ago, calls=3)
    write(ago=timedelta(days=91, hours=1), calls=2, ms=400_000.0, code="upstream_timeout")
    write(ago=timedelta(days=91, hours=2), ms=400_000.0, code="upstream_timeout")
    before = sums("minute")
    assert before["count"] == before["histogram"] == sums("total")["count"] == 30
    rollups.fold(NOW, seconds=60)
    assert folded_widths() == {"minute": 2, "hour": 1, "day": 1}
    assert sums("minute", "hour", "day") == pytest.approx(before)
    hour = CallStats.objects.get(width="hour", kind="call")
    assert (hour.bucket, hour.count) == (datetime(2026, 7, 13, 11, tzinfo=UTC), 6)
    day = CallStats.objects.get(width="day", kind="call")
    assert (day.bucket, day.count, day.histogram[-1]) == (datetime(2026, 4, 15, tzinfo=UTC), 3, 3)


@pytest.mark.django_db
def test_folding_again_changes_nothing_and_a_late_minute_is_added_to_its_hour() -> None:
    write(ago=timedelta(days=3), calls=2)
    assert rollups.fold(NOW, seconds=60) == rollups.Folded(minutes=2, hours=0, more=False)
    assert rollups.fold(NOW, seconds=60) == rollups.Folded(minutes=0, hours=0, more=False)
    write(ago=timedelta(days=3), calls=5)
    assert rollups.fold(NOW, seconds=60) == rollups.Folded(minutes=2, hours=0, more=False)
    assert CallStats.objects.get(width="hour", kind="call").count == 7
    assert sum(CallStats.objects.get(width="hour", kind="call").histogram) == 7


@pytest.mark.django_db
def test_an_hour_is_folded_only_as_a_whole() -> None:
    edge = NOW.replace(minute=0, second=0) - rollups.MINUTES_KEPT
    write(ago=NOW - edge)
    write(ago=NOW - edge + timedelta(minutes=1))
    rollups.fold(NOW, seconds=60)
    assert folded_widths() == {"minute": 1, "hour": 1, "day": 0}


@pytest.mark.django_db(transaction=True)
def test_two_that_fold_at_once_while_a_writer_adds_late_calls_lose_and_double_nothing() -> None:
    for hour in range(30):
        write(ago=timedelta(days=3, hours=hour))
    together = threading.Barrier(3)

    def fold() -> None:
        together.wait()
        rollups.fold(NOW, seconds=60)
        connection.close()

    def add() -> None:
        together.wait()
        for hour in range(30):
            write(ago=timedelta(days=3, hours=hour))
        connection.close()

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(fold), pool.submit(fold), pool.submit(add)]:
            done.result()
    rollups.fold(NOW, seconds=60)
    assert folded_widths() == {"minute": 0, "hour": 30, "day": 0}
    assert sums("hour") == pytest.approx(sums("total"))
    assert sums("hour")["count"] == 120


@pytest.mark.django_db(transaction=True)
def test_folding_does_not_wait_for_a_row_that_a_writer_holds() -> None:
    write(ago=timedelta(days=3))
    write(ago=timedelta(days=3, hours=1))
    held = (NOW - timedelta(days=3)).replace(second=0)

    def fold() -> rollups.Folded:
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '3s'")
            return rollups.fold(NOW, seconds=60)

    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        CallStats.objects.select_for_update().get(width="minute", kind="call", bucket=held)
        assert pool.submit(fold).result().minutes == 3
    assert rollups.fold(NOW, seconds=60).minutes == 1


@pytest.mark.django_db
def test_calls_older_than_their_retention_are_deleted_in_slices_and_their_rollups_stay(settings: Any) -> None:
    settings.CALL_RECORD_RETENTION = 86400.0
    write(ago=timedelta(hours=25), calls=3)
    write(ago=timedelta(hours=23), calls=2)
    assert pruning.prune(NOW, a_slice=2, seconds=60) == Pruned(rows=3, more=False)
    assert pruning.prune(NOW, a_slice=2, seconds=60) == Pruned(rows=0, more=False)
    assert CallRecord.objects.count() == 2
    assert CallStats.objects.get(width="total", kind="call", endpoint=PHI3).count == 5
