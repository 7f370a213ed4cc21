"""Whatever has work to do and nobody who does it goes into the list again.

One rule covers a worker that was killed, a Redis that was emptied, an enqueue that failed and a pause that is over: an
active, released batch with a chunk that may be claimed now, which stands in no list and is no live worker's present
slice. A killed worker's chunks may be claimed once their lease has run out, its heartbeat is old by then, too.
"""

import logging
from typing import Any

from django.conf import settings
from django.db import connection

from batches import heartbeats, queues
from batches.claiming import CLAIMABLE, OPEN_BATCH
from integrations import snapshot

log = logging.getLogger(__name__)

# So many are enqueued in one tick, since every other duty waits for it; the next tick takes the next ones. The index
# batch_order gives them in their order, so that what waits behind them is not looked at (5 ms of 2,000).
AT_ONCE = 100

_IDLE = f"""
SELECT b.batch_id FROM batches_batchjob b
WHERE {OPEN_BATCH} AND b.model = ANY(%(models)s) AND b.batch_id <> ALL(%(listed)s)
    AND EXISTS (SELECT FROM batches_batchchunk c WHERE c.batch_id = b.id AND {CLAIMABLE})
    AND NOT EXISTS (
        SELECT FROM batches_workerheartbeat w
        WHERE w.batch_id = b.batch_id AND w.{heartbeats.ALIVE}
    )
ORDER BY b.priority DESC, b.queued_at, b.id LIMIT %(limit)s
"""  # nosec B608 # made of constants


def dispatch() -> int:
    """Enqueue every batch that should be worked on and is not; return how many. Raises django.db.DatabaseError."""
    # The list first: a job that leaves it for a worker in between is then, at worst, enqueued twice.
    listed = queues.listed()
    if listed is None:
        return 0
    idle = idle_batches(listed)
    for batch_id in idle:
        queues.enqueue(batch_id, replace=True)
    if idle:
        log.info("batches enqueued", extra={"batches": len(idle), "first": idle[0]})
    return len(idle)


def idle_batches(listed: frozenset[str]) -> list[str]:
    """Return the batches that nobody works on although they could be, except those `listed`; the first to run first."""
    models = [m.slug for m in snapshot.current().models.values() if m.enabled and not m.draining]
    values: dict[str, Any] = {
        "models": models,
        "listed": sorted(listed),
        "alive": heartbeats.alive_within(),
        "lease": settings.CHUNK_LEASE,
        "limit": AT_ONCE,
    }
    with connection.cursor() as cursor:
        cursor.execute(_IDLE, values)
        return [batch_id for (batch_id,) in cursor.fetchall()]
