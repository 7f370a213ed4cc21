"""The documents of the batch addresses, as plain values for the renderer."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from rest_framework.request import Request

from batches import callbacks, clock, counts, estimates, releasing
from batches.counts import BatchCounts
from batches.models import BatchJob
from integrations import snapshot

Document = dict[str, Any]

_NONE: Final = BatchCounts()


def summary(job: BatchJob) -> Document:
    """Return the batch as the list shows it."""
    return {
        "batch_id": job.batch_id,
        "status": job.state,
        "model": job.model,
        "pattern": job.pattern,
        "priority": job.priority,
        "counts": {"total": job.total, "completed": job.completed, "failed": job.failed},
        "progress": round((job.completed + job.failed) / job.total, 4),
        "estimated_completion": job.estimated_completion,
        "queued_at": job.queued_at,
        "released_at": job.released_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "expires_at": job.expires_at,
        "purged_at": job.purged_at,
        "metadata": {
            "pattern_type": job.pattern,
            "batch_size": job.total,
            "queued_at": job.submitted_at,
            "request_id": job.request_id,
            "input_type": job.input_type,
            "client_metadata": job.client_metadata,
        },
    }


def batch(job: BatchJob) -> Document:
    """Return the batch with its place in the queue as of now."""
    place = None
    if job.state in BatchJob.ACTIVE:
        place = estimates.place(job, assignment=releasing.queue_assignment(job.model), now=clock.now())
    return summary(job) | {
        "callback": callbacks.shown(job),
        "queue_position": place.position if place else None,
        "estimated_completion": place.estimated_completion if place else None,
    }


def next_page(request: Request, **changed: object) -> str:
    """Return this request's address with some query parameters changed: a path, whatever proxy stands in front."""
    query = request.query_params.dict() | {name: str(value) for name, value in changed.items()}
    return f"{request.path}?{urlencode(query)}"


def queue(window: timedelta) -> Document:
    """Return the state of the whole queue: batches by state, the ended ones as they ended within `window`."""
    now = clock.now()
    by_model = counts.counts_by_model(window, now=now)
    configured = {slug: m for slug, m in snapshot.current().models.items() if m.queue_assignment}
    # A model that queues no more may still have batches.
    shown = [*configured, *(slug for slug, c in by_model.items() if slug not in configured and c.queued + c.processing)]
    oldest = min((c.oldest_queued_at for c in by_model.values() if c.oldest_queued_at), default=None)
    return {
        "queue_status": _queue_status(by_model.values()),
        "processing_stats": _processing_stats(by_model.values(), window, now=now),
        "model_queues": {slug: _model_queue(by_model.get(slug, _NONE)) for slug in shown},
        "limits": {
            slug: {
                "waiting_texts": by_model.get(slug, _NONE).waiting_texts,
                "max_waiting_texts": model.max_waiting_texts,
            }
            for slug, model in configured.items()
        },
        "oldest_pending_seconds": _rounded(max(0.0, (now - oldest).total_seconds()) if oldest else None),
        "window_seconds": int(window.total_seconds()),
    }


def _queue_status(found: Collection[BatchCounts]) -> Document:
    pending = sum(c.queued for c in found)
    processing = sum(c.processing for c in found)
    completed = sum(c.completed for c in found)
    failed = sum(c.failed for c in found)
    return {
        "total_jobs": pending + processing + completed + failed,
        "pending_jobs": pending,
        "processing_jobs": processing,
        "completed_jobs": completed,
        "failed_jobs": failed,
        "cancelled_jobs": sum(c.cancelled for c in found),
        "expired_jobs": sum(c.expired for c in found),
    }


def _processing_stats(found: Collection[BatchCounts], window: timedelta, *, now: datetime) -> Document:
    return {
        "avg_processing_time_seconds": _rounded(counts.avg_processing_seconds(found)),
        "items_per_minute": _rounded(counts.texts_per_minute(window, now=now)),
        "success_rate": counts.success_rate(found),
        "estimate_error_median_seconds": _rounded(counts.estimate_error_median(window, now=now)),
    }


def _model_queue(found: BatchCounts) -> Document:
    return {"pending": found.queued, "processing": found.processing}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
