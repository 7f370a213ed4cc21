"""How many batches are in which state, and how fast they go: for the status pages, each figure of a stated window."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Count, Min, Q, Sum

from batches import clock, ended, estimates, measured
from batches.ended import Ended
from batches.models import BatchJob

# Batches whose times are read for the throughput and the error of the promises: the last ones within the window. Each
# hundred more would take 0.2 ms of a queue status of 4.
MEASURED_BATCHES: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Active:
    """One model's batches that have not ended."""

    queued: int = 0
    held: int = 0  # of these
    processing: int = 0
    waiting_texts: int = 0  # without an outcome yet
    oldest_queued_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts(Ended):
    """One model's batches: queued and processing now, the others as they ended within the window."""

    queued: int = 0
    processing: int = 0
    waiting_texts: int = 0  # without an outcome yet, of both
    oldest_queued_at: datetime | None = None

    @property
    def avg_processing_ms(self) -> float | None:
        """Mean time from the first claim to the end; None without any."""
        return self.took.total_seconds() * 1000 / self.timed if self.timed else None


def counts_by_model(window: timedelta, *, now: datetime | None = None) -> Mapping[str, BatchCounts]:
    """Return the counts of each model that has a batch now, or had one that ended within `window` before `now`."""
    now = now or clock.now()
    ends = ended.by_model(now - window, now=now)
    active = active_by_model()
    return {model: _counts(ends.get(model, Ended()), active.get(model, Active())) for model in sorted({*active, *ends})}


def active_by_model() -> Mapping[str, Active]:
    """Return what each model has now, if it has a batch."""
    queued = Q(state=BatchJob.State.QUEUED)
    rows = (
        BatchJob.objects.filter(state__in=BatchJob.ACTIVE)
        .values_list("model")
        .annotate(
            queued=Count("pk", filter=queued),
            held=Count("pk", filter=queued & Q(released_at__isnull=True)),
            processing=Count("pk", filter=Q(state=BatchJob.State.PROCESSING)),
            waiting_texts=Sum(estimates.OUTSTANDING),
            oldest_queued_at=Min("queued_at", filter=queued),
        )
    )
    names = [found.name for found in fields(Active)]
    return {model: Active(**dict(zip(names, values, strict=True))) for model, *values in rows}


def _counts(ends: Ended, active: Active) -> BatchCounts:
    return BatchCounts(
        **asdict(ends),
        queued=active.queued,
        processing=active.processing,
        waiting_texts=active.waiting_texts,
        oldest_queued_at=active.oldest_queued_at,
    )


def success_rate(counts: Collection[BatchCounts]) -> float | None:
    """Return the percentage of texts that got a vector, of all that got an outcome; None without any."""
    completed = sum(c.completed_texts for c in counts)
    total = completed + sum(c.failed_texts for c in counts)
    return round(100 * completed / total, 1) if total else None


def avg_processing_seconds(counts: Collection[BatchCounts]) -> float | None:
    """Return the mean time from the first claim to the end of the batches with outcomes; None without any."""
    timed = sum(c.timed for c in counts)
    return sum(c.took.total_seconds() for c in counts) / timed if timed else None


def texts_per_minute(window: timedelta, *, now: datetime) -> float | None:
    """Return how fast the last batches within `window` and those in work go, while there is one; None without any."""
    per_second = measured.texts_per_second(since=now - window, now=now, most=MEASURED_BATCHES)
    return per_second * 60 if per_second is not None else None


def estimate_error_median(window: timedelta, *, now: datetime) -> float | None:
    """Return by how many seconds the last batches that were completed within `window` missed what was promised."""
    return measured.estimate_error(since=now - window, most=MEASURED_BATCHES)
