"""What becomes of a claimed chunk: done, done in part, or waiting again.

Each is one transaction that counts only if the chunk is still held under the token it was claimed with. A worker that
comes too late, because its lease ran out or the batch was cancelled, changes nothing.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from django.db import connection, transaction

from batches.bisection import Outcome, Refusal, refusal
from batches.claiming import Claim
from integrations.errors import UpstreamMalformed
from integrations.patterns import Vectors

log = logging.getLogger(__name__)

_LOCK = "SELECT FROM batches_batchjob WHERE id = %s AND state IN ('queued', 'processing') FOR NO KEY UPDATE"

# A statement of its own, after the lock: only then does it see what the worker that held the lock before has finished.
# In one statement two workers would each see the other's chunk unfinished, and nobody would close the batch.
_STORE = """
WITH chunk AS (
    UPDATE batches_batchchunk SET
        state = CASE WHEN %(done)s THEN 'done' ELSE 'waiting' END,
        vectors = %(vectors)s, dimensions = %(dimensions)s, errors = %(errors)s, pending = %(pending)s,
        endpoint = COALESCE(NULLIF(%(endpoint)s, ''), endpoint),
        upstream_model = COALESCE(NULLIF(%(upstream_model)s, ''), upstream_model),
        finished_at = CASE WHEN %(done)s THEN clock_timestamp() END,
        available_at = CASE WHEN %(done)s THEN available_at ELSE now() + %(delay)s * interval '1 second' END,
        lease_token = NULL, lease_owner = '', lease_until = NULL
    WHERE id = %(chunk)s AND state = 'claimed' AND lease_token = %(token)s
    RETURNING batch_id
), last AS (
    SELECT %(done)s AND NOT EXISTS (
        SELECT FROM batches_batchchunk
        WHERE batch_id = %(batch)s AND state IN ('waiting', 'claimed') AND id <> %(chunk)s
    ) AS yes
)
UPDATE batches_batchjob b SET
    completed = b.completed + %(completed)s, failed = b.failed + %(failed)s,
    state = CASE WHEN NOT last.yes THEN 'processing' WHEN b.completed + %(completed)s > 0 THEN 'completed'
        ELSE 'failed' END,
    started_at = COALESCE(b.started_at, now()),
    finished_at = CASE WHEN last.yes THEN clock_timestamp() END
FROM chunk, last WHERE b.id = chunk.batch_id
RETURNING b.state
"""

_TRY_LATER = """
UPDATE batches_batchchunk SET state = 'waiting', attempts = attempts + 1,
    available_at = now() + %s * interval '1 second', lease_token = NULL, lease_owner = '', lease_until = NULL
WHERE id = %s AND state = 'claimed' AND lease_token = %s
"""

_POSTPONE = """
UPDATE batches_batchjob SET available_at = GREATEST(available_at, now() + %s * interval '1 second')
WHERE id = %s AND state IN ('queued', 'processing')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """A chunk's columns after a run. `vectors` is size x dimensions float32, little-endian; null without any vector."""

    vectors: bytes | None
    dimensions: int | None
    errors: dict[str, dict[str, str]]
    pending: list[int] | None
    completed: int
    failed: int


def merge(claim: Claim, outcome: Outcome) -> Merged:
    """Put the outcome of the pending texts beside what the chunk has already."""
    rows, outcome = _rows(claim, outcome)
    errors = dict(claim.kept.errors) if claim.kept else {}
    pending = []
    for index, position in enumerate(claim.positions):
        if index in outcome.done:
            rows[position] = outcome.vectors[index]
        elif error := outcome.errors.get(index):
            errors[str(position)] = {"code": error.code, "detail": error.detail}
        else:
            pending.append(position)
    return Merged(
        vectors=rows.astype("<f4", copy=False).tobytes() if rows.shape[1] else None,
        dimensions=rows.shape[1] or None,
        errors=errors,
        pending=pending or None,
        completed=len(outcome.done),
        failed=len(outcome.errors),
    )


def store(claim: Claim, outcome: Outcome, *, delay: float = 0.0) -> bool:
    """Store what is known of a chunk's texts, count it in its batch, and close the batch after its last chunk.

    Texts without an outcome stay pending, for `delay` seconds at least. False: the chunk was no longer ours, and
    nothing was stored.
    """
    merged = merge(claim, outcome)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_LOCK, [claim.batch])
        state = None
        if cursor.fetchone() is not None:
            cursor.execute(_STORE, _values(claim, outcome, merged, delay=delay))
            row = cursor.fetchone()
            state = row[0] if row else None
    if state is None:
        log.info("late result discarded", extra={"batch_id": claim.batch_id, "chunk": claim.chunk})
    elif state != "processing":
        log.info("batch ended", extra={"batch_id": claim.batch_id, "state": state})
    return state is not None


def try_later(claim: Claim, delay: float) -> None:
    """Count an attempt and let the chunk wait for `delay` seconds."""
    with connection.cursor() as cursor:
        cursor.execute(_TRY_LATER, [delay, claim.chunk, str(claim.token)])


def postpone(batch: int, delay: float) -> None:
    """Let a whole batch wait: nothing of it is claimed for `delay` seconds."""
    with connection.cursor() as cursor:
        cursor.execute(_POSTPONE, [delay, batch])


def _rows(claim: Claim, outcome: Outcome) -> tuple[Vectors, Outcome]:
    """Return (size, dimensions) float32 with the vectors that an earlier run stored, and the outcome that fits them."""
    kept = claim.kept
    dimensions = outcome.vectors.shape[1] if outcome.done else 0
    if kept is None or not kept.dimensions:
        return np.zeros((claim.size, dimensions), dtype=np.float32), outcome
    rows = np.frombuffer(kept.vectors, dtype="<f4").reshape(claim.size, kept.dimensions).copy()
    if outcome.done and dimensions != kept.dimensions:
        # The model was changed between two runs: vectors of different spaces must not stand side by side.
        changed = refusal(UpstreamMalformed(f"The vectors now have {dimensions} values, not {kept.dimensions}."))
        errors: dict[int, Refusal] = {**outcome.errors, **dict.fromkeys(outcome.done, changed)}
        outcome = Outcome(vectors=outcome.vectors, done=frozenset(), errors=errors, endpoint="", upstream_model="")
    return rows, outcome


def _values(claim: Claim, outcome: Outcome, merged: Merged, *, delay: float) -> dict[str, Any]:
    return {
        "done": merged.pending is None,
        "vectors": merged.vectors,
        "dimensions": merged.dimensions,
        "errors": orjson.dumps(merged.errors).decode(),
        "pending": merged.pending,
        "endpoint": outcome.endpoint,
        "upstream_model": outcome.upstream_model,
        "delay": delay,
        "chunk": claim.chunk,
        "token": str(claim.token),
        "batch": claim.batch,
        "completed": merged.completed,
        "failed": merged.failed,
    }
