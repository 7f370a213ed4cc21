"""How many batches are in which state, and how fast they go: for the status pages, each figure of a stated window."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Count, F, Min, Q, Sum

from batches import clock, estimates, measured
from batches.models import BatchJob

# Batches whose times are read for the throughput and the error of the promises: the last ones within the window.
MEASURED_BATCHES: Final = 300

WITH_OUTCOME: Final = Q(state__in=(BatchJob.State.COMPLETED, BatchJob.State.FAILED))
STARTED: Final = Q(started_at__isnull=False)
PROCESSING_TIME: Final = F("finished_at") - F("started_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """One model's batches: queued and processing now, the others as they ended within the window."""

    queued: int = 0
    processing: int = 0
    waiting_texts: int = 0  # without an outcome yet, of both
    oldest_queued_at: datetime | None = None
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    # Texts of the batches that ended completed or failed: with a vector, and without.
    completed_texts: int = 0
    failed_texts: int = 0
    # How many of those were begun by a worker, and the time from the first claim to the end of all these.
    timed: int = 0
    took: timedelta = timedelta(0)

    @property
    def avg_processing_ms(self) -> float | None:
        """Mean time from the first claim to the end; None without any."""
        return self.took.total_seconds() * 1000 / self.timed if self.timed else None


def counts_by_model(window: timedelta, *, now: datetime | None = None) -> Mapping[str, BatchCounts]:
    """Return the counts of each model that has a batch now, or had one that ended within `window` before `now`."""
    active = _by_model(_active())
    ended = _by_model(_ended((now or clock.now()) - window))
    models = sorted({*active, *ended})
    return {model: BatchCounts(**active.get(model, {}), **ended.get(model, {})) for model in models}


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


def _by_model(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["model"]: {name: value for name, value in row.items() if name != "model"} for row in rows}


def _active() -> Iterable[Mapping[str, Any]]:
    queued = Q(state=BatchJob.State.QUEUED)
    active = BatchJob.objects.filter(state__in=BatchJob.ACTIVE).values("model")
    return active.annotate(
        queued=Count("pk", filter=queued),
        processing=Count("pk", filter=Q(state=BatchJob.State.PROCESSING)),
        waiting_texts=Sum(estimates.OUTSTANDING),
        oldest_queued_at=Min("queued_at", filter=queued),
    )


def _ended(since: datetime) -> Iterable[Mapping[str, Any]]:
    state = BatchJob.State
    ended = BatchJob.objects.filter(finished_at__gt=since).values("model")
    rows = ended.annotate(
        n_completed=Count("pk", filter=Q(state=state.COMPLETED)),
        n_failed=Count("pk", filter=Q(state=state.FAILED)),
        cancelled=Count("pk", filter=Q(state=state.CANCELLED)),
        expired=Count("pk", filter=Q(state=state.EXPIRED)),
        completed_texts=Sum("completed", filter=WITH_OUTCOME, default=0),
        failed_texts=Sum("failed", filter=WITH_OUTCOME, default=0),
        timed=Count("pk", filter=WITH_OUTCOME & STARTED),
        took=Sum(PROCESSING_TIME, filter=WITH_OUTCOME & STARTED, default=timedelta(0)),
    )
    # Until here "completed" and "failed" are columns, which count texts.
    return [{"completed": row.pop("n_completed"), "failed": row.pop("n_failed"), **row} for row in map(dict, rows)]
