"""What becomes of claimed chunks: done, done in part, or waiting again.

A chunk's result counts only if the chunk is still held under the token it was claimed with. A worker that comes too
late, because its lease ran out or the batch was cancelled, changes nothing.

Several results are stored in one transaction: what waits for a commit is most of what storing costs. Their vectors come
by binary COPY into a table of the connection's own and go from there to their chunks: as values of a statement they
would be sent as hexadecimal digits, which costs PostgreSQL twice and this process three times as much (100 vectors of
768 numbers: 6.5 and 1.7 ms of a core instead of 3.2 and 0.5).
"""

import io
import logging
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from batches.bisection import Outcome, Refusal, refusal
from batches.claiming import BEGIN, UNSYNCED, Claim
from integrations.errors import UpstreamMalformed
from integrations.patterns import Vectors

log = logging.getLogger(__name__)

# The batches' rows first, the lowest id first: every writer keeps this order.
_LOCK = """
SELECT id, state, to_regclass('pg_temp.batches_arriving') IS NOT NULL FROM batches_batchjob
WHERE id = ANY(%s) AND state IN ('queued', 'processing') ORDER BY id FOR NO KEY UPDATE
"""

# A statement of its own, after the lock: only then does it see what the worker that held the lock before has finished.
# In one statement two workers would each see the other's chunk unfinished, and nobody would close the batch.
_STORE = """
UPDATE batches_batchchunk c SET
    state = CASE WHEN new.done THEN 'done' ELSE 'waiting' END,
    vectors = v.vectors, dimensions = new.dimensions, errors = new.errors::jsonb, pending = new.pending::integer[],
    endpoint = COALESCE(NULLIF(new.endpoint, ''), c.endpoint),
    upstream_model = COALESCE(NULLIF(new.upstream_model, ''), c.upstream_model),
    finished_at = CASE WHEN new.done THEN clock_timestamp() END,
    available_at = CASE WHEN new.done THEN c.available_at ELSE now() + %(delay)s * interval '1 second' END,
    lease_token = NULL, lease_owner = '', lease_until = NULL
FROM unnest(
    %(places)s::integer[], %(chunks)s::bigint[], %(tokens)s::uuid[], %(done)s::boolean[], %(dimensions)s::integer[],
    %(errors)s::text[], %(pending)s::text[], %(endpoints)s::text[], %(upstream_models)s::text[]
) AS new(place, chunk, token, done, dimensions, errors, pending, endpoint, upstream_model)
JOIN batches_arriving v ON v.place = new.place
WHERE c.id = new.chunk AND c.state = 'claimed' AND c.lease_token = new.token
RETURNING new.place
"""

_COUNT = """
UPDATE batches_batchjob b SET
    completed = b.completed + new.completed, failed = b.failed + new.failed,
    state = CASE WHEN last.no THEN 'processing' WHEN b.completed + new.completed > 0 THEN 'completed'
        ELSE 'failed' END,
    finished_at = CASE WHEN NOT last.no THEN clock_timestamp() END
FROM unnest(%s::bigint[], %s::integer[], %s::integer[]) AS new(batch, completed, failed)
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT FROM batches_batchchunk c WHERE c.batch_id = new.batch AND c.state IN ('waiting', 'claimed')
    ) AS no
) last
WHERE b.id = new.batch
RETURNING b.batch_id, b.state
"""

# EXTERNAL: float32 do not compress, and to find that out for each row costs as much as to store it.
_ARRIVING = """
CREATE TEMPORARY TABLE batches_arriving (place integer NOT NULL, vectors bytea) ON COMMIT DELETE ROWS;
ALTER TABLE batches_arriving ALTER vectors SET STORAGE EXTERNAL
"""
_COPY: Final = "COPY batches_arriving (place, vectors) FROM STDIN (FORMAT binary)"
# https://www.postgresql.org/docs/current/sql-copy.html, “Binary Format”: signature, flags, no extension; a row is the
# number of its fields and each field behind its length; -1 ends it.
_COPY_HEAD: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_ROW: Final = struct.Struct("!hiii")
_COPY_END: Final = struct.pack("!h", -1)
# psycopg2 reads and sends so much at once; by default 8 kB.
_COPY_SIZE: Final = 2**20

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


@dataclass(frozen=True, slots=True)
class _Row:
    claim: Claim
    outcome: Outcome
    merged: Merged


def merge(claim: Claim, outcome: Outcome) -> Merged:
    """Put the outcome of the pending texts beside what the chunk has already."""
    if claim.kept is None and len(outcome.done) == claim.size:
        return _complete(outcome)
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
    """Store one chunk's result as `store_all` does; False when it came too late."""
    return store_all([(claim, outcome)], delay=delay) == [True]


def store_all(results: Sequence[tuple[Claim, Outcome]], *, delay: float = 0.0) -> list[bool]:
    """Store what is known of some chunks' texts, count it in their batches, and close those that have no more to do.

    Texts without an outcome stay pending, for `delay` seconds at least. Return of each chunk whether it was still ours:
    of the others nothing was stored. All or nothing where PostgreSQL raises.
    """
    rows = [_Row(claim, outcome, merge(claim, outcome)) for claim, outcome in results]
    stored: set[int] = set()
    ended: list[tuple[str, str]] = []
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_LOCK, [sorted({claim.batch for claim, _ in results})])
        locked = {batch: (state, ready) for batch, state, ready in cursor.fetchall()}
        if locked:
            if not any(ready for _, ready in locked.values()):
                cursor.execute(_ARRIVING)
            stored = _store(cursor, {n: row for n, row in enumerate(rows) if row.claim.batch in locked}, delay=delay)
            # That work on a batch began is not waited for to be on the disk: a crash of PostgreSQL may have undone it.
            for batch in {rows[n].claim.batch for n in stored if locked[rows[n].claim.batch][0] == "queued"}:
                cursor.execute(BEGIN, [batch])
            ended = _count(cursor, [rows[n] for n in stored])
        if not ended:
            # Should PostgreSQL crash before this reaches the disk, the chunks are claimed as before, and done again.
            # The commit that ends a batch waits for the disk, and so for all that was written before it.
            cursor.execute(UNSYNCED)
    for n, row in enumerate(rows):
        if n not in stored:
            log.info("late result discarded", extra={"batch_id": row.claim.batch_id, "chunk": row.claim.chunk})
    for batch_id, state in ended:
        log.info("batch ended", extra={"batch_id": batch_id, "state": state})
    return [n in stored for n in range(len(rows))]


def try_later(claim: Claim, delay: float) -> None:
    """Count an attempt and let the chunk wait for `delay` seconds."""
    with connection.cursor() as cursor:
        cursor.execute(_TRY_LATER, [delay, claim.chunk, str(claim.token)])


def postpone(batch: int, delay: float) -> None:
    """Let a whole batch wait: nothing of it is claimed for `delay` seconds."""
    with connection.cursor() as cursor:
        cursor.execute(_POSTPONE, [delay, batch])


def _store(cursor: CursorWrapper, rows: Mapping[int, _Row], *, delay: float) -> set[int]:
    """Write these results, each if its chunk is still held; return which were written."""
    with connection.wrap_database_errors:
        cursor.copy_expert(_COPY, io.BytesIO(b"".join(_copied(rows))), _COPY_SIZE)
    cursor.execute(_STORE, _values(rows) | {"delay": delay})
    return {place for (place,) in cursor.fetchall()}


def _copied(rows: Mapping[int, _Row]) -> Iterator[bytes]:
    yield _COPY_HEAD
    for place, row in rows.items():
        vectors = row.merged.vectors
        yield _COPY_ROW.pack(2, 4, place, -1 if vectors is None else len(vectors))
        yield vectors or b""
    yield _COPY_END


def _count(cursor: CursorWrapper, rows: Iterable[_Row]) -> list[tuple[str, str]]:
    """Count in the batches what was stored; return those that have ended, and how."""
    completed, failed = Counter[int](), Counter[int]()
    for row in rows:
        completed[row.claim.batch] += row.merged.completed
        failed[row.claim.batch] += row.merged.failed
    batches = list(completed)
    cursor.execute(_COUNT, [batches, [completed[b] for b in batches], [failed[b] for b in batches]])
    return [(batch_id, state) for batch_id, state in cursor.fetchall() if state != "processing"]


def _complete(outcome: Outcome) -> Merged:
    """What nearly every chunk comes to: a vector for each text, in one run."""
    return Merged(
        vectors=outcome.vectors.astype("<f4", copy=False).tobytes(),
        dimensions=outcome.vectors.shape[1],
        errors={},
        pending=None,
        completed=len(outcome.done),
        failed=0,
    )


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


def _values(rows: Mapping[int, _Row]) -> dict[str, Any]:
    """One list for each column."""
    claims, merged = [row.claim for row in rows.values()], [row.merged for row in rows.values()]
    return {
        "places": list(rows),
        "chunks": [claim.chunk for claim in claims],
        "tokens": [str(claim.token) for claim in claims],
        "done": [one.pending is None for one in merged],
        "dimensions": [one.dimensions for one in merged],
        "errors": [orjson.dumps(one.errors).decode() for one in merged],
        # An array of arrays would need them to be of one length.
        "pending": [None if one.pending is None else "{" + ",".join(map(str, one.pending)) + "}" for one in merged],
        "endpoints": [row.outcome.endpoint for row in rows.values()],
        "upstream_models": [row.outcome.upstream_model for row in rows.values()],
    }
