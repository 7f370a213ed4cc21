"""What waits and what is in work, by model and pattern, and who is there to work on it: one query for the dashboard."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from django.db import connection

from batches import heartbeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Texts of one model and pattern that have no outcome yet."""

    waiting: int = 0
    running: int = 0  # in chunks that a worker holds
    batches: int = 0
    oldest_seconds: float | None = None  # since when the oldest batch that nobody has begun is queued


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The backlog by model and pattern, and the processes that lately said they were alive."""

    backlogs: Mapping[tuple[str, str], Backlog] = field(default_factory=dict)
    workers: int = 0
    schedulers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What /metrics says of this moment: who is alive, and by model how long the oldest batch without an end is out."""

    workers: int
    schedulers: int
    oldest_seconds: Mapping[str, float]


_OLDEST = """
    SELECT model, greatest(0, extract(epoch FROM now() - min(released_at)))::float8 FROM batches_batchjob
    WHERE state IN ('queued', 'processing') AND released_at IS NOT NULL GROUP BY model
"""
_SELECT = """
    WITH held AS (
        SELECT batch_id, sum(size) AS texts FROM batches_batchchunk WHERE state = 'claimed' GROUP BY batch_id
    )
    SELECT 'batch', j.model, j.pattern, count(*), sum(j.total - j.completed - j.failed),
           sum(least(coalesce(h.texts, 0), j.total - j.completed - j.failed)),
           extract(epoch FROM now() - min(j.queued_at) FILTER (WHERE j.state = 'queued'))::float8
    FROM batches_batchjob j LEFT JOIN held h ON h.batch_id = j.id
    WHERE j.state IN ('queued', 'processing')
    GROUP BY j.model, j.pattern
    UNION ALL
    SELECT 'process', kind, '', count(*), 0, 0, NULL
    FROM batches_workerheartbeat WHERE seen_at > now() - %s * interval '1 second'
    GROUP BY kind
"""


def queue() -> Queue:
    """Return the queue as it is now. Raises django.db.DatabaseError."""
    with connection.cursor() as cursor:
        cursor.execute(_SELECT, [heartbeats.alive_within()])
        rows = cursor.fetchall()
    alive = {name: count for what, name, _, count, *_ in rows if what == "process"}
    return Queue(
        backlogs={
            (model, pattern): Backlog(
                waiting=int(outstanding - running),
                running=int(running),
                batches=count,
                oldest_seconds=None if oldest is None else max(0.0, oldest),
            )
            for what, model, pattern, count, outstanding, running, oldest in rows
            if what == "batch"
        },
        workers=alive.get(heartbeats.WORKER, 0),
        schedulers=alive.get(heartbeats.SCHEDULER, 0),
    )


def present() -> Present:
    """Return what /metrics says of the queue. Raises django.db.DatabaseError."""
    with connection.cursor() as cursor:
        cursor.execute(_OLDEST)
        oldest = dict(cursor.fetchall())
    return Present(workers=heartbeats.workers_alive(), schedulers=heartbeats.schedulers_alive(), oldest_seconds=oldest)
