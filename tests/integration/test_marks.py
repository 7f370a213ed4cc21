"""Marks in a real PostgreSQL: a window says the same with and without them, whoever writes and folds meanwhile."""

import itertools
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batches import scheduling
from integrations import histogram, marks, rollups, statistics
from integrations.calls import Call
from integrations.models import CallStats
from integrations.record_writer import Writer
from tests.fixtures_records import PHI3, REPLICA, a_call

NOW = datetime(2026, 7, 15, 14, 30, 20, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def write(*calls: Call) -> None:
    Writer().write(list(calls), dropped=0)


def ended(at: datetime, *, endpoint: str = PHI3, ms: float = 10.0, code: str = "ok") -> Call:
    """A call that ended then."""
    return a_call(started_at=at - timedelta(milliseconds=ms), duration_ms=ms, endpoint=endpoint, code=code, texts=3)


def marked() -> list[datetime]:
    rows = CallStats.objects.filter(width="before").order_by("bucket")
    return list(rows.values_list("bucket", flat=True).distinct())


def counted(seconds: int, now: datetime) -> dict[tuple[str, str], tuple[int, int, float, list[int]]]:
    """The calls of a window by endpoint and code."""
    cells = statistics.window(seconds, now=now).select()
    return {(c.endpoint, c.code): (c.count, c.texts, round(c.total_ms, 3), c.histogram) for c in cells}


def expected(calls: Iterable[Call], seconds: int, now: datetime) -> dict[tuple[str, str], object]:
    """The same from the calls themselves."""
    since = now.replace(second=0, microsecond=0) - timedelta(seconds=seconds)
    found: dict[tuple[str, str], list[Call]] = {}
    for call in calls:
        if call.ended_at.replace(second=0, microsecond=0) >= since:
            found.setdefault((call.endpoint, call.code), []).append(call)
    return {
        key: (
            len(of),
            sum(c.texts for c in of),
            round(sum(c.duration_ms for c in of), 3),
            histogram.of(c.duration_ms for c in of),
        )
        for key, of in found.items()
    }


some_calls = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=31 * 60),  # minutes before NOW
        st.sampled_from([PHI3, REPLICA]),
        st.sampled_from([0.4, 12.0, 400_000.0]),
        st.sampled_from(["ok", "upstream_timeout"]),
    ),
    max_size=40,
)


@pytest.mark.django_db
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=some_calls,
    kept=st.sets(st.integers(min_value=0, max_value=31 * 60)),
    seconds=st.sampled_from([60, 90, 300, 3600, 4000, 43_200, 86_400]),
)
def test_a_window_is_the_sum_of_its_calls_whatever_marks_there_are(
    calls: list[tuple[int, str, float, str]], kept: set[int], seconds: int
) -> None:
    CallStats.objects.all().delete()
    made = {minutes: ended(NOW - minutes * MINUTE, endpoint=url, ms=ms, code=code) for minutes, url, ms, code in calls}
    for minutes in sorted(made.keys() | kept, reverse=True):  # as time went by
        if minutes in made:
            write(made[minutes])
        if minutes in kept:
            marks.keep(NOW - minutes * MINUTE)
    assert counted(seconds, NOW) == expected(made.values(), seconds, NOW)


@pytest.mark.django_db
def test_a_long_window_is_read_from_its_mark_and_so_needs_no_minutes_of_its_own() -> None:
    calls = [ended(NOW - hours * timedelta(hours=1)) for hours in range(30)]
    for call in calls:
        write(call)
        marks.keep(call.ended_at + 5 * MINUTE)
    marks.make_all(NOW)
    CallStats.objects.filter(width="minute", bucket__gte=NOW - timedelta(hours=20)).delete()
    assert counted(86_400, NOW) == expected(calls, 86_400, NOW)


@pytest.mark.django_db
def test_before_there_is_a_mark_a_long_window_of_a_young_installation_is_its_totals() -> None:
    calls = [ended(NOW - hours * timedelta(hours=1)) for hours in range(26)]
    for call in calls:
        write(call)
    with CaptureQueriesContext(connection) as queries:
        assert counted(86_400, NOW) == expected(calls, 86_400, NOW)
    assert "width = 'total'" in queries[-1]["sql"]
    rollups.fold(NOW + timedelta(days=3), seconds=60)  # from now on there is something that no minute tells of
    marks.keep(NOW + timedelta(days=3))
    write(ended(NOW + timedelta(days=3)))
    assert counted(86_400, NOW + timedelta(days=3)) == expected([ended(NOW)], 86_400, NOW)


@pytest.mark.django_db
def test_keeping_makes_one_mark_every_ten_minutes_and_deletes_those_that_no_window_needs() -> None:
    write(ended(NOW - timedelta(days=3)))
    start = NOW - timedelta(hours=40)
    for minutes in range(0, 40 * 60 + 1, 5):  # as often as the scheduler does
        marks.keep(start + minutes * MINUTE)
    found = marked()
    assert (found[0], found[-1]) == (NOW.replace(day=14, hour=7, minute=40, second=0), NOW.replace(minute=20, second=0))
    assert {after - before for before, after in itertools.pairwise(found)} == {marks.EVERY}
    assert CallStats.objects.filter(width="before").count() == 2 * len(found)  # a call and its attempt


@pytest.mark.django_db
def test_all_marks_made_at_once_are_those_that_time_would_have_made() -> None:
    for minutes in range(33 * 60, -1, -7):
        write(ended(NOW - minutes * MINUTE, endpoint=REPLICA if minutes % 2 else PHI3, ms=float(minutes + 1)))
        marks.keep(NOW - minutes * MINUTE)
    fields = ("bucket", "endpoint", "code", "count", "texts", "histogram", "total_ms")
    rows = CallStats.objects.filter(width="before", kind="call", bucket__gte=NOW - marks.KEPT).order_by(*fields)
    by_time = list(rows.values_list(*fields))
    CallStats.objects.filter(width="before").delete()
    marks.make_all(NOW)
    at_once = {row[:3]: row for row in rows.values_list(*fields)}
    assert len(by_time) > 100
    for row in by_time:
        same = at_once[row[:3]]
        assert same[:5] == row[:5]
        assert histogram.trimmed(same[5]) == histogram.trimmed(row[5])
        assert same[6] == pytest.approx(row[6])


@pytest.mark.django_db
def test_a_call_written_after_its_mark_counts_as_one_that_ended_just_after_it_and_is_never_lost_or_doubled() -> None:
    write(ended(NOW - timedelta(hours=5)))
    at = rollups.bucket(NOW - timedelta(hours=1), marks.EVERY)
    marks.keep(at + marks.SETTLED)
    write(ended(at - 3 * MINUTE, endpoint=REPLICA))  # PostgreSQL was away
    for minutes, late, early in ((30, 0, 0), (55, 1, 0), (64, 1, 0), (120, 1, 0), (600, 1, 1)):
        found = Counter(c.endpoint for c in statistics.window(minutes * 60, now=NOW).select())
        assert (found[REPLICA], found[PHI3]) == (late, early), minutes


@pytest.mark.django_db(transaction=True)
def test_marks_made_while_calls_are_written_and_folded_change_no_window() -> None:
    start = NOW - timedelta(days=3)
    calls = [ended(start + n * timedelta(minutes=9)) for n in range(480)]

    def add(share: int) -> None:
        writer = Writer()
        for call in calls[share::2]:
            writer.write([call], dropped=0)
        writer.close()
        connection.close()

    def keep() -> None:
        for n in range(60):
            marks.keep(start + n * timedelta(hours=1))
            rollups.fold(NOW, seconds=60)
        connection.close()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(add, 0), pool.submit(add, 1), pool.submit(keep), pool.submit(keep)]:
            done.result()
    marks.keep(NOW + timedelta(minutes=10))
    whole = CallStats.objects.get(width="before", kind="call", bucket=NOW.replace(minute=30, second=0))
    assert (whole.count, whole.texts, sum(whole.histogram)) == (480, 1440, 480)
    write(ended(NOW + timedelta(minutes=7)))
    assert [count for count, *_ in counted(600, NOW + timedelta(minutes=15)).values()] == [1]


@pytest.mark.django_db
def test_the_scheduler_keeps_marks() -> None:
    write(ended(datetime.now(UTC) - timedelta(hours=1)))
    scheduling.fold()
    (at,) = marked()
    assert timedelta(0) <= datetime.now(UTC) - at - marks.SETTLED < marks.EVERY
