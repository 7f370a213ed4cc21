"""How many batches are in which state, and how fast they go: for the status pages, each figure of a stated window."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.db.models import Avg, Count, F, Min, Q, Sum

from batches import clock, estimates
from batches.models import BatchJob

# Batches whose times are read for the throughput: the last ones within the window.
MEASURED_BATCHES: Final = 300

WITH_OUTCOME: Final = Q(state__in=(BatchJob.State.COMPLETED, BatchJob.State.FAILED))
PROCESSING_TIME: Final = F("finished_at") - F("started_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """One model's batches: queued and processing now, the others as they ended within the window."""

    queued: int = 0
    processing: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    # Texts of the batches that ended completed or failed: with a vector, and without.
    completed_texts: int = 0
    failed_texts: int = 0
    # Mean time from the first claim to the end, of those; None without any.
    avg_processing_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast the queue works; None where there is nothing to measure."""

    avg_processing_seconds: float | None
    texts_per_minute: float | None  # while there was a batch in work


def counts_by_model(window: timedelta) -> Mapping[str, BatchCounts]:
    """Return the counts of each model that has a batch now, or had one that ended within `window`."""
    active = {row["model"]: row for row in _active()}
    ended = {row["model"]: row for row in _ended(window)}
    return {model: _counts(active.get(model, {}), ended.get(model, {})) for model in sorted({*active, *ended})}


def success_rate(counts: Collection[BatchCounts]) -> float | None:
    """Return the percentage of texts that got a vector, of all that got an outcome; None without any."""
    completed = sum(c.completed_texts for c in counts)
    total = completed + sum(c.failed_texts for c in counts)
    return round(100 * completed / total, 1) if total else None


def speed(window: timedelta) -> Speed:
    """Return how fast the batches that ended within `window`, or are in work, went."""
    now = clock.now()
    ended = BatchJob.objects.filter(WITH_OUTCOME, finished_at__gt=now - window, started_at__isnull=False)
    average: timedelta | None = ended.aggregate(mean=Avg(PROCESSING_TIME))["mean"]
    jobs = estimates.first_runs(ended).order_by("-finished_at")[:MEASURED_BATCHES]
    active = estimates.first_runs(BatchJob.objects.filter(state=BatchJob.State.PROCESSING))[:MEASURED_BATCHES]
    per_second = estimates.texts_per_second(
        estimates.as_work([*estimates.figures(jobs), *estimates.figures(active)], now=now)
    )
    return Speed(
        avg_processing_seconds=average.total_seconds() if average is not None else None,
        texts_per_minute=per_second * 60 if per_second is not None else None,
    )


def waiting_texts_by_model() -> Mapping[str, int]:
    """Return the texts without an outcome of each model that has an active batch."""
    active = BatchJob.objects.filter(state__in=BatchJob.ACTIVE).values("model")
    return {row["model"]: row["texts"] for row in active.annotate(texts=Sum(estimates.OUTSTANDING))}


def oldest_pending_seconds() -> float | None:
    """Return how long the oldest queued batch has been waiting; None when none waits."""
    oldest = BatchJob.objects.filter(state=BatchJob.State.QUEUED).aggregate(oldest=Min("queued_at"))["oldest"]
    return max(0.0, (clock.now() - oldest).total_seconds()) if oldest else None


def _counts(active: Mapping[str, Any], ended: Mapping[str, Any]) -> BatchCounts:
    mean: timedelta | None = ended.get("mean")
    return BatchCounts(
        queued=active.get("n_queued", 0),
        processing=active.get("n_processing", 0),
        completed=ended.get("n_completed", 0),
        failed=ended.get("n_failed", 0),
        cancelled=ended.get("n_cancelled", 0),
        expired=ended.get("n_expired", 0),
        completed_texts=ended.get("texts_completed", 0),
        failed_texts=ended.get("texts_failed", 0),
        avg_processing_ms=mean.total_seconds() * 1000 if mean is not None else None,
    )


def _active() -> Iterable[Mapping[str, Any]]:
    state = BatchJob.State
    return (
        BatchJob.objects.filter(state__in=BatchJob.ACTIVE)
        .values("model")
        .annotate(
            n_queued=Count("pk", filter=Q(state=state.QUEUED)),
            n_processing=Count("pk", filter=Q(state=state.PROCESSING)),
        )
    )


def _ended(window: timedelta) -> Iterable[Mapping[str, Any]]:
    state = BatchJob.State
    return (
        BatchJob.objects.filter(finished_at__gt=clock.now() - window)
        .values("model")
        .annotate(
            n_completed=Count("pk", filter=Q(state=state.COMPLETED)),
            n_failed=Count("pk", filter=Q(state=state.FAILED)),
            n_cancelled=Count("pk", filter=Q(state=state.CANCELLED)),
            n_expired=Count("pk", filter=Q(state=state.EXPIRED)),
            texts_completed=Sum("completed", filter=WITH_OUTCOME, default=0),
            texts_failed=Sum("failed", filter=WITH_OUTCOME, default=0),
            mean=Avg(PROCESSING_TIME, filter=WITH_OUTCOME & Q(started_at__isnull=False)),
        )
    )
