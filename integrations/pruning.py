"""Deleting what is older than its retention: in slices, each a transaction of its own, for a moment at a time.

Nobody who writes waits for it: what it locks is old rows, which nobody changes any more, and no lock of its own on a
table is one that a writer would meet.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db.models import QuerySet

from integrations.models import BreakerEvent, CallRecord

SLICE: Final = 5_000
# In seconds: it ends after the slice in which this time is over, since the next rescue waits for it.
AT_A_TIME: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """Rows that are gone."""

    rows: int
    more: bool  # its time was over before all were deleted


def prune(now: datetime | None = None, *, a_slice: int = SLICE, seconds: float = AT_A_TIME) -> Pruned:
    """Delete the calls older than CALL_RECORD_RETENTION and the transitions older than BREAKER_EVENT_RETENTION.

    Raises django.db.DatabaseError.
    """
    rows, ends = 0, time.monotonic() + seconds
    for due in _due(now or datetime.now(UTC)):
        deleted = a_slice
        while deleted == a_slice:
            deleted, _by_model = due.model._default_manager.filter(pk__in=due.values("pk")[:a_slice]).delete()
            rows += deleted
            if time.monotonic() >= ends:
                return Pruned(rows=rows, more=True)
    return Pruned(rows=rows, more=False)


def _due(now: datetime) -> Iterator["QuerySet[Any]"]:
    calls_end = now - timedelta(seconds=settings.CALL_RECORD_RETENTION)
    yield CallRecord.objects.filter(started_at__lt=calls_end).order_by("started_at")
    events_end = now - timedelta(seconds=settings.BREAKER_EVENT_RETENTION)
    yield BreakerEvent.objects.filter(at__lt=events_end).order_by("at")
