"""What waits for each model, and which of its batches go next: what the queue's page shows, in two queries."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from batches import counts
from batches.counts import Active
from batches.models import BatchJob
from integrations import snapshot

NEXT: Final = 3

# Some rows of the index batch_waiting for each model, however many wait behind them.
_NEXT: Final = """
    SELECT b.* FROM unnest(%(models)s::text[]) AS of(model) CROSS JOIN LATERAL (
        SELECT * FROM batches_batchjob
        WHERE model = of.model AND state = 'queued'
        ORDER BY priority DESC, queued_at, id LIMIT %(most)s
    ) AS b
    ORDER BY b.model, b.priority DESC, b.queued_at, b.id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One model's queue: batches held, waiting for a worker and in work; texts without an outcome, and their bound."""

    model: str
    draining: bool
    held: int
    released: int
    processing: int
    texts: int
    limit: int | None
    oldest: datetime | None
    next: Sequence[BatchJob]


def by_model() -> list[Line]:
    """Return the queue of each model that queues, or that still has batches."""
    found = counts.active_by_model()
    upcoming = _next(found)
    configured = snapshot.current().models
    names = [slug for slug, model in configured.items() if model.queue_assignment]
    return [_line(name, found.get(name, Active()), upcoming[name]) for name in dict.fromkeys([*names, *sorted(found)])]


def _line(name: str, active: Active, upcoming: Sequence[BatchJob]) -> Line:
    model = snapshot.current().models.get(name)
    return Line(
        model=name,
        draining=model is not None and model.draining,
        held=active.held,
        released=active.queued - active.held,
        processing=active.processing,
        texts=active.waiting_texts,
        limit=model.max_waiting_texts if model else None,
        oldest=active.oldest_queued_at,
        next=upcoming,
    )


def _next(models: Collection[str]) -> defaultdict[str, list[BatchJob]]:
    upcoming: defaultdict[str, list[BatchJob]] = defaultdict(list)
    for job in BatchJob.objects.raw(_NEXT, {"models": list(models), "most": NEXT}):
        upcoming[job.model].append(job)
    return upcoming
