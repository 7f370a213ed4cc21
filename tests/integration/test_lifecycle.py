"""Cancel, retry, priority, expiry and purge, and what each leaves behind."""

import uuid
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import transaction

from batches import bounds, clock, lifecycle, queues, results
from batches.models import BatchChunk, BatchJob
from integrations.errors import (
    BatchNotCancellable,
    BatchNotFound,
    BatchNotRetryable,
    Conflict,
    InvalidRequest,
    QueueFull,
)
from integrations.models import AuditEntry
from tests.made_batches import State, a_batch, a_chunk, a_vector, at_once, configure, finish

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_db")]

TEXTS = ["a", "b", "c", "d", "e", "f"]


@pytest.fixture(autouse=True)
def model(db: None) -> None:
    configure(max_waiting_texts=20)


def a_job(**fields: Any) -> BatchJob:
    """Six texts in two chunks of three, released."""
    job = a_batch(total=6, released_at=clock.now(), **fields)
    for number in range(2):
        a_chunk(job, number=number, first=3 * number, texts=TEXTS[3 * number : 3 * number + 3])
    return job


def chunks(job: BatchJob) -> list[BatchChunk]:
    return list(BatchChunk.objects.filter(batch=job).order_by("number"))


def statuses(job: BatchJob) -> list[str]:
    job.refresh_from_db()
    return [row["status"] for row in results.page(job, offset=0, limit=100).rows]


def claim(chunk: BatchChunk) -> uuid.UUID:
    token = uuid.uuid4()
    chunk.state, chunk.lease_token, chunk.lease_owner = BatchChunk.State.CLAIMED, token, "worker-1"
    chunk.lease_until = clock.now() + timedelta(seconds=10)
    chunk.save()
    return token


# --- Cancel ----------------------------------------------------------------------------------------------------------


def test_cancelling_keeps_what_is_finished_and_drops_the_rest() -> None:
    job = a_job()
    finish(chunks(job)[0])
    cancelled = lifecycle.cancel(job.batch_id)
    assert (cancelled.state, cancelled.finished_at is None) == (State.CANCELLED, False)
    assert statuses(job) == ["completed"] * 3 + ["cancelled"] * 3
    assert (job.completed, job.failed) == (3, 0)


def test_a_worker_that_comes_back_late_finds_its_lease_gone() -> None:
    job = a_job()
    token = claim(chunks(job)[0])
    lifecycle.cancel(job.batch_id)
    late = BatchChunk.objects.filter(state=BatchChunk.State.CLAIMED, lease_token=token).update(vectors=b"late")
    assert late == 0
    assert [(c.state, c.lease_token, c.lease_until) for c in chunks(job)] == [("dropped", None, None)] * 2


@pytest.mark.parametrize("state", BatchJob.ENDED)
def test_an_ended_batch_cannot_be_cancelled(state: str) -> None:
    job = a_job(state=state)
    with pytest.raises(BatchNotCancellable):
        lifecycle.cancel(job.batch_id)
    job.refresh_from_db()
    assert job.state == state


@pytest.mark.django_db(transaction=True)
def test_of_several_cancels_at_one_moment_one_succeeds() -> None:
    job = a_job()
    found = at_once(*[partial(lifecycle.cancel, job.batch_id)] * 4)
    assert Counter(type(one) for one in found) == {BatchJob: 1, BatchNotCancellable: 3}


def test_what_does_not_exist_is_not_found() -> None:
    for act in (lifecycle.cancel, lifecycle.retry, lifecycle.purge):
        with pytest.raises(BatchNotFound):
            act("batch_m_1")


# --- Retry -----------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_retry_runs_only_the_texts_that_failed_and_keeps_the_vectors() -> None:
    job = a_job(age=100)
    first, second = chunks(job)
    finish(first, failed=[2, 0])
    finish(second)
    before = BatchJob.objects.get(pk=job.pk)
    lifecycle.retry(job.batch_id)
    job.refresh_from_db()
    assert (job.state, job.completed, job.failed, job.outstanding) == (State.QUEUED, 4, 0, 2)
    assert job.released_at == job.queued_at == job.available_at > before.queued_at == job.submitted_at
    assert job.expires_at > before.expires_at
    assert (job.started_at, job.finished_at) == (None, None)
    waiting, untouched = chunks(job)
    assert (waiting.state, waiting.pending, waiting.errors, waiting.attempts) == ("waiting", [0, 2], {}, 0)
    assert untouched.state == "done"
    assert statuses(job) == ["pending", "completed", "pending", "completed", "completed", "completed"]
    assert queues.listed() == {job.batch_id}
    finish(waiting, failed=[2])
    assert statuses(job) == ["completed", "completed", "failed", "completed", "completed", "completed"]
    assert (job.state, job.completed, job.failed) == (State.COMPLETED, 5, 1)
    rows = results.page(job, offset=0, limit=2).rows
    assert [row["embedding"].tolist() for row in rows] == [pytest.approx(a_vector(text)) for text in "ab"]


def test_an_expired_batch_takes_up_what_it_had_not_begun_and_what_it_had_failed() -> None:
    job = a_job(expires_at=clock.now())
    finish(chunks(job)[0], failed=[1])
    assert lifecycle.expire_due(clock.now()) == [job.batch_id]
    assert statuses(job) == ["completed", "failed", "completed"] + ["expired"] * 3
    lifecycle.retry(job.batch_id)
    assert [(c.state, c.pending) for c in chunks(job)] == [("waiting", [1]), ("waiting", None)]
    for chunk in chunks(job):
        finish(chunk)
    assert statuses(job) == ["completed"] * 6
    assert (job.state, job.completed, job.failed) == (State.COMPLETED, 6, 0)


def test_a_chunk_dropped_in_its_second_run_is_pending_only_where_it_was() -> None:
    job = a_job()
    for chunk in chunks(job):
        finish(chunk, failed=[0, 1])
    lifecycle.retry(job.batch_id)
    # Half-way through: one of the two pending texts has failed again when the batch's time is over.
    chunk = chunks(job)[0]
    BatchChunk.objects.filter(pk=chunk.pk).update(pending=[1], errors={"0": {"code": "x", "detail": "y"}})
    BatchJob.objects.filter(pk=job.pk).update(failed=1, expires_at=clock.now())
    lifecycle.expire_due(clock.now())
    lifecycle.retry(job.batch_id)
    assert [(c.state, c.pending, c.errors) for c in chunks(job)] == [("waiting", [0, 1], {}), ("waiting", [0, 1], {})]
    job.refresh_from_db()
    assert (job.completed, job.failed, job.outstanding) == (2, 0, 4)


def test_a_failed_batch_can_be_retried_whole() -> None:
    job = a_job()
    for chunk in chunks(job):
        finish(chunk, failed=[0, 1, 2])
    assert statuses(job) == ["failed"] * 6
    assert job.state == State.FAILED
    lifecycle.retry(job.batch_id)
    assert [c.pending for c in chunks(job)] == [[0, 1, 2]] * 2


def test_there_is_nothing_to_retry_in_a_whole_or_active_or_cancelled_or_purged_batch() -> None:
    whole, active, cancelled, purged = a_job(), a_job(), a_job(), a_job()
    for chunk in chunks(whole):
        finish(chunk)
    lifecycle.cancel(cancelled.batch_id)
    for chunk in chunks(purged):
        finish(chunk, failed=[0])
    lifecycle.purge(purged.batch_id)
    for job in (whole, active, cancelled, purged):
        with pytest.raises(BatchNotRetryable):
            lifecycle.retry(job.batch_id)


def test_a_retry_that_does_not_fit_the_queue_changes_nothing() -> None:
    job = a_job()
    for chunk in chunks(job):
        finish(chunk, failed=[0])
    a_batch(total=19)
    with pytest.raises(QueueFull):
        lifecycle.retry(job.batch_id)
    assert statuses(job)[0] == "failed"
    assert (job.state, bounds.waiting_texts("m"), queues.listed()) == (State.COMPLETED, 19, frozenset())


@pytest.mark.django_db(transaction=True)
def test_a_cancel_and_a_worker_that_stores_do_not_deadlock() -> None:
    """Both take the batch's row first."""

    def store(job: BatchJob, chunk: BatchChunk) -> None:
        with transaction.atomic():
            BatchJob.objects.select_for_update().get(pk=job.pk)
            BatchChunk.objects.filter(pk=chunk.pk, state="claimed").update(state="done", finished_at=clock.now())

    for _ in range(5):
        job = a_job()
        for chunk in chunks(job):
            claim(chunk)
        calls = [partial(store, job, chunk) for chunk in chunks(job)]
        found = at_once(*calls, partial(lifecycle.cancel, job.batch_id))
        assert not [one for one in found if isinstance(one, Exception)]
        assert {c.state for c in chunks(job)} <= {"done", "dropped"}


# --- Priority --------------------------------------------------------------------------------------------------------


def test_an_operator_moves_a_batch_and_leaves_a_trail() -> None:
    job = a_job()
    lifecycle.set_priority(job.batch_id, 9, actor="ada")
    lifecycle.cancel(job.batch_id, actor="ada")
    job.refresh_from_db()
    assert (job.priority, job.state) == (9, State.CANCELLED)
    entries = AuditEntry.objects.order_by("id").values_list("actor", "action", "target")
    assert list(entries) == [("ada", "set_batch_priority", job.batch_id), ("ada", "cancel_batch", job.batch_id)]


def test_a_priority_out_of_range_or_of_an_ended_batch_is_refused() -> None:
    job = a_job(state=State.COMPLETED)
    with pytest.raises(InvalidRequest):
        lifecycle.set_priority(job.batch_id, 10)
    with pytest.raises(Conflict):
        lifecycle.set_priority(job.batch_id, 9)


def test_a_clients_own_act_leaves_no_operators_trail() -> None:
    lifecycle.cancel(a_job().batch_id)
    assert not AuditEntry.objects.exists()


# --- Expiry and purge ------------------------------------------------------------------------------------------------


def test_only_active_batches_whose_time_is_over_expire_and_only_so_many_at_once() -> None:
    now = clock.now()
    due = [a_job(expires_at=now - timedelta(seconds=9 - i)).batch_id for i in range(3)]
    a_job(expires_at=now + timedelta(seconds=9))
    a_job(expires_at=now - timedelta(seconds=9), state=State.COMPLETED)
    assert lifecycle.expire_due(now, limit=2) == due[:2]
    assert lifecycle.expire_due(now, limit=2) == due[2:]
    assert lifecycle.expire_due(now) == []


def test_a_purge_deletes_texts_and_vectors_and_keeps_the_record() -> None:
    job, other = a_job(), a_job()
    for chunk in chunks(job):
        finish(chunk)
    lifecycle.purge(job.batch_id)
    assert statuses(job) == ["purged"] * 6
    assert (job.state, job.completed, job.stored, job.purged_at is None) == (State.COMPLETED, 6, False, False)
    assert (chunks(job), len(chunks(other))) == ([], 2)
    assert lifecycle.purge(job.batch_id).purged_at == job.purged_at


def test_an_active_batch_is_cancelled_by_its_purge() -> None:
    job = a_job()
    lifecycle.purge(job.batch_id)
    job.refresh_from_db()
    assert (job.state, chunks(job)) == (State.CANCELLED, [])


def test_retention_deletes_in_slices_what_ended_long_ago(settings: Any) -> None:
    now = clock.now()
    keep = timedelta(seconds=settings.RESULT_RETENTION)
    old = a_batch(total=450, state=State.COMPLETED, finished_at=now - keep)
    for number in range(450):
        a_chunk(old, number=number, first=number, texts=["t"])
    recent = a_job(state=State.COMPLETED, finished_at=now - keep + timedelta(seconds=9))
    active = a_job()
    assert lifecycle.purge_due(now, limit=1) == lifecycle.PURGE_SLICE
    old.refresh_from_db()
    assert (old.stored, old.purged_at) == (True, now)
    assert lifecycle.purge_due(now) == 250
    assert lifecycle.purge_due(now) == 0
    old.refresh_from_db()
    assert (old.stored, old.state) == (False, State.COMPLETED)
    assert (len(chunks(recent)), len(chunks(active))) == (2, 2)


def test_a_purge_that_died_half_way_is_finished_by_the_next_tick() -> None:
    job = a_job(state=State.COMPLETED, finished_at=clock.now(), purged_at=clock.now())
    assert statuses(job) == ["purged"] * 6
    assert lifecycle.purge_due(clock.now()) == 2
    job.refresh_from_db()
    assert (job.stored, chunks(job)) == (False, [])
