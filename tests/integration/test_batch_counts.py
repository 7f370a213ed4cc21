"""How many batches ended how, how fast they went and how good the promises were, from stored batches."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from batches import clock, counts, measured
from batches.counts import BatchCounts
from batches.models import BatchJob
from tests.made_batches import State, a_batch

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
WITH_OUTCOME = (State.COMPLETED, State.FAILED)


def ago(now: datetime, seconds: float) -> datetime:
    return now - timedelta(seconds=seconds)


# --- By model ---------------------------------------------------------------------------------------------------------


def counted(jobs: Iterable[BatchJob], window: timedelta, *, now: datetime) -> dict[str, BatchCounts]:
    """What counts_by_model says, from every batch in turn."""
    found: dict[str, dict[str, Any]] = {}
    for job in jobs:
        active = job.state in BatchJob.ACTIVE
        if not active and (job.finished_at is None or job.finished_at <= now - window):
            continue
        sums = found.setdefault(job.model, dict.fromkeys(("took",), timedelta(0)))
        adds: dict[str, Any] = {job.state: 1}
        if active:
            adds["waiting_texts"] = job.outstanding
        if job.state == State.QUEUED:
            sums["oldest_queued_at"] = min(sums.get("oldest_queued_at") or job.queued_at, job.queued_at)
        if job.state in WITH_OUTCOME:
            adds |= {"completed_texts": job.completed, "failed_texts": job.failed}
            if job.started_at and job.finished_at:
                adds |= {"timed": 1, "took": job.finished_at - job.started_at}
        for name, value in adds.items():
            sums[name] = sums[name] + value if name in sums else value
    return {model: BatchCounts(**sums) for model, sums in found.items()}


def test_counts_are_of_each_model_and_of_the_window() -> None:
    now = clock.now()
    queued = a_batch()
    a_batch(state=State.PROCESSING, completed=1)
    for took in (1, 3):
        ended = {"started_at": ago(now, took), "finished_at": now}
        a_batch(state=State.COMPLETED, total=4, completed=3, failed=1, **ended)
    a_batch("other", state=State.FAILED, total=2, failed=2, finished_at=now)
    a_batch("gone", state=State.EXPIRED, finished_at=now - 2 * HOUR)
    found = counts.counts_by_model(HOUR)
    assert found == {
        "m": BatchCounts(
            queued=1,
            processing=1,
            waiting_texts=5,
            oldest_queued_at=queued.queued_at,
            completed=2,
            completed_texts=6,
            failed_texts=2,
            timed=2,
            took=timedelta(seconds=4),
        ),
        "other": BatchCounts(failed=1, failed_texts=2),
    }
    assert found == counted(BatchJob.objects.all(), HOUR, now=clock.now())
    assert found["m"].avg_processing_ms == 2000
    assert found["other"].avg_processing_ms is None
    assert counts.success_rate(found.values()) == 60.0
    assert counts.avg_processing_seconds(found.values()) == 2
    assert counts.success_rate([]) is counts.avg_processing_seconds([]) is None


# --- How fast ---------------------------------------------------------------------------------------------------------

# (began, ended, texts)
Work = tuple[float, float, int]


def did(now: datetime, work: Work, **fields: Any) -> BatchJob:
    """Store a batch that ended, with times in seconds from an hour before `now` on."""
    began, ended, texts = work
    done = {"total": max(1, texts), "completed": texts // 2, "failed": texts - texts // 2, "state": State.COMPLETED}
    times = {"started_at": ago(now, 3600 - began), "finished_at": ago(now, 3600 - ended)}
    return a_batch(**(done | times | fields))


def per_second(done: Iterable[Work]) -> float | None:
    """Texts over the time in which there was work, stretch by stretch in which nothing begins or ends."""
    worked = [work for work in done if work[2]]
    moments = sorted({moment for began, ended, _ in worked for moment in (began, ended)})
    busy = sum(b - a for a, b in pairwise(moments) if any(began <= a and b <= ended for began, ended, _ in worked))
    return sum(texts for _, _, texts in worked) / busy if busy else None


@pytest.mark.parametrize(
    ("done", "rate"),
    [
        ([], None),
        ([(0, 10, 50)], 5),
        ([(0, 10, 50), (100, 110, 150)], 10),  # nothing was to do in between
        ([(0, 10, 50), (0, 10, 50)], 10),  # side by side
        ([(5, 15, 60), (0, 10, 90)], 10),  # overlapping, in any order
        ([(0, 20, 60), (5, 10, 40)], 5),  # one within the other
        ([(0, 20, 60), (5, 10, 40), (15, 25, 25)], 5),
        ([(3, 3, 50)], None),  # no time has passed
        ([(5, 3, 50)], None),  # the clock was set back
        ([(0, 10, 50), (10, 20, 0)], 5),  # nothing came of it
    ],
)
def test_the_rate_is_texts_over_the_time_in_which_there_was_work(done: list[Work], rate: float | None) -> None:
    now = clock.now()
    for work in done:
        did(now, work)
    assert per_second(done) == rate
    assert measured.texts_per_second(since=now - 2 * HOUR, now=now, most=10) == rate
    assert measured.texts_per_second(since=now - 2 * HOUR, now=now, most=10, model="m") == rate
    assert measured.texts_per_second(since=now - 2 * HOUR, now=now, most=10, model="other") is None


WORK = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 9))


@hypothesis_settings(max_examples=30)
@given(done=st.lists(WORK, max_size=12), most=st.integers(1, 14))
def test_the_rate_is_that_of_the_last_batches(done: list[tuple[int, int, int]], most: int) -> None:
    BatchJob.objects.all().delete()
    now = clock.now()
    # No two end at the same moment: which of them is the last is not said. By what PostgreSQL keeps: microseconds.
    ended = [(began, ended + n / 1000, texts) for n, (began, ended, texts) in enumerate(done)]
    for work in ended:
        did(now, work)
    expected = per_second(sorted(ended, key=lambda work: -work[1])[:most])
    found = measured.texts_per_second(since=now - 2 * HOUR, now=now, most=most)
    assert found == (None if expected is None else pytest.approx(expected))


def test_retried_batches_say_nothing_of_the_rate_and_those_in_work_do() -> None:
    now = clock.now()
    did(now, (0, 10, 50))
    did(now, (0, 1, 5000), submitted_at=now - 9 * HOUR)
    did(now, (0, 1, 5000), started_at=None)
    did(now, (3500, 3600, 150), state=State.PROCESSING, finished_at=None, total=900)
    did(now, (0, 1, 500), state=State.CANCELLED)
    assert measured.texts_per_second(since=now - 2 * HOUR, now=now, most=10) == pytest.approx(200 / 110)
    # One that was cancelled was worked on all the same, which tells how fast its model is.
    assert measured.texts_per_second(since=now - 2 * HOUR, now=now, most=10, model="m") == pytest.approx(700 / 110)
    assert counts.texts_per_minute(HOUR / 2, now=now) == pytest.approx(90)


# --- How well promised ------------------------------------------------------------------------------------------------


def test_the_error_of_the_estimates_is_their_median() -> None:
    now = clock.now()
    for error in (-40, 1, 10):
        promised = ago(now, 60 + error)
        a_batch(state=State.COMPLETED, finished_at=ago(now, 60), estimated_completion=promised)
    a_batch(state=State.CANCELLED, finished_at=now, estimated_completion=now - 9 * HOUR)
    assert counts.estimate_error_median(HOUR, now=now) == pytest.approx(10)
    assert counts.estimate_error_median(timedelta(seconds=5), now=now) is None


def test_the_error_is_that_of_the_batches_completed_last() -> None:
    now = clock.now()
    errors = [n * n * 37 % 101 for n in range(20)]
    for n, error in enumerate(errors):
        a_batch(state=State.COMPLETED, finished_at=ago(now, n), estimated_completion=ago(now, n + error))
        a_batch(state=State.COMPLETED, finished_at=ago(now, n), estimated_completion=None)
    for most in (1, 6, 19, 50):
        found = measured.estimate_error(since=now - HOUR, most=most)
        assert found == pytest.approx(median(errors[:most]))
