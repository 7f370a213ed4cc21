"""Marks: what all calls until some moment add up to, so that a long window is a difference and not a long sum.

A mark is the rows of width before of one bucket: the totals as they were when it began. A window that begins soon after
a mark is the totals less the mark, less the few minutes in between: a few rows for each key, not one a minute.
Whoever writes calls knows nothing of marks. Without one near enough, minutes are added up, at their price.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from django.db import connection

from integrations.models import CallStats
from integrations.rollups import COLUMNS, EVER, KEY, bucket, summed

EVERY: Final = timedelta(minutes=10)
# A call is written 100 ms after it ended. One that comes later than this (PostgreSQL was away) is missing in the marks
# after its end, and counts as one that ended just after the last of these.
SETTLED: Final = timedelta(minutes=2)
# The longest window, and what may lie between its beginning and its mark.
KEPT: Final = timedelta(hours=31)

# Widths whose rows add up to the totals.
_PARTS: Final = (CallStats.Width.MINUTE, CallStats.Width.HOUR, CallStats.Width.DAY)
_FOREVER: Final = datetime.max.replace(tzinfo=UTC)

# One statement, and so of one moment: no minute is taken off that is not in the totals.
_MARK: Final = f"""
    INSERT INTO integrations_callstats ({COLUMNS})
    SELECT 'before', %(at)s, {KEY}, {summed("sign")}
    FROM (
        SELECT *, 1 AS sign FROM integrations_callstats WHERE width = %(width)s AND bucket = %(base)s
        UNION ALL
        SELECT *, -1 FROM integrations_callstats WHERE width = 'minute' AND bucket >= %(at)s AND bucket < %(until)s
    ) AS parts
    GROUP BY {KEY}
    HAVING sum(sign * count) > 0
    ORDER BY {KEY}
    ON CONFLICT DO NOTHING
"""  # nosec B608 # made of constants


def keep(now: datetime | None = None) -> None:
    """Make the newest mark, unless it is there, and delete those that no window needs. Raises django.db.DatabaseError.

    Safe to run twice at once: what two make of one moment are the same rows.
    """
    now = now or datetime.now(UTC)
    at = bucket(now - SETTLED, EVERY)
    if not CallStats.objects.filter(width=CallStats.Width.BEFORE, bucket=at).exists():
        _make(at, width="total", base=EVER, until=_FOREVER)
    CallStats.objects.filter(width=CallStats.Width.BEFORE, bucket__lt=now - KEPT).delete()


def make_all(now: datetime) -> None:
    """Make all the marks that would be there, had the calls come in their time. Raises django.db.DatabaseError."""
    at = bucket(now - SETTLED, EVERY)
    _make(at, width="total", base=EVER, until=_FOREVER)
    while at > now - KEPT:
        at -= EVERY
        _make(at, width="before", base=at + EVERY, until=at + EVERY)


def newest(earliest: datetime, latest: datetime) -> datetime | None:
    """Return the last moment in this stretch that has a mark. Raises django.db.DatabaseError.

    If nothing is known of before the stretch, since ever is a mark, too, of nothing.
    """
    rows = CallStats.objects.filter(width=CallStats.Width.BEFORE, bucket__gte=earliest, bucket__lte=latest)
    mark = rows.order_by("bucket").values_list("bucket", flat=True).last()
    return mark or (None if CallStats.objects.filter(width__in=_PARTS, bucket__lt=earliest).exists() else EVER)


def _make(at: datetime, *, width: str, base: datetime, until: datetime) -> None:
    """Take the minutes from `at` until `until` off the rows of `width` at `base`."""
    with connection.cursor() as cursor:
        cursor.execute(_MARK, {"at": at, "width": width, "base": base, "until": until})
