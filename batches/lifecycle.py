"""What changes a batch from outside its workers: cancel, retry, priority, expiry, purge.

Each takes the batch's row first and then its chunks (see batches.models), and each change of state is one that
BatchJob.TRANSITIONS allows. A worker that holds a chunk meanwhile loses its lease: its result is refused.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q

from batches import bounds, clock, ended, estimates, queues, releasing
from batches.models import BatchChunk, BatchJob, FileBatch
from integrations import snapshot
from integrations.errors import BatchNotCancellable, BatchNotFound, BatchNotRetryable, InvalidRequest
from integrations.models import AuditEntry

# A chunk's row drags up to megabytes of texts and vectors: so many are deleted in one transaction.
PURGE_SLICE: Final = 200
RETRYABLE: Final = (BatchJob.State.COMPLETED, BatchJob.State.FAILED, BatchJob.State.EXPIRED)
UNFINISHED: Final = (BatchChunk.State.WAITING, BatchChunk.State.CLAIMED)

log = logging.getLogger(__name__)

# Back to waiting: the chunks with errors and those that were dropped. Pending is then what had no outcome, and what
# failed; null (everything) stays null.
_REVIVE = """
UPDATE batches_batchchunk AS chunk SET
    pending = CASE WHEN state = 'dropped' AND pending IS NULL THEN NULL ELSE ARRAY(
        SELECT unnest(CASE WHEN state = 'dropped' THEN pending ELSE '{}'::int[] END)
        UNION SELECT jsonb_object_keys(errors)::int
        ORDER BY 1
    ) END,
    errors = '{}', state = 'waiting', attempts = 0, available_at = %(now)s, finished_at = NULL,
    lease_token = NULL, lease_owner = '', lease_until = NULL
WHERE batch_id = %(batch)s AND (state = 'dropped' OR (state = 'done' AND errors <> '{}'))
"""


def cancel(batch_id: str, *, actor: str = "") -> BatchJob:
    """End an active batch; what is finished stays readable. Raises BatchNotFound or BatchNotCancellable."""
    with _locked(batch_id) as job:
        if job.state not in BatchJob.ACTIVE:
            raise BatchNotCancellable(f"{batch_id} is {job.state} already.")
        _audit(job, "cancel_batch", actor=actor, after={"state": BatchJob.State.CANCELLED})
        _end(job, BatchJob.State.CANCELLED)
    return job


def retry(batch_id: str, *, actor: str = "", expires_at: datetime | None = None) -> BatchJob:
    """Put the texts of an ended batch that have no vector back into the queue, released at once.

    expires_at: when its time is over, for the batch of a file; else that is after BULK_EXPIRY.
    Raises BatchNotFound, BatchNotRetryable, and QueueFull when they do not fit under the model's bound.
    """
    with _locked(batch_id) as job:
        if job.file_batch_id is not None and expires_at is None:
            raise BatchNotRetryable(f"{batch_id} has lines of a file: retry the batch of that file.")
        _refuse_retry(job)
        _audit(job, "retry_batch", actor=actor, after={"state": BatchJob.State.QUEUED})
        ended.take_out(job)
        now = clock.now()
        with connection.cursor() as cursor:
            cursor.execute(_REVIVE, {"now": now, "batch": job.pk})
        _move(
            job,
            BatchJob.State.QUEUED,
            failed=0,
            queued_at=now,
            released_at=now,
            available_at=now,
            started_at=None,
            finished_at=None,
            callback_for=None,
            expires_at=expires_at or now + timedelta(seconds=settings.BULK_EXPIRY),
        )
        assignment = releasing.queue_assignment(job.model)
        job.estimated_completion = estimates.place(job, assignment=assignment, now=now).estimated_completion
        job.save(update_fields=["estimated_completion"])
        bounds.confirm_room(job.model, limit=_limit(job.model))
        transaction.on_commit(lambda: queues.enqueue(batch_id), robust=True)  # not a partial: see submission
    return job


def set_priority(batch_id: str, priority: int, *, actor: str = "") -> BatchJob:
    """Let an active batch go before (9) or after (0) the others. Raises BatchNotFound or BatchNotCancellable."""
    if not 0 <= priority <= 9:
        raise InvalidRequest(errors={"priority": ["Must be a whole number from 0 to 9."]})
    with _locked(batch_id) as job:
        if job.state not in BatchJob.ACTIVE:
            raise BatchNotCancellable(f"{batch_id} is {job.state} already.")
        _audit(job, "set_batch_priority", actor=actor, after={"priority": priority})
        job.priority = priority
        job.save(update_fields=["priority"])
    return job


def purge(batch_id: str, *, actor: str = "") -> BatchJob:
    """Delete a batch's texts and vectors; an active one is cancelled first. The record stays. Raises BatchNotFound.

    From the first commit on nothing is shown any more; the rows go in slices, and what is left when the process dies
    `purge_due` deletes.
    """
    with _locked(batch_id) as job:
        if job.purged_at is None:
            _audit(job, "purge_batch", actor=actor, after={"purged": True})
            if job.state in BatchJob.ACTIVE:
                _end(job, BatchJob.State.CANCELLED)
            job.purged_at = clock.now()
            job.save(update_fields=["purged_at"])
    while _delete_slice(job):
        pass
    return job


def expire_due(now: datetime, *, limit: int = 100) -> list[str]:
    """End at most `limit` active batches whose time is over at `now`; return their ids."""
    due = BatchJob.objects.filter(state__in=BatchJob.ACTIVE, expires_at__lte=now).order_by("expires_at")
    return [batch_id for batch_id in due.values_list("batch_id", flat=True)[:limit] if _expire(batch_id, now)]


def purge_due(now: datetime, *, limit: int = 10) -> int:
    """Delete up to `limit` slices of the texts and vectors that are due at `now`; return the number of chunks deleted.

    Due are those whose batch ended RESULT_RETENTION ago, or whose purge was begun. Call again while it is not 0.
    """
    deleted = 0
    for _ in range(limit):
        job = _next_purge(now)
        if job is None:
            break
        if job.purged_at is None:
            # Compare-and-set: a retry in this moment makes the batch active again and keeps its texts.
            unchanged = BatchJob.objects.filter(pk=job.pk, finished_at=job.finished_at, purged_at=None)
            if not unchanged.update(purged_at=now):
                continue
        deleted += _delete_slice(job)
    return deleted


def _next_purge(now: datetime) -> BatchJob | None:
    stored = BatchJob.objects.filter(stored=True)
    begun = stored.filter(purged_at__isnull=False).order_by("purged_at").first()
    before = now - timedelta(seconds=settings.RESULT_RETENTION)
    # Whoever waits for the other lines of the same file still needs these.
    free = Q(file_batch=None) | ~Q(file_batch__state__in=FileBatch.ACTIVE)
    return begun or stored.filter(free, finished_at__lte=before).order_by("finished_at").first()


def _delete_slice(job: BatchJob) -> int:
    """Delete some of the chunks of a purged batch; 0 when none is left, which the batch's row then says."""
    ids = list(BatchChunk.objects.filter(batch=job).order_by("first").values_list("pk", flat=True)[:PURGE_SLICE])
    if not ids:
        job.stored = False
        BatchJob.objects.filter(pk=job.pk).update(stored=False)
    BatchChunk.objects.filter(pk__in=ids).delete()
    return len(ids)


def _expire(batch_id: str, now: datetime) -> bool:
    with _locked(batch_id) as job:
        # Looked at again under the lock: it may have ended, or been retried, since.
        due = job.state in BatchJob.ACTIVE and job.expires_at <= now
        if due:
            _end(job, BatchJob.State.EXPIRED)
    return due


def retryable(job: BatchJob) -> bool:
    """Whether `retry` would find something to do."""
    try:
        _refuse_retry(job)
    except BatchNotRetryable:
        return False
    return True


def _refuse_retry(job: BatchJob) -> None:
    if job.state not in RETRYABLE:
        raise BatchNotRetryable(f"{job.batch_id} is {job.state}.")
    if job.purged_at is not None:
        raise BatchNotRetryable(f"The texts of {job.batch_id} are deleted.")
    if job.completed == job.total:
        raise BatchNotRetryable(f"Every text of {job.batch_id} has its vector.")


def _limit(model: str) -> int:
    configured = snapshot.current().models.get(model)
    return configured.max_waiting_texts if configured else settings.MAX_WAITING_TEXTS


def _end(job: BatchJob, state: BatchJob.State) -> None:
    """Make an active batch end before its chunks are done; job's row must be locked."""
    _move(job, state, finished_at=clock.now())
    BatchChunk.objects.filter(batch=job, state__in=UNFINISHED).update(
        state=BatchChunk.State.DROPPED, lease_token=None, lease_owner="", lease_until=None
    )


def _move(job: BatchJob, state: BatchJob.State, **fields: Any) -> None:
    """Change the state as TRANSITIONS allows, and `fields` with it, in one UPDATE that names the old state."""
    if state not in BatchJob.TRANSITIONS[job.state]:
        raise ValueError(f"a batch that is {job.state} cannot become {state}")
    if not BatchJob.objects.filter(pk=job.pk, state=job.state).update(state=state, **fields):
        raise RuntimeError(f"{job.batch_id} changed under its lock")
    log.info("batch %s: %s -> %s", job.batch_id, job.state, state)
    for name, value in {"state": state, **fields}.items():
        setattr(job, name, value)


@contextmanager
def _locked(batch_id: str) -> Iterator[BatchJob]:
    """A transaction that holds the batch's row."""
    with transaction.atomic():
        job = BatchJob.objects.select_for_update().filter(batch_id=batch_id).first()
        if job is None:
            raise BatchNotFound
        yield job


def _audit(job: BatchJob, action: str, *, actor: str, after: dict[str, Any]) -> None:
    """Leave the operator's trail; a client's own act needs none."""
    if actor:
        before = {"state": job.state, "priority": job.priority}
        AuditEntry.objects.create(
            actor=actor, action=action, model=job.model, target=job.batch_id, before=before, after=after
        )
