"""Queue positions and promised times from stored batches."""

from datetime import timedelta
from typing import Any

import pytest

from batches import clock, estimates
from batches.models import BatchJob
from tests.made import an_assignment
from tests.made_batches import State, a_batch

pytestmark = pytest.mark.django_db

ASSIGNMENT = an_assignment("bulk_only", batch_size=100, processing_interval=60)


def place(job: BatchJob, **at: Any) -> estimates.Place:
    return estimates.place(job, assignment=ASSIGNMENT, **({"now": clock.now()} | at))


def seconds_left(job: BatchJob) -> float:
    now = clock.now()
    return (place(job, now=now).estimated_completion - now).total_seconds()


def test_positions_follow_priority_and_then_age_within_one_model() -> None:
    low, old, young, high = (a_batch(age=age, priority=p) for age, p in ((40, 1), (30, 5), (20, 5), (10, 9)))
    a_batch("other", age=100, priority=9)
    a_batch(age=100, state=State.PROCESSING)
    a_batch(age=100, state=State.CANCELLED)
    assert [place(job).position for job in (high, old, young, low)] == [1, 2, 3, 4]


def test_a_batch_in_work_has_no_position_any_more() -> None:
    assert place(a_batch(state=State.PROCESSING)).position is None


def test_a_released_batch_waits_for_what_goes_before_it_and_a_held_one_for_its_release() -> None:
    now = clock.now()
    a_batch(total=300, completed=100, state=State.PROCESSING)
    released = a_batch(total=100, released_at=now, age=5)
    held = a_batch(total=50, age=10)
    # At 100 texts a second, the prior: 2 s of others, 1 s of its own.
    assert seconds_left(released) == pytest.approx(3 + 0, abs=0.01)
    # Its interval ends in 50 s, and by then the others are done.
    assert seconds_left(held) == pytest.approx(50.5, abs=0.2)


def test_a_huge_batch_ahead_delays_a_small_one_by_a_slice_only(settings: Any) -> None:
    a_batch(total=1_000_000, state=State.PROCESSING)
    small = a_batch(total=10, released_at=clock.now())
    assert seconds_left(small) == pytest.approx(settings.BULK_SLICE + 0.1, abs=0.05)


def test_a_postponed_batch_is_not_promised_before_its_time() -> None:
    job = a_batch(total=100, released_at=clock.now())
    job.available_at = clock.now() + timedelta(seconds=30)
    assert seconds_left(job) == pytest.approx(31, abs=0.2)


def test_the_rate_is_the_models_own_and_lately_measured() -> None:
    now = clock.now()

    def done(model: str, texts: int, took: float, **fields: Any) -> None:
        ended = {"started_at": now - timedelta(seconds=took), "finished_at": now}
        a_batch(model, total=texts, completed=texts, state=State.COMPLETED, **(ended | fields))

    done("m", 500, 10)
    done("other", 10, 10)
    # Retried: only a part of its texts ran in this time.
    done("m", 10_000, 1, submitted_at=now - timedelta(hours=1))
    long_ago = now - timedelta(days=2)
    done("m", 10_000, 1, started_at=long_ago - timedelta(seconds=1), finished_at=long_ago)
    assert estimates.rate("m", now=now) == pytest.approx(50)
    assert estimates.rate("other", now=now) == pytest.approx(1)


def test_without_a_measurement_the_prior_is_the_rate(settings: Any) -> None:
    assert estimates.rate("m", now=clock.now()) == settings.BULK_PRIOR_TEXTS_PER_SECOND
