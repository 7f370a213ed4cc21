"""What waits for each model, and which of its batches go next: what the queue's page shows, in two queries."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db.models import Count, F, Min, Q, Sum

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
    found: dict[str, dict[str, Any]] = {row["model"]: row for row in _counts()}
    upcoming = _next(found)
    configured = snapshot.current().models
    names = [slug for slug, model in configured.items() if model.queue_assignment]
    return [_line(name, found.get(name, {}), upcoming[name]) for name in dict.fromkeys([*names, *sorted(found)])]


def _line(name: str, row: dict[str, Any], upcoming: Sequence[BatchJob]) -> Line:
    model = snapshot.current().models.get(name)
    return Line(
        model=name,
        draining=model is not None and model.draining,
        held=row.get("held", 0),
        released=row.get("released", 0),
        processing=row.get("processing", 0),
        texts=row.get("texts", 0),
        limit=model.max_waiting_texts if model else None,
        oldest=row.get("oldest"),
        next=upcoming,
    )


def _counts() -> Any:
    queued = Q(state=BatchJob.State.QUEUED)
    active = BatchJob.objects.filter(state__in=BatchJob.ACTIVE).order_by().values("model")
    return active.annotate(
        held=Count("pk", filter=queued & Q(released_at__isnull=True)),
        released=Count("pk", filter=queued & Q(released_at__isnull=False)),
        processing=Count("pk", filter=Q(state=BatchJob.State.PROCESSING)),
        texts=Sum(F("total") - F("completed") - F("failed")),
        oldest=Min("queued_at", filter=queued),
    )


def _next(models: Collection[str]) -> defaultdict[str, list[BatchJob]]:
    upcoming: defaultdict[str, list[BatchJob]] = defaultdict(list)
    for job in BatchJob.objects.raw(_NEXT, {"models": list(models), "most": NEXT}):
        upcoming[job.model].append(job)
    return upcoming
