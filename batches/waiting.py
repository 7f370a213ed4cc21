"""What waits for each model, and which of its batches go next: what the queue's page shows, in two queries."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db.models import Count, F, Min, Q, Sum, Window
from django.db.models.functions import RowNumber

from batches.models import BatchJob
from integrations import snapshot

NEXT: Final = 3


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
    upcoming = _next()
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


def _next() -> defaultdict[str, list[BatchJob]]:
    order = [F("priority").desc(), F("queued_at").asc(), F("id").asc()]  # BatchJob.QUEUE_ORDER
    place = Window(RowNumber(), partition_by=F("model"), order_by=order)
    jobs = BatchJob.objects.filter(state=BatchJob.State.QUEUED).annotate(place=place).filter(place__lte=NEXT)
    upcoming: defaultdict[str, list[BatchJob]] = defaultdict(list)
    for job in jobs.order_by("place"):
        upcoming[job.model].append(job)
    return upcoming
