"""When a batch will be done, and how many go before it.

Both are estimates from a few indexed rows. The rate is measured: texts with an outcome over the time in which the model
had a batch in work; a prior (BULK_PRIOR_TEXTS_PER_SECOND) stands in while nothing has been measured.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db.models import Count, F, Min, Q, Sum, Value
from django.db.models.functions import Least

from batches import measured
from batches.models import BatchJob
from integrations.values import Assignment

# The last batches speak for the model as it is now; more of them cost more to read and say less.
MEASURED_BATCHES: Final = 20
MEASURED_WITHIN: Final = timedelta(days=1)

OUTSTANDING: Final = F("total") - F("completed") - F("failed")
HELD: Final = Q(state=BatchJob.State.QUEUED, released_at__isnull=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a batch stands: `position` counts from 1 among those waiting for its model; None once it is in work."""

    position: int | None
    estimated_completion: datetime


def place(job: BatchJob, *, assignment: Assignment | None, now: datetime) -> Place:
    """Return where `job`, which must be active, stands at `now`.

    `assignment` rules the model's queue and says when held texts are released; None: the settings' defaults.
    """
    speed = rate(job.model, now=now)
    ahead = _ahead(job)
    # A worker leaves a batch after one slice and puts it behind the others: one that goes before this one delays it by
    # all its texts, or by a slice for each slice of this one, whichever is less.
    turns = _whole_slices(job.outstanding, speed)
    share = Least(OUTSTANDING, Value(turns))
    totals = BatchJob.objects.filter(model=job.model, state__in=BatchJob.ACTIVE).aggregate(
        position=Count("pk", filter=ahead & Q(state=BatchJob.State.QUEUED)),
        running=Sum(share, filter=ahead & ~HELD, default=0),
        held_ahead=Sum(share, filter=ahead & HELD, default=0),
        held=Sum(OUTSTANDING, filter=HELD & ~Q(pk=job.pk), default=0),
        oldest=Min("queued_at", filter=HELD),
    )
    waiting = job.state == BatchJob.State.QUEUED
    start = now + timedelta(seconds=totals["running"] / speed)
    if waiting and job.released_at is None:
        held = totals["held"] + job.outstanding
        release = release_time(assignment, held=held, oldest=totals["oldest"] or job.queued_at, now=now)
        start = max(start, release) + timedelta(seconds=totals["held_ahead"] / speed)
    return Place(
        position=totals["position"] + 1 if waiting else None,
        estimated_completion=max(start, job.available_at) + timedelta(seconds=job.outstanding / speed),
    )


def release_time(assignment: Assignment | None, *, held: int, oldest: datetime, now: datetime) -> datetime:
    """Return when a model's held texts, of which the oldest came at `oldest`, are released."""
    size = assignment.batch_size if assignment else settings.BULK_BATCH_SIZE
    interval = assignment.processing_interval if assignment else settings.BULK_PROCESSING_INTERVAL
    return now if held >= size else max(now, oldest + timedelta(seconds=interval))


def rate(model: str, *, now: datetime) -> float:
    """Return the texts a second that the queue lately did for `model`; never 0."""
    lately = measured.texts_per_second(since=now - MEASURED_WITHIN, now=now, most=MEASURED_BATCHES, model=model)
    return lately if lately else settings.BULK_PRIOR_TEXTS_PER_SECOND


def _ahead(job: BatchJob) -> Q:
    """The batches of the same model that are in work, or go first: BatchJob.QUEUE_ORDER."""
    running = Q(state=BatchJob.State.PROCESSING) & ~Q(pk=job.pk)
    if job.state != BatchJob.State.QUEUED:
        return running
    later = Q(queued_at=job.queued_at, pk__lt=job.pk) | Q(queued_at__lt=job.queued_at)
    first = Q(priority__gt=job.priority) | (Q(priority=job.priority) & later)
    return running | (Q(state=BatchJob.State.QUEUED) & first)


def _whole_slices(texts: int, speed: float) -> int:
    per_slice = max(1, int(speed * settings.BULK_SLICE))
    return math.ceil(texts / per_slice) * per_slice
