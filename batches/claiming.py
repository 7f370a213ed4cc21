"""Which chunks a worker may take, and the lease under which it holds them.

A claim is one short transaction that locks only chunks, skips those that somebody else is just claiming, and writes a
token and a time limit on PostgreSQL's clock. Whoever finishes a chunk must show the token (batches.storing), so a chunk
done twice is stored once. A lease that has run out may be taken by anybody; so may one that ends further ahead than a
lease is long: then the clock has stepped back, and it would otherwise hold for as long as the step.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from django.conf import settings
from django.db import connection, transaction

from integrations.values import Model

# Batches that are looked at for one claim; those behind them have their turn when these are done.
CANDIDATES = 200

# Before a statement that may be lost, should PostgreSQL itself crash: a claim that is gone makes its result late,
# a heartbeat is said again. Its commit need not wait for the disk, which is most of what a small batch waits for.
UNSYNCED = "SET LOCAL synchronous_commit = off;"
# Nothing waits longer than this, in seconds, before it is looked at again. What says it would was written before the
# clock stepped back, and is due.
LONGEST_WAIT = 600.0
_DUE = f"(%s <= now() OR %s > now() + interval '{LONGEST_WAIT + 60} seconds')"
OPEN_BATCH = (
    f"b.state IN ('queued', 'processing') AND b.released_at IS NOT NULL AND {_DUE.replace('%s', 'b.available_at')}"
)
# clock_timestamp(), not now(): a transaction that began before another one's claim would see a lease that ends further
# ahead than a lease is long, counted from its own beginning, and take the chunk a second time. A second is allowed for
# the small steps by which a clock is set right.
CLAIMABLE = f"""c.state IN ('waiting', 'claimed') AND {_DUE.replace("%s", "c.available_at")}
    AND (c.state = 'waiting' OR c.lease_until < now()
        OR c.lease_until > clock_timestamp() + (%(lease)s + 1) * interval '1 second')"""

# Whoever claims does not take what it holds itself, also where the clock has stepped or its renewal is late.
_NOT_HELD = "c.id <> ALL(%(held)s::bigint[])"

# The batch asked for, or one of the same model that an operator or client put before it. The inner ORDER BY and LIMIT
# keep the lateral part, which locks, from being evaluated for more than what is needed.
_FIRST = f"""{UNSYNCED}
SELECT chunk.id, b.id, chunk.size, chunk.fresh
FROM (
    SELECT b.id FROM batches_batchjob b
    WHERE b.model = %(model)s AND {OPEN_BATCH} AND (b.batch_id = %(batch_id)s OR b.priority > %(priority)s)
        AND EXISTS (SELECT FROM batches_batchchunk c WHERE c.batch_id = b.id AND {CLAIMABLE})
    ORDER BY b.priority DESC, b.queued_at, b.id LIMIT {CANDIDATES}
) b CROSS JOIN LATERAL (
    SELECT c.id, c.size, c.attempts = 0 AND c.pending IS NULL AS fresh
    FROM batches_batchchunk c WHERE c.batch_id = b.id AND {CLAIMABLE} AND {_NOT_HELD}
    ORDER BY c.number LIMIT %(most)s FOR UPDATE SKIP LOCKED
) chunk
LIMIT %(most)s
"""  # nosec B608 # made of constants

# Small batches that share the call: same model, pattern, input type and length of vectors. A chunk that has failed
# before goes alone, so that one which breaks the server does not take strangers along twice.
_COMPANY = f"""
SELECT chunk.id, chunk.size
FROM (
    SELECT b.id FROM batches_batchjob b JOIN batches_batchjob mine ON mine.id = %(batch)s
    WHERE b.model = %(model)s AND {OPEN_BATCH} AND b.id <> mine.id AND b.total <= %(room)s
        AND b.pattern = mine.pattern AND b.input_type = mine.input_type
        AND b.dimensions IS NOT DISTINCT FROM mine.dimensions
        AND EXISTS (SELECT FROM batches_batchchunk c WHERE c.batch_id = b.id AND {CLAIMABLE})
    ORDER BY b.priority DESC, b.queued_at, b.id LIMIT %(room)s
) b CROSS JOIN LATERAL (
    SELECT c.id, c.size FROM batches_batchchunk c
    WHERE c.batch_id = b.id AND {CLAIMABLE} AND {_NOT_HELD} AND c.attempts = 0 AND c.pending IS NULL
    ORDER BY c.number LIMIT 1 FOR UPDATE SKIP LOCKED
) chunk
"""  # nosec B608 # made of constants

_TAKE = """
UPDATE batches_batchchunk c
SET state = 'claimed', lease_token = gen_random_uuid(), lease_owner = %(owner)s,
    lease_until = now() + %(lease)s * interval '1 second'
FROM batches_batchjob b
WHERE c.id = ANY(%(ids)s) AND b.id = c.batch_id
RETURNING c.id, c.lease_token, b.id, b.batch_id, b.state, b.client, b.request_id, b.pattern, b.input_type, b.dimensions,
    c.attempts, c.size, c.texts, c.pending, c.vectors, c.dimensions, c.errors
"""

BEGIN = """
UPDATE batches_batchjob SET state = 'processing', started_at = COALESCE(started_at, now())
WHERE id = %s AND state = 'queued'
"""

# SKIP LOCKED: whoever holds one of these rows is ending its lease anyway, and may be waiting for a row of ours.
_RENEW = f"""{UNSYNCED}
UPDATE batches_batchchunk SET lease_until = now() + %(lease)s * interval '1 second'
WHERE id IN (
    SELECT c.id FROM batches_batchchunk c
    JOIN unnest(%(ids)s::bigint[], %(tokens)s::uuid[]) AS held(id, token) ON held.id = c.id
    WHERE c.state = 'claimed' AND c.lease_token = held.token
    FOR UPDATE OF c SKIP LOCKED
)
"""  # nosec B608 # made of constants

_HAND_BACK = """
UPDATE batches_batchchunk SET state = 'waiting', lease_token = NULL, lease_owner = '', lease_until = NULL
WHERE id = %s AND state = 'claimed' AND lease_token = %s
"""

_COUNT = f"""
SELECT count(*) FROM (
    SELECT FROM batches_batchjob b JOIN batches_batchchunk c ON c.batch_id = b.id
    WHERE b.batch_id = %(batch_id)s AND {OPEN_BATCH} AND {CLAIMABLE} LIMIT %(limit)s
) claimable
"""  # nosec B608 # made of constants


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What an earlier run has stored of a chunk: `vectors` is size x dimensions float32, little-endian."""

    vectors: bytes
    dimensions: int
    errors: dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A chunk that this process holds. `texts` are the pending ones; `positions` say where in the chunk they stand."""

    chunk: int
    token: uuid.UUID
    batch: int
    batch_id: str
    client: str
    request_id: str
    pattern: str
    input_type: str
    attempts: int
    size: int
    texts: tuple[str, ...]
    positions: tuple[int, ...]
    kept: Kept | None
    shortened: int | None = None  # the length of vectors to ask for, where it is not the model's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A batch that a job names, as far as claiming needs it."""

    batch_id: str
    model: str
    priority: int
    total: int


def find(batch_id: str) -> Target | None:
    """Return the batch, None when there is none that is active and released."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT model, priority, total FROM batches_batchjob b "
            "WHERE b.batch_id = %s AND b.state IN ('queued', 'processing') AND b.released_at IS NOT NULL",
            [batch_id],
        )
        row = cursor.fetchone()
    return Target(batch_id=batch_id, model=row[0], priority=row[1], total=row[2]) if row else None


def claim(target: Target, *, owner: str, call_size: int) -> list[Claim]:
    """Take one chunk of the target, or of a batch that goes before it, and small batches up to `call_size` texts.

    Empty when nothing can be claimed now.
    """
    return next(iter(claim_calls(target, owner=owner, call_size=call_size, most=1)), [])


def claim_calls(
    target: Target, *, owner: str, call_size: int, most: int, held: Sequence[Claim] = ()
) -> list[list[Claim]]:
    """Take chunks for up to `most` calls, as `claim` does for each, in one transaction; return those of each call.

    None of those `held`, which this process has in its hands.
    Fewer where small batches are gathered for a call: those come one call at a time.
    """
    values: dict[str, Any] = {
        "batch_id": target.batch_id,
        "model": target.model,
        "priority": target.priority,
        "owner": owner,
        "lease": settings.CHUNK_LEASE,
        "most": most,
        "held": [claim.chunk for claim in held],
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_FIRST, values)
        calls = _calls(cursor, cursor.fetchall(), values, call_size=call_size)
        if not calls:
            return []
        cursor.execute(_TAKE, {**values, "ids": [chunk for chunks in calls for chunk in chunks]})
        rows = cursor.fetchall()
    _begin(row[2] for row in rows if row[4] == "queued")
    taken = {claim.chunk: claim for claim in map(_claim, rows)}
    return [[taken[chunk] for chunk in chunks] for chunks in calls]


def _calls(
    cursor: Any, found: Sequence[Sequence[Any]], values: Mapping[str, Any], *, call_size: int
) -> list[list[int]]:
    """The chunks of each call. One that can be filled up goes with its company, and then only that call is made."""
    calls: list[list[int]] = []
    for chunk, batch, size, fresh in found:
        if not fresh or size >= call_size:
            calls.append([chunk])
        elif not calls:
            return [[chunk, *_company(cursor, {**values, "batch": batch}, room=call_size - size)]]
        else:
            break
    return calls


def claimable(batch_id: str, *, limit: int = 1) -> int:
    """Count the chunks of a batch that could be claimed now, up to `limit`."""
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, {"batch_id": batch_id, "limit": limit, "lease": settings.CHUNK_LEASE})
        return int(cursor.fetchone()[0])


def renew(claims: Sequence[Claim]) -> None:
    """Hold these chunks for another lease. One that somebody else has taken since stays theirs."""
    if not claims:
        return
    values: dict[str, Any] = {
        "lease": settings.CHUNK_LEASE,
        "ids": [claim.chunk for claim in claims],
        "tokens": [str(claim.token) for claim in claims],
    }
    with connection.cursor() as cursor:
        cursor.execute(_RENEW, values)


def hand_back(claims: Iterable[Claim]) -> None:
    """Let go of chunks that were not worked on: no attempt is counted, and anybody may take them at once."""
    for claim in claims:
        # One row a transaction: together they could deadlock with a cancel that locks them in another order.
        with connection.cursor() as cursor:
            cursor.execute(_HAND_BACK, [claim.chunk, str(claim.token)])


def call_size(model: Model) -> int:
    """Return how many texts one upstream call for the queue may hold."""
    assignment = model.queue_assignment
    return assignment.batch_size if assignment else settings.BULK_BATCH_SIZE


def _company(cursor: Any, values: dict[str, Any], *, room: int) -> list[int]:
    """Chunks of other small batches, in the queue's order, as long as they fit."""
    cursor.execute(_COMPANY, {**values, "room": room})
    ids = []
    for chunk, size in cursor.fetchall():
        if size <= room:
            ids.append(chunk)
            room -= size
    return ids


def _begin(batches: Iterable[int]) -> None:
    """Say that work on these batches has begun. After the claim's commit: no batch's row is locked after a chunk."""
    for batch in sorted(set(batches)):
        with connection.cursor() as cursor:
            cursor.execute(UNSYNCED + BEGIN, [batch])


def _claim(row: Sequence[Any]) -> Claim:
    chunk, token, batch, batch_id, _, client, request_id, pattern, input_type, shortened, *content = row
    attempts, size, texts, pending, vectors, dimensions, errors = content
    every = orjson.loads(texts)
    positions = tuple(range(size)) if pending is None else tuple(pending)
    kept = None
    if pending is not None:
        kept = Kept(vectors=bytes(vectors or b""), dimensions=dimensions or 0, errors=orjson.loads(errors))
    return Claim(
        chunk=chunk,
        token=token,
        batch=batch,
        batch_id=batch_id,
        client=client,
        request_id=request_id,
        pattern=pattern,
        input_type=input_type,
        shortened=shortened,
        attempts=attempts,
        size=size,
        texts=tuple(every[position] for position in positions),
        positions=positions,
        kept=kept,
    )
