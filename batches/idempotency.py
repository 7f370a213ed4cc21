"""Idempotency-Key: the same client's same request, sent again within IDEMPOTENCY_WINDOW, is the first batch again."""

import hashlib
from datetime import timedelta

import orjson
from django.conf import settings

from batches import clock, locks
from batches.models import BatchJob
from integrations.errors import IdempotencyConflict
from integrations.patterns import EmbedCall


class BodyDigest:
    """SHA-256 of what a request asks for, its texts given one at a time: a million of them need no memory."""

    def __init__(self, call: EmbedCall) -> None:
        request = call.request
        head = {
            "input_type": request.input_type,
            "priority": request.priority,
            "pattern": request.pattern,
            "urgent": request.urgent,
            "batch": request.batch,
            "client_metadata": dict(request.client_metadata),
            "callback_url": request.callback_url,
        }
        self._hash = hashlib.sha256(orjson.dumps(head, option=orjson.OPT_SORT_KEYS))

    def add(self, text: str) -> None:
        """Take the next text."""
        # As JSON it cannot hold a raw line break: the texts "a", "b" and the text "a\nb" differ.
        self._hash.update(b"\n" + orjson.dumps(text))

    def hex(self) -> str:
        """Return the digest of what was taken so far."""
        return self._hash.hexdigest()


def is_used(call: EmbedCall) -> bool:
    """Whether the call's key stands for a batch already, as far as can be said without its lock."""
    return _holder(call) is not None


def first_batch(call: EmbedCall, digest: str) -> BatchJob | None:
    """Return the batch that the call's key stands for; None if there is none, and then the key is the caller's.

    Holds the key's lock until the transaction ends: of two requests that arrive at once, the second waits here and
    then finds the first's batch. A batch older than the window gives its key up. Raises IdempotencyConflict when the
    key came with another model or another body.
    """
    if not call.idempotency_key:
        return None
    locks.hold("idempotency", call.client, call.idempotency_key)
    job = _holder(call)
    if job is None:
        BatchJob.objects.filter(client=call.client, idempotency_key=call.idempotency_key).update(idempotency_key=None)
        return None
    if job.model != call.model.slug or job.body_digest != digest:
        raise IdempotencyConflict(f"This Idempotency-Key was used with another request: that of {job.batch_id}.")
    return job


def _holder(call: EmbedCall) -> BatchJob | None:
    if not call.idempotency_key:
        return None
    since = clock.now() - timedelta(seconds=settings.IDEMPOTENCY_WINDOW)
    return BatchJob.objects.filter(
        client=call.client, idempotency_key=call.idempotency_key, submitted_at__gt=since
    ).first()
