"""The release rule: held texts go to the workers when they are enough, or when they have waited long enough.

Held are the batches that are queued and have no `released_at`. All held batches of a model are released at once, so
that small ones share upstream calls. Each function returns the ids that it, and nobody else, released: two schedulers
that run it at the same moment share them out.
"""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection
from django.db.models import Min, Sum

from batches import estimates
from batches.models import BatchJob
from integrations import snapshot
from integrations.values import Assignment

# SKIP LOCKED: a row that somebody else is just releasing or cancelling is theirs. ORDER BY gives the queue's order.
_RELEASE = """
WITH due AS (
    SELECT id FROM batches_batchjob
    WHERE {which} AND state = 'queued' AND released_at IS NULL
    ORDER BY id FOR UPDATE SKIP LOCKED
), released AS (
    UPDATE batches_batchjob SET released_at = clock_timestamp() FROM due
    WHERE batches_batchjob.id = due.id
    RETURNING batch_id, priority, queued_at, batches_batchjob.id
)
SELECT batch_id FROM released ORDER BY priority DESC, queued_at, id
"""

# What a clock may be set back by without being noticed.
STEP = timedelta(seconds=60)


def release_due(now: datetime) -> list[str]:
    """Release what is due at `now`, by size or by time; return the ids of the batches, in the order they should run."""
    held = (
        BatchJob.objects.filter(estimates.HELD)
        .values("model")
        .annotate(texts=Sum(estimates.OUTSTANDING), oldest=Min("queued_at"))
        .order_by("model")
    )
    due = [row["model"] for row in held if _is_due(row["model"], texts=row["texts"], oldest=row["oldest"], now=now)]
    return [batch_id for model in due for batch_id in release_model(model)]


def release_if_full(model: str) -> list[str]:
    """Release the model's held batches if their texts reach its batch size; return their ids."""
    held: int = BatchJob.objects.filter(estimates.HELD, model=model).aggregate(
        texts=Sum(estimates.OUTSTANDING, default=0)
    )["texts"]
    return release_model(model) if held and held >= _batch_size(model) else []


def release_model(model: str) -> list[str]:
    """Release all held batches of `model` now; return their ids."""
    return _release("model = %s", model)


def release_batch(batch_id: str) -> bool:
    """Release one batch now. False if it was not held."""
    return bool(_release("batch_id = %s", batch_id))


def _release(which: str, value: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(_RELEASE.format(which=which), [value])
        return [batch_id for (batch_id,) in cursor.fetchall()]


def _is_due(model: str, *, texts: int, oldest: datetime, now: datetime) -> bool:
    if texts >= _batch_size(model) or oldest + timedelta(seconds=_interval(model)) <= now:
        return True
    # Submitted in the future: the clock has stepped back, and must not hold them for as long as the step.
    return oldest > now + STEP


def _batch_size(model: str) -> int:
    assignment = queue_assignment(model)
    return assignment.batch_size if assignment else settings.BULK_BATCH_SIZE


def _interval(model: str) -> float:
    assignment = queue_assignment(model)
    return assignment.processing_interval if assignment else settings.BULK_PROCESSING_INTERVAL


def queue_assignment(model: str) -> Assignment | None:
    """Return what rules the model's queue; None when it was removed or made live-only after its batches came."""
    configured = snapshot.current().models.get(model)
    return configured.queue_assignment if configured else None
