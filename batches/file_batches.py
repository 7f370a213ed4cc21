"""What a client does with the batches of its files: make, cancel, retry."""

import hashlib
import logging
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import orjson
from django.conf import settings
from django.db import transaction
from django.db.models import Sum

from batches import clock, file_store, lifecycle, locks
from batches.models import BatchJob, FileBatch, StoredFile
from integrations.errors import (
    BatchNotCancellable,
    BatchNotFound,
    BatchNotRetryable,
    FileNotFound,
    IdempotencyConflict,
    InvalidRequest,
)
from integrations.models import AuditEntry

log = logging.getLogger(__name__)

LONGEST_WINDOW: Final = 86_400
_WINDOW: Final = re.compile(r"([1-9][0-9]{0,3})([hm])")
_UNITS: Final = {"h": 3600, "m": 60}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A checked POST /v1/batches."""

    client: str
    key_prefix: str
    request_id: str
    idempotency_key: str
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Mapping[str, str] | None
    output_expiry: int | None

    def digest(self) -> str:
        """Return what tells another order under the same Idempotency-Key."""
        asked = [self.input_file_id, self.endpoint, self.completion_window, self.metadata, self.output_expiry]
        return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()


def window(text: str) -> int | None:
    """Return the seconds of a completion_window ("24h", "90m"); None for one that is none or longer than 24 hours."""
    match = _WINDOW.fullmatch(text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    return seconds if 0 < seconds <= LONGEST_WINDOW else None


def make(order: Order) -> FileBatch:
    """Store a batch whose lines are read next. Raises FileNotFound, InvalidRequest, IdempotencyConflict."""
    with transaction.atomic():
        first = _first_batch(order)
        if first is not None:
            return first
        # Held against a DELETE of the file.
        visible = file_store.visible(order.client).select_for_update().filter(file_id=order.input_file_id).first()
        if visible is None:
            raise FileNotFound(f"No file of yours is called “{order.input_file_id[:64]}”.")
        if visible.purpose != StoredFile.Purpose.BATCH:
            raise InvalidRequest(errors={"input_file_id": ["Not a file that was uploaded for a batch."]})
        return _insert(order)


def _insert(order: Order) -> FileBatch:
    now, seconds = clock.now(), window(order.completion_window)
    if seconds is None:
        raise InvalidRequest(errors={"completion_window": ["Must be 24h or shorter, as 6h or 30m."]})
    return FileBatch.objects.create(
        batch_id=f"batch_{secrets.token_hex(12)}",
        client=order.client,
        key_prefix=order.key_prefix,
        request_id=order.request_id,
        idempotency_key=order.idempotency_key or None,
        body_digest=order.digest(),
        input_file_id=order.input_file_id,
        endpoint=order.endpoint,
        completion_window=order.completion_window,
        window_seconds=seconds,
        metadata=order.metadata,
        output_expiry=order.output_expiry,
        created_at=now,
        available_at=now,
        expires_at=now + timedelta(seconds=seconds),
    )


def _first_batch(order: Order) -> FileBatch | None:
    """The batch that the order's key stands for, as with queued requests (batches.idempotency)."""
    if not order.idempotency_key:
        return None
    locks.hold("file idempotency", order.client, order.idempotency_key)
    since = clock.now() - timedelta(seconds=settings.IDEMPOTENCY_WINDOW)
    holders = FileBatch.objects.filter(client=order.client, idempotency_key=order.idempotency_key)
    batch = holders.filter(created_at__gt=since).first()
    if batch is None:
        holders.update(idempotency_key=None)
    elif batch.body_digest != order.digest():
        raise IdempotencyConflict(f"This Idempotency-Key was used with another request: that of {batch.batch_id}.")
    return batch


def find(client: str, batch_id: str) -> FileBatch:
    """Return a client's batch. Raises BatchNotFound."""
    batch = FileBatch.objects.filter(client=client, batch_id=batch_id).first()
    if batch is None:
        raise BatchNotFound
    return batch


def cancel(batch_id: str, *, actor: str = "") -> FileBatch:
    """End a batch that is read or in work; what is finished is written next. Raises BatchNotFound, BatchNotCancellable.

    One that is being cancelled stays so.
    """
    with _locked(batch_id) as batch:
        if batch.state == FileBatch.State.CANCELLING:
            return batch
        if FileBatch.State.CANCELLING not in FileBatch.TRANSITIONS[batch.state]:
            raise BatchNotCancellable(f"{batch_id} is {batch.state} already.")
        _audit(batch, "cancel_batch", actor=actor, after=FileBatch.State.CANCELLING)
        for job in batch.jobs.filter(state__in=BatchJob.ACTIVE).order_by("id"):
            try:
                lifecycle.cancel(job.batch_id)
            except BatchNotCancellable:
                continue  # it has ended since
        now = clock.now()
        batch.state, batch.cancelling_at, batch.available_at = FileBatch.State.CANCELLING, now, now
        # Whoever reads its lines just now has lost it.
        batch.lease_token, batch.lease_until = None, None
        batch.save()
    return batch


def retry(batch_id: str, *, actor: str = "") -> FileBatch:
    """Queue again the texts of the lines that have failed. Raises BatchNotFound, BatchNotRetryable, QueueFull."""
    with _locked(batch_id) as batch:
        jobs = _retryable(batch)
        _audit(batch, "retry_batch", actor=actor, after=FileBatch.State.IN_PROGRESS)
        now = clock.now()
        expires_at = now + timedelta(seconds=batch.window_seconds)
        for job in jobs:
            lifecycle.retry(job.batch_id, expires_at=expires_at)
        batch.state, batch.in_progress_at = FileBatch.State.IN_PROGRESS, now
        batch.expires_at, batch.available_at = expires_at, now
        batch.finalizing_at = batch.completed_at = batch.expired_at = None
        batch.save()
    return batch


def retryable(batch: FileBatch) -> bool:
    """Whether `retry` would find something to do."""
    try:
        return bool(_retryable(batch))
    except BatchNotRetryable:
        return False


def _retryable(batch: FileBatch) -> list[BatchJob]:
    if FileBatch.State.IN_PROGRESS not in FileBatch.TRANSITIONS[batch.state] or not batch.groups:
        raise BatchNotRetryable(f"{batch.batch_id} is {batch.state}.")
    # By the model's name, then the id: each retry takes its model's lock until the commit.
    jobs = [job for job in batch.jobs.order_by("model", "id") if lifecycle.retryable(job)]
    if not jobs:
        raise BatchNotRetryable(f"No line of {batch.batch_id} can be tried again.")
    try:
        file_store.input_of(batch)
    except FileNotFound:
        raise BatchNotRetryable(f"The input file of {batch.batch_id} is deleted.") from None
    return jobs


def counts(batch: FileBatch) -> dict[str, int]:
    """Return the lines as request_counts has them.

    While the jobs are in work: their texts. Where a line holds several, as many lines as these texts are a share of
    all, rounded down; the exact count comes with the output.
    """
    completed, failed = batch.completed, batch.failed
    if batch.state in (FileBatch.State.IN_PROGRESS, FileBatch.State.FINALIZING, FileBatch.State.CANCELLING):
        found = batch.jobs.aggregate(completed=Sum("completed", default=0), failed=Sum("failed", default=0))
        completed, failed = (found[name] * batch.total // (batch.texts or 1) for name in ("completed", "failed"))
    return {"total": batch.total, "completed": completed, "failed": failed}


def expire_due(now: datetime) -> int:
    """End the batches whose window passed before their lines were read."""
    waiting = FileBatch.objects.filter(state=FileBatch.State.VALIDATING, expires_at__lte=now)
    return waiting.update(state=FileBatch.State.EXPIRED, expired_at=now, lease_token=None, lease_until=None)


@contextmanager
def _locked(batch_id: str) -> Iterator[FileBatch]:
    """A transaction that holds the batch's row."""
    with transaction.atomic():
        batch = FileBatch.objects.select_for_update().filter(batch_id=batch_id).first()
        if batch is None:
            raise BatchNotFound
        yield batch


def _audit(batch: FileBatch, action: str, *, actor: str, after: str) -> None:
    """Leave the operator's trail; a client's own act needs none."""
    if actor:
        before = {"state": batch.state}
        AuditEntry.objects.create(
            actor=actor, action=action, target=batch.batch_id, before=before, after={"state": after}
        )
