"""How far one batch is: what its page shows, from a few indexed rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db import connection
from django.db.models import Count

from batches import clock, estimates, releasing
from batches.estimates import Place
from batches.models import BatchChunk, BatchJob

CHUNKS: Final = 25
FAILURES: Final = 25
# Characters of a failed text that a page shows.
EXCERPT: Final = 300

# A chunk's texts are up to megabytes in one value: only those that the page shows are taken out of it.
_FAILURES = """
    SELECT f.first + f.position, f.error->>'code', f.error->>'detail', left(c.texts->>f.position, %(excerpt)s)
    FROM (
        SELECT b.id, b.first, e.key::int AS position, e.value AS error
        FROM (
            SELECT id, first, errors FROM batches_batchchunk
            WHERE batch_id = %(batch)s AND errors <> '{}' AND first + size > %(start)s
            ORDER BY first LIMIT %(limit)s + 1
        ) b, jsonb_each(b.errors) e
        WHERE b.first + e.key::int >= %(start)s
        ORDER BY b.first + e.key::int LIMIT %(limit)s
    ) f JOIN batches_batchchunk c ON c.id = f.id
    ORDER BY 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One batch now. `rate`: texts a second, None while nothing is done; `left`: seconds, None for an ended batch."""

    done: int
    percent: float
    rate: float | None
    place: Place | None
    left: float | None
    took: float | None
    chunks: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A text without a vector: its place in the batch, the error, and the beginning of the text."""

    index: int
    code: str
    detail: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some rows of many; `next` is where the following ones begin, None at the end."""

    rows: Sequence[Any]
    next: int | None


def progress(job: BatchJob) -> Progress:
    """Return how far the batch is."""
    now = clock.now()
    place = None
    if job.state in BatchJob.ACTIVE:
        place = estimates.place(job, assignment=releasing.queue_assignment(job.model), now=now)
    done = job.completed + job.failed
    return Progress(
        done=done,
        percent=100 * done / job.total,
        rate=_rate(job, now),
        place=place,
        left=max(0.0, (place.estimated_completion - now).total_seconds()) if place else None,
        took=_took(job, now),
        chunks=dict(BatchChunk.objects.filter(batch=job).order_by().values_list("state").annotate(n=Count("pk"))),
    )


def chunks(job: BatchJob, *, start: int) -> Part:
    """Return the chunks from the one on that begins at the text `start`, without texts and vectors."""
    found = BatchChunk.objects.filter(batch=job, first__gte=start).defer("texts", "vectors").order_by("first")
    rows = list(found[: CHUNKS + 1])
    return Part(rows=rows[:CHUNKS], next=rows[CHUNKS].first if len(rows) > CHUNKS else None)


def failures(job: BatchJob, *, start: int) -> Part:
    """Return the failed texts from the position `start` on."""
    values = {"batch": job.pk, "start": start, "limit": FAILURES + 1, "excerpt": EXCERPT}
    with connection.cursor() as cursor:
        cursor.execute(_FAILURES, values)
        rows = [Failure(index=i, code=code or "", detail=d or "", text=t or "") for i, code, d, t in cursor.fetchall()]
    return Part(rows=rows[:FAILURES], next=rows[FAILURES].index if len(rows) > FAILURES else None)


def _took(job: BatchJob, now: datetime) -> float | None:
    return ((job.finished_at or now) - job.started_at).total_seconds() if job.started_at else None


def _rate(job: BatchJob, now: datetime) -> float | None:
    # The counts of a retried batch come from several runs: then the model's own rate stands in.
    if job.queued_at == job.submitted_at:
        done, took = job.completed + job.failed, _took(job, now) or 0.0
        return done / took if done and took > 0 else None
    return estimates.rate(job.model, now=now) if job.state in BatchJob.ACTIVE else None
