"""When held batches are handed to the workers."""

from functools import partial
from threading import Event, Thread

import pytest
from django.db import connection, transaction

from batches import clock, releasing
from batches.models import BatchJob
from tests.made_batches import State, a_batch, at_once, configure

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def models(db: None) -> None:
    configure("m", batch_size=10, processing_interval=60)
    configure("other", pattern="hybrid", batch_size=10, processing_interval=60)


def held() -> set[str]:
    return set(BatchJob.objects.filter(released_at=None).values_list("batch_id", flat=True))


def test_few_young_texts_are_held() -> None:
    a_batch(total=4, age=59)
    a_batch(total=5, age=1)
    assert releasing.release_due(clock.now()) == []
    assert releasing.release_if_full("m") == []
    assert len(held()) == 2


def test_a_models_texts_are_released_together_once_they_reach_its_batch_size() -> None:
    first, second = a_batch(total=4), a_batch(total=6)
    third = a_batch("other", total=9)
    assert releasing.release_due(clock.now()) == [first.batch_id, second.batch_id]
    assert held() == {third.batch_id}


def test_the_oldest_text_that_has_waited_its_interval_takes_the_younger_ones_along() -> None:
    old, young = a_batch(total=1, age=61), a_batch(total=1)
    kept = a_batch("other", total=1, age=59)
    assert releasing.release_due(clock.now()) == [old.batch_id, young.batch_id]
    assert held() == {kept.batch_id}


def test_the_ids_come_in_the_order_of_the_queue() -> None:
    low, normal, late, high = (a_batch(total=5, age=age, priority=p) for age, p in ((9, 1), (8, 5), (7, 5), (6, 9)))
    assert releasing.release_if_full("m") == [high.batch_id, normal.batch_id, late.batch_id, low.batch_id]


def test_what_is_released_already_or_ended_is_neither_counted_nor_released_again() -> None:
    a_batch(total=9, released_at=clock.now())
    a_batch(total=9, age=100, state=State.CANCELLED)
    a_batch(total=9, age=100, state=State.PROCESSING, released_at=clock.now())
    waiting = a_batch(total=1)
    assert releasing.release_due(clock.now()) == []
    assert releasing.release_model("m") == [waiting.batch_id]
    assert releasing.release_model("m") == []


def test_one_batch_can_be_released_by_itself() -> None:
    job, other = a_batch(), a_batch()
    assert releasing.release_batch(job.batch_id)
    assert not releasing.release_batch(job.batch_id)
    assert held() == {other.batch_id}


def test_batches_of_a_model_that_is_configured_no_more_go_by_the_defaults() -> None:
    gone = a_batch("gone", total=99, age=299)
    assert releasing.release_due(clock.now()) == []
    more = a_batch("gone", total=1)
    assert releasing.release_due(clock.now()) == [gone.batch_id, more.batch_id]


@pytest.mark.django_db(transaction=True)
def test_two_schedulers_share_out_what_they_release() -> None:
    jobs = {a_batch(total=1, age=61).batch_id for _ in range(200)}
    now = clock.now()
    found = at_once(*[partial(releasing.release_due, now)] * 4)
    assert sorted(batch_id for ids in found for batch_id in ids) == sorted(jobs)
    assert not held()


@pytest.mark.django_db(transaction=True)
def test_a_batch_that_somebody_is_just_cancelling_is_left_alone() -> None:
    cancelling, go_on = Event(), Event()
    job, other = a_batch(total=5), a_batch(total=5)

    def cancel() -> None:
        with transaction.atomic():
            BatchJob.objects.select_for_update().get(pk=job.pk)
            BatchJob.objects.filter(pk=job.pk).update(state=State.CANCELLED)
            cancelling.set()
            go_on.wait(10)
        connection.close()

    thread = Thread(target=cancel)
    thread.start()
    cancelling.wait(10)
    released = releasing.release_if_full("m")
    go_on.set()
    thread.join(10)
    assert released == [other.batch_id]
    job.refresh_from_db()
    assert (job.state, job.released_at) == (State.CANCELLED, None)
