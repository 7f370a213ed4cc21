"""The bound on a model's waiting texts: backpressure, so that a queue cannot grow without end."""

from django.db.models import Sum

from batches import clock, estimates, locks
from batches.models import BatchJob
from integrations.errors import QueueFull

LONGEST_RETRY_AFTER = 300.0


def waiting_texts(model: str) -> int:
    """Return the texts of the model's active batches that have no outcome yet."""
    active = BatchJob.objects.filter(model=model, state__in=BatchJob.ACTIVE)
    texts: int = active.aggregate(texts=Sum(estimates.OUTSTANDING, default=0))["texts"]
    return texts


def check_room(model: str, *, limit: int, adding: int = 0) -> None:
    """Do nothing if `adding` more texts fit. Raises QueueFull.

    Without the lock this is a quick look that spares the work of storing what cannot stay.
    """
    over = waiting_texts(model) + adding - limit
    if over <= 0:
        return
    speed = estimates.rate(model, now=clock.now())
    raise QueueFull(
        f"{model} has as many waiting texts as it may ({limit}); nothing was stored.",
        retry_after=min(max(1.0, over / speed), LONGEST_RETRY_AFTER),
    )


def confirm_room(model: str, *, limit: int) -> None:
    """Hold the model's lock until the transaction ends, and see that what it has stored fits. Raises QueueFull.

    Everything else of the transaction comes before: whoever submits to the same model waits here for its commit.
    """
    locks.hold("waiting texts", model)
    check_room(model, limit=limit)
