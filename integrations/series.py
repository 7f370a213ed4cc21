"""The rollups over time: requests, errors, latencies and the queue's throughput in steps of a minute or more."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import connection

from integrations import histogram
from integrations.rollups import summed_histogram
from integrations.statistics import NOT_JUDGED, OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What happened from `start` on, for one step. Times in ms."""

    start: datetime
    requests: int = 0  # of clients, live and queued
    errors: int = 0  # of those that were not the client's own
    live: list[int] = field(default_factory=list)  # histogram of the live calls
    queue_texts: int = 0  # that the queue's calls gave a vector
    queue_calls: int = 0

    def quantile_ms(self, q: float) -> float | None:
        """Duration that the share `q` of live calls did not exceed."""
        return histogram.quantile(self.live, q)


_SELECT: Final = f"""
    SELECT floor(extract(epoch FROM bucket) / %(step)s)::bigint * %(step)s, mode,
           sum(count)::bigint,
           coalesce(sum(count) FILTER (WHERE code <> %(ok)s AND code <> ALL(%(not_judged)s)), 0)::bigint,
           coalesce(sum(texts) FILTER (WHERE code = %(ok)s), 0)::bigint,
           CASE mode WHEN 'live' THEN {summed_histogram()} END
    FROM integrations_callstats
    WHERE width = 'minute' AND bucket >= %(since)s AND kind = 'call'
    GROUP BY 1, 2
"""  # nosec B608 # made of constants


def read(*, step: timedelta, steps: int, now: datetime | None = None) -> list[Point]:
    """Return the last `steps` points, oldest first, the running one among them; none is left out.

    Minutes are kept for 2 days: step * steps must be less. Raises django.db.DatabaseError.
    """
    seconds = int(step.total_seconds())
    last = int((now or datetime.now(UTC)).timestamp()) // seconds * seconds
    starts = [last - seconds * (steps - 1 - n) for n in range(steps)]
    with connection.cursor() as cursor:
        cursor.execute(
            _SELECT,
            {
                "step": seconds,
                "ok": OK,
                "not_judged": sorted(NOT_JUDGED),
                "since": datetime.fromtimestamp(starts[0], UTC),
            },
        )
        found = {(int(start), mode): rest for start, mode, *rest in cursor.fetchall()}
    return [_point(start, found) for start in starts]


def _point(start: int, found: dict[tuple[int, str], list[Any]]) -> Point:
    nothing: list[Any] = [0, 0, 0, None]
    live, queued, bulk = (found.get((start, mode), nothing) for mode in ("live", "queued", "bulk"))
    return Point(
        start=datetime.fromtimestamp(start, UTC),
        requests=live[0] + queued[0],
        errors=live[1] + queued[1],
        live=histogram.trimmed(live[3] or []),
        queue_texts=bulk[2],
        queue_calls=bulk[0],
    )
