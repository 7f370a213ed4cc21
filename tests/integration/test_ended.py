"""What the batches that ended within a window add up to: from counted quarters as from the batches."""

import json
import threading
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from batches import clock, ended, lifecycle
from batches.ended import Ended
from batches.models import BatchJob, EndedSums
from tests.made_batches import State, a_batch, at_once

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WINDOWS = (timedelta(seconds=10), timedelta(minutes=40), 3 * HOUR, DAY, 3 * DAY)


def summed(jobs: Iterable[BatchJob], since: datetime) -> dict[str, Ended]:
    """What by_model says, from every batch in turn."""
    found: dict[str, dict[str, Any]] = {}
    for job in jobs:
        if job.finished_at is None or job.finished_at <= since:
            continue
        adds: dict[str, Any] = {job.state: 1}
        if job.state in (State.COMPLETED, State.FAILED):
            adds |= {"completed_texts": job.completed, "failed_texts": job.failed}
            if job.started_at:
                adds |= {"timed": 1, "took": job.finished_at - job.started_at}
        sums = found.setdefault(job.model, {"took": timedelta(0)})
        for name, value in adds.items():
            sums[name] = sums[name] + value if name in sums else value
    return {model: Ended(**sums) for model, sums in found.items()}


def assert_exact() -> None:
    now, jobs = clock.now(), list(BatchJob.objects.all())
    for window in WINDOWS:
        assert ended.by_model(now - window, now=now) == summed(jobs, now - window), window


def an_ended_batch(model: str = "m", *, ago: float = 0.0, **fields: Any) -> BatchJob:
    now = clock.now()
    finished_at = now - timedelta(seconds=ago)
    values = {
        "state": State.COMPLETED,
        "total": 5,
        "completed": 3,
        "failed": 2,
        "started_at": finished_at - timedelta(seconds=1.25),
        "finished_at": finished_at,
    }
    return a_batch(model, **(values | fields))


# --- Whatever happens in whatever order -------------------------------------------------------------------------------

# Most of the last hours, some of days ago, some of this moment.
AGES = st.one_of(st.floats(0, 3 * 3600), st.floats(0, 4 * 86400), st.floats(0, 90))
END = st.tuples(
    st.just("end"), st.sampled_from("mn"), st.sampled_from(BatchJob.ENDED), AGES, st.integers(0, 4), st.booleans()
)
STEPS = st.one_of(END, END, st.just(("count",)), st.tuples(st.just("retry"), st.integers(0, 30)))


def end(model: str, state: str, ago: float, done: int, begun: bool) -> None:
    """End a batch of this model that is queued, or make one that has ended; nothing ends in what was counted."""
    now = clock.now()
    finished_at = now - timedelta(seconds=ago)
    if EndedSums.objects.exists():
        finished_at = max(finished_at, ended.settled())
    values: dict[str, Any] = {"state": state, "finished_at": finished_at, "completed": 0, "failed": 0}
    if state in (State.COMPLETED, State.FAILED):
        values |= {"completed": done, "failed": 4 - done}
    values["started_at"] = finished_at - timedelta(seconds=1.25) if begun else None
    again = BatchJob.objects.filter(model=model, state=State.QUEUED).order_by("pk").first()
    if again is None:
        a_batch(model, total=5, **values)
    else:
        BatchJob.objects.filter(pk=again.pk).update(**values)


def retry(place: int) -> None:
    found = [job for job in BatchJob.objects.order_by("pk") if lifecycle.retryable(job)]
    if found:
        lifecycle.retry(found[place % len(found)].batch_id)


DEEDS: dict[str, Callable[..., None]] = {"end": end, "count": ended.count, "retry": retry}


@pytest.mark.django_db
@hypothesis_settings(max_examples=60)
@given(steps=st.lists(STEPS, max_size=25))
def test_the_sums_are_those_of_the_batches_after_every_step(steps: list[tuple[Any, ...]]) -> None:
    BatchJob.objects.all().delete()
    EndedSums.objects.all().delete()
    for name, *values in steps:
        DEEDS[name](*values)
        assert_exact()


@pytest.mark.django_db
def test_a_gap_in_what_was_counted_is_read_from_the_batches() -> None:
    for minutes in range(0, 180, 5):
        an_ended_batch(ago=60 * minutes)
    ended.count()
    for hours in (2.5, 1):
        EndedSums.objects.filter(bucket=ended.quarter(clock.now() - hours * HOUR)).delete()
        assert_exact()
    EndedSums.objects.filter(bucket__gt=clock.now() - HOUR).delete()
    assert_exact()


@pytest.mark.django_db
def test_what_was_changed_without_a_word_is_right_when_it_is_counted_again() -> None:
    """As a process of the version before does, and a statement by hand."""
    jobs = [an_ended_batch(model, ago=4000) for model in ("m", "m", "n")]
    ended.count()
    BatchJob.objects.filter(pk__in=[jobs[0].pk, jobs[2].pk]).update(state=State.QUEUED, finished_at=None)
    an_ended_batch("o", ago=5000)
    ended.count()
    assert_exact()


@pytest.mark.django_db
def test_only_quarters_in_which_something_changed_are_written_again() -> None:
    jobs = [an_ended_batch(ago=ago) for ago in (4000, 9000)]
    ended.count()
    before = dict(EndedSums.objects.values_list("pk", "bucket"))
    lifecycle.retry(jobs[0].batch_id)
    ended.count()
    after = dict(EndedSums.objects.values_list("pk", "bucket"))
    assert {before[pk] for pk in before.keys() - after.keys()} == {ended.quarter(jobs[0].finished_at)}
    assert EndedSums.objects.exclude(model="").get().bucket == ended.quarter(jobs[1].finished_at)


@pytest.mark.django_db
def test_what_no_window_reaches_is_forgotten() -> None:
    now = clock.now()
    ended.count_between(now - ended.KEPT - HOUR, now - ended.KEPT + HOUR)
    ended.count()
    oldest = EndedSums.objects.order_by("bucket").values_list("bucket", flat=True)[0]
    assert now - ended.KEPT - 2 * ended.QUARTER <= oldest < now - ended.KEPT + HOUR


# --- What it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_of_what_was_counted_no_batch_is_read() -> None:
    now = clock.now()
    times = dict.fromkeys(("submitted_at", "queued_at", "released_at", "available_at", "expires_at"), now)
    BatchJob.objects.bulk_create(
        BatchJob(
            batch_id=f"many-{n}",
            model="m",
            pattern="bulk_only",
            request_id="",
            total=1,
            completed=1,
            state=State.COMPLETED,
            finished_at=now - timedelta(seconds=14 * n),
            **times,
        )
        for n in range(6000)
    )
    ended.count()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE batches_batchjob, batches_endedsums")
        since = now - DAY
        moments = {"since": since, "first": ended.quarter(since) + ended.QUARTER, "present": ended.quarter(now)}
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + ended._READ, ended._values(**moments))
        plan = cursor.fetchone()[0]
    read = [node["Actual Rows"] for node in nodes(plan[0]["Plan"]) if node.get("Relation Name") == "batches_batchjob"]
    # A quarter of an hour at each end, and the one that may not be settled yet: some 200 of 6,000.
    assert len(read) == 2
    assert 0 < sum(read) < 250
    assert "JIT" not in json.dumps(plan)
    assert_exact()


def nodes(plan: dict[str, Any]) -> Iterable[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)


# --- Several at once --------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_who_counts_and_who_retries_at_once_come_to_the_same() -> None:
    for n in range(12):
        EndedSums.objects.all().delete()
        jobs = [an_ended_batch(model, ago=4000) for model in ("m", "n", "m")]
        if n % 2:
            ended.count()
        calls = [lambda batch_id=job.batch_id: lifecycle.retry(batch_id) for job in jobs]
        found = at_once(*calls, ended.count, ended.count)
        assert [error for error in found if isinstance(error, BaseException)] == []
        assert_exact()


@pytest.mark.django_db(transaction=True)
def test_two_who_retry_the_batches_of_a_file_in_different_order_do_not_deadlock() -> None:
    ages = (4000, 9000)
    one, other = ([an_ended_batch(model, ago=ago) for ago in ages] for model in ("m", "n"))
    ended.count()
    gate = threading.Barrier(2)

    def retry_all(jobs: list[BatchJob]) -> None:
        with transaction.atomic():
            lifecycle.retry(jobs[0].batch_id)
            gate.wait(10)
            lifecycle.retry(jobs[1].batch_id)

    assert at_once(lambda: retry_all(one), lambda: retry_all(other[::-1])) == [None, None]
    assert_exact()


@pytest.mark.django_db(transaction=True)
def test_a_quarter_is_not_counted_while_somebody_may_still_end_a_batch_in_it() -> None:
    job = a_batch(state=State.PROCESSING)
    begun, done = threading.Event(), threading.Event()

    def end_late() -> datetime:
        with transaction.atomic():
            BatchJob.objects.select_for_update().get(pk=job.pk)
            moment = clock.now()
            BatchJob.objects.filter(pk=job.pk).update(state=State.COMPLETED, finished_at=moment)
            begun.set()
            done.wait(10)
        return moment

    def look() -> tuple[datetime, datetime]:
        begun.wait(10)
        # As if it were an hour later.
        during = ended.settled(patience=-HOUR)
        done.set()
        return during, clock.now()

    moment, (during, later) = at_once(end_late, look)
    assert during <= ended.quarter(moment)
    assert ended.settled(patience=-HOUR) >= ended.quarter(later + HOUR) > during
