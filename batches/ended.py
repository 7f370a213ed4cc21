"""What the batches that ended within a window add up to, whatever their number: sums of whole quarters of an hour.

The batches are the truth. The scheduler counts those of the last day, quarter by quarter. What was not counted, and the
parts of quarters at both ends of a window, are read batch by batch: so the figures are those of the batches.

- An end that is committed late is not missed: a quarter is counted when every transaction is over that may have ended
  a batch in it.
- A retry takes its batch out of the quarter in which it had ended, with a row of its own, which is below zero: so two
  retries wait for no rows of each other, in whatever order a file's batches are retried.
- Whatever changes a batch without that (a process of an earlier version, a statement by hand, a clock that steps back)
  is found when the last day is counted again, INTERVAL later.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection, transaction

from batches import locks
from batches.claiming import UNSYNCED
from batches.models import BatchJob, EndedSums
from integrations.rollups import EVER, bucket

# Half of them would double the rows that are read of a day, twice as many the batches at both ends of a window.
QUARTER: Final = timedelta(minutes=15)
# In seconds, between two times that the scheduler counts, and what one of these may take: other duties wait for it.
INTERVAL: Final = 300.0
AT_A_TIME: Final = 0.5
# So much is counted in one statement, the last first.
SLICE: Final = timedelta(hours=1)
# So far back the scheduler counts: the window that is asked for unless another one is named, and an hour.
COUNTED: Final = timedelta(hours=25)
# The longest window is 90 days.
KEPT: Final = timedelta(days=91)

PATIENCE: Final = timedelta(minutes=1)  # with transactions that this role may not see

_LOCK: Final = ("ended batches",)

_COLUMNS: Final = "completed, failed, cancelled, expired, completed_texts, failed_texts, timed, took"
_NAMES: Final = _COLUMNS.split(", ")
_TOTALS: Final = ", ".join(f"sum({name})" if name == "took" else f"sum({name})::bigint" for name in _NAMES)
_SUMS: Final = """
    count(*) FILTER (WHERE state = 'completed') AS completed,
    count(*) FILTER (WHERE state = 'failed') AS failed,
    count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
    count(*) FILTER (WHERE state = 'expired') AS expired,
    coalesce(sum(completed) FILTER (WHERE state IN ('completed', 'failed')), 0) AS completed_texts,
    coalesce(sum(failed) FILTER (WHERE state IN ('completed', 'failed')), 0) AS failed_texts,
    count(*) FILTER (WHERE state IN ('completed', 'failed') AND started_at IS NOT NULL) AS timed,
    coalesce(sum(finished_at - started_at) FILTER (WHERE state IN ('completed', 'failed')), interval '0') AS took
"""

# Counted is the last stretch of quarters without a gap; what lies before and after it is read from the index
# batch_finished. One range each: of a list of quarters PostgreSQL expects so much that it compiles the statement first.
_READ: Final = f"""
    WITH marks AS (
        SELECT bucket, lag(bucket) OVER (ORDER BY bucket) AS before FROM batches_endedsums
        WHERE model = '' AND bucket >= %(first)s AND bucket < %(present)s
    ), counted AS MATERIALIZED (
        SELECT coalesce(max(bucket) FILTER (WHERE bucket - before IS DISTINCT FROM %(quarter)s), %(first)s) AS since,
               coalesce(max(bucket) + %(quarter)s, %(first)s) AS until
        FROM marks
    )
    SELECT model, {_TOTALS} FROM (
        SELECT model, {_COLUMNS} FROM batches_endedsums
        WHERE bucket >= (SELECT since FROM counted) AND bucket < (SELECT until FROM counted) AND model <> ''
        UNION ALL
        SELECT model, {_SUMS} FROM batches_batchjob
        WHERE finished_at > %(since)s AND finished_at < (SELECT since FROM counted)
        GROUP BY model
        UNION ALL
        SELECT model, {_SUMS} FROM batches_batchjob
        WHERE finished_at > %(since)s AND finished_at >= (SELECT until FROM counted)
        GROUP BY model
    ) AS part
    GROUP BY model
"""  # nosec B608 # made of constants

# Quarters before that of the oldest transaction that has written something: what ended in them is to be seen, also when
# its commit waits. A transaction that this role may not see is trusted to end within a minute.
_SETTLED: Final = """
    SELECT date_bin(%(quarter)s, least(statement_timestamp() - %(patience)s, (
        SELECT min(xact_start) FROM pg_stat_activity
        WHERE datname = current_database() AND backend_xid IS NOT NULL AND pid <> pg_backend_pid()
    )), %(epoch)s)
"""

# Only quarters that are not yet as they are to be are written: the others' rows stay where they were.
_COUNT: Final = f"""
    WITH fresh AS (
        SELECT date_bin(%(quarter)s, finished_at, %(epoch)s) AS bucket, model, {_SUMS}
        FROM batches_batchjob WHERE finished_at >= %(since)s AND finished_at < %(until)s
        GROUP BY 1, 2
        UNION ALL
        SELECT quarter, '', 0, 0, 0, 0, 0, 0, 0, interval '0'
        FROM generate_series(%(since)s, %(until)s - %(quarter)s, %(quarter)s) AS quarter
    ), known AS (
        SELECT bucket, model, {_TOTALS} FROM batches_endedsums
        WHERE bucket >= %(since)s AND bucket < %(until)s
        GROUP BY bucket, model
    ), wrong AS (
        SELECT bucket FROM (TABLE fresh EXCEPT TABLE known) AS missing
        UNION
        SELECT bucket FROM (TABLE known EXCEPT TABLE fresh) AS left_over
    ), gone AS (
        DELETE FROM batches_endedsums WHERE bucket IN (SELECT bucket FROM wrong)
    )
    INSERT INTO batches_endedsums (bucket, model, {_COLUMNS})
    SELECT bucket, model, {_COLUMNS} FROM fresh WHERE bucket IN (SELECT bucket FROM wrong)
"""  # nosec B608 # made of constants

_TAKE_OUT: Final = f"""
    INSERT INTO batches_endedsums (bucket, model, {_COLUMNS})
    SELECT %(bucket)s, model, -{_COLUMNS.replace(", ", ", -")}
    FROM (SELECT model, {_SUMS} FROM batches_batchjob WHERE id = %(batch)s GROUP BY model) AS b
    WHERE EXISTS (SELECT FROM batches_endedsums WHERE bucket = %(bucket)s AND model = '')
"""  # nosec B608 # made of constants


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Batches of one model by how they ended; texts and times as EndedSums has them."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    completed_texts: int = 0
    failed_texts: int = 0
    timed: int = 0
    took: timedelta = timedelta(0)


def by_model(since: datetime, *, now: datetime) -> Mapping[str, Ended]:
    """Return the sums of each model that has a batch which ended after `since`. Raises django.db.DatabaseError."""
    first = quarter(since) + QUARTER
    with connection.cursor() as cursor:
        cursor.execute(_READ, _values(since=since, first=first, present=max(first, quarter(now))))
        rows = cursor.fetchall()
    # All zeros: whatever had ended was taken out.
    return {model: Ended(**dict(zip(_NAMES, sums, strict=True))) for model, *sums in rows if any(sums)}


def settled(*, patience: timedelta = PATIENCE) -> datetime:
    """Return the quarter before which nothing ends any more. Raises django.db.DatabaseError."""
    with connection.cursor() as cursor:
        cursor.execute(_SETTLED, _values() | {"patience": patience})
        (moment,) = cursor.fetchone()
    return moment  # type: ignore[no-any-return]  # a row of psycopg2 holds Any


def count() -> None:
    """Count what ended within the last day, as far as it is settled. Raises django.db.DatabaseError."""
    # Asked before the batches are read: whoever writes from now on ends its batches in a later quarter.
    until, ends = settled(), time.monotonic() + AT_A_TIME
    oldest = until - COUNTED
    EndedSums.objects.filter(bucket__lt=until - KEPT).delete()
    while until > oldest and time.monotonic() < ends:
        if not _count_slice(until):
            break
        until -= SLICE


def _count_slice(until: datetime) -> bool:
    """Count a slice, and return whether nobody else is just counting, or taking something out."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(UNSYNCED)  # sums that are lost are counted again
        free = locks.take(*_LOCK)
        if free:
            count_between(until - SLICE, until)
    return free


def count_between(since: datetime, until: datetime) -> None:
    """Count the quarters from that of `since` to before that of `until`, in a transaction that holds the lock."""
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, _values(since=quarter(since), until=quarter(until)))


def take_out(job: BatchJob) -> None:
    """Count an ended batch no more, whose row is locked; until the transaction ends nobody counts anew."""
    if job.finished_at is None:
        return
    # Whoever is just counting is waited for: it has seen the batch as it was.
    locks.hold(*_LOCK, shared=True)
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_OUT, {"bucket": quarter(job.finished_at), "batch": job.pk})


def forget_all() -> None:
    """Forget all sums: until the transaction ends, nobody else counts."""
    locks.hold(*_LOCK)
    EndedSums.objects.all().delete()


def _values(**moments: datetime) -> dict[str, Any]:
    return {"quarter": QUARTER, "epoch": EVER, **moments}


def quarter(moment: datetime) -> datetime:
    """Return the beginning of the quarter of an hour in which `moment` lies."""
    return bucket(moment, QUARTER)
