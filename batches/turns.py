"""Whose turn it is: a slice that a job asks for goes to the client who has least in work.

Jobs stand in one list, in the order in which their batches came, so a client's hundred batches would keep another
client's one waiting for a hundred slices. Therefore a job names only the model and the priority that a worker has come
to: before the slice begins, the waiting batches of other clients are looked at, and where one of these clients has
fewer texts with the model's servers just now, the slice is theirs. Two clients who both have work so get every other
slice, however many batches each has. Priority comes first: nobody gets a slice for a batch of a lower one.
"""

from typing import Any

from django.conf import settings
from django.db import connection

from batches.claiming import CLAIMABLE, OPEN_BATCH, Target

# The clients who have batches are found one by one in the index `batch_turn`, and of each the first batch: what this
# costs grows with the clients, not with their batches. MATERIALIZED: what is claimed is little and comes first. Where
# the tables had not been analysed yet, PostgreSQL went through all of the model's batches instead, ended ones too
# (16 ms instead of 1.3 with 30,000 batches).
_TURN = f"""
WITH RECURSIVE client AS (
    (SELECT client AS name FROM batches_batchjob
     WHERE model = %(model)s AND state IN ('queued', 'processing') ORDER BY client LIMIT 1)
    UNION ALL
    SELECT (
        SELECT j.client FROM batches_batchjob j
        WHERE j.model = %(model)s AND j.state IN ('queued', 'processing') AND j.client > client.name
        ORDER BY j.client LIMIT 1
    ) FROM client WHERE client.name IS NOT NULL
), claimed AS MATERIALIZED (
    SELECT batch_id, size FROM batches_batchchunk WHERE state = 'claimed'
), held AS (
    SELECT j.client AS name, sum(c.size) AS texts
    FROM claimed c JOIN batches_batchjob j ON j.id = c.batch_id
    WHERE j.model = %(model)s GROUP BY j.client
), mine AS (
    SELECT COALESCE(sum(texts), 0) AS texts FROM held
    WHERE name = (SELECT client FROM batches_batchjob WHERE batch_id = %(batch_id)s)
)
SELECT first.batch_id, first.priority, first.total
FROM client LEFT JOIN held ON held.name = client.name CROSS JOIN LATERAL (
    SELECT b.batch_id, b.priority, b.total, b.queued_at, b.id FROM batches_batchjob b
    WHERE b.model = %(model)s AND b.client = client.name AND b.priority >= %(priority)s AND {OPEN_BATCH}
        AND EXISTS (SELECT FROM batches_batchchunk c WHERE c.batch_id = b.id AND {CLAIMABLE})
    ORDER BY b.priority DESC, b.queued_at, b.id LIMIT 1
) first
WHERE COALESCE(held.texts, 0) < (SELECT texts FROM mine)
ORDER BY first.priority DESC, COALESCE(held.texts, 0), first.queued_at, first.id LIMIT 1
"""  # nosec B608 # made of constants


def next_target(asked: Target) -> Target:
    """Return the batch that has the slice which a job asks for: the job's own, or that of a client who has less."""
    values: dict[str, Any] = {
        "model": asked.model,
        "batch_id": asked.batch_id,
        "priority": asked.priority,
        "lease": settings.CHUNK_LEASE,
    }
    with connection.cursor() as cursor:
        cursor.execute(_TURN, values)
        row = cursor.fetchone()
    return Target(batch_id=row[0], model=asked.model, priority=row[1], total=row[2]) if row else asked
