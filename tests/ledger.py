"""What PostgreSQL itself writes down of every change of a chunk or batch, and what that says afterwards.

Triggers write in the transaction of the change: what was rolled back, or lost in a crash, is not in the ledger either.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from batches.models import BatchJob

# The diagram of a chunk in docs/queue.md. Claimed twice: its lease ran out in between.
CHUNK_MOVES = {
    *(("waiting", "claimed"), ("claimed", "claimed"), ("claimed", "done"), ("claimed", "waiting")),
    *(("waiting", "dropped"), ("claimed", "dropped"), ("done", "waiting"), ("dropped", "waiting")),
}

_NOTE = """
CREATE TABLE ledger_move (
    id bigserial PRIMARY KEY, at double precision, what text, row_id bigint, size int, old text, new text,
    owner text, wrote boolean
);
CREATE FUNCTION ledger_note_chunk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO ledger_move (at, what, row_id, size, old, new, owner, wrote)
    VALUES (extract(epoch FROM clock_timestamp()), 'chunk', NEW.id, NEW.size, OLD.state, NEW.state, NEW.lease_owner,
        NEW.vectors IS DISTINCT FROM OLD.vectors);
    RETURN NULL;
END $$;
CREATE FUNCTION ledger_note_batch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO ledger_move (at, what, row_id, size, old, new, owner, wrote)
    VALUES (extract(epoch FROM clock_timestamp()), 'batch', NEW.id, NEW.total, OLD.state, NEW.state, '', false);
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_chunk AFTER UPDATE ON batches_batchchunk FOR EACH ROW
WHEN ((OLD.state, OLD.lease_token, OLD.vectors) IS DISTINCT FROM (NEW.state, NEW.lease_token, NEW.vectors))
EXECUTE FUNCTION ledger_note_chunk();
CREATE TRIGGER ledger_batch AFTER UPDATE ON batches_batchjob FOR EACH ROW
WHEN (OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION ledger_note_batch();
"""
_CLOSE = """
DROP TRIGGER IF EXISTS ledger_chunk ON batches_batchchunk;
DROP TRIGGER IF EXISTS ledger_batch ON batches_batchjob;
DROP FUNCTION IF EXISTS ledger_note_chunk;
DROP FUNCTION IF EXISTS ledger_note_batch;
DROP TABLE IF EXISTS ledger_move;
"""
_READ = "SELECT at, what, row_id, size, old, new, owner, wrote FROM ledger_move ORDER BY id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One change of a row: `at` in seconds since 1970, `owner` of the new lease, `wrote` when the vectors changed."""

    at: float
    what: str  # chunk or batch
    row_id: int
    size: int
    old: str
    new: str
    owner: str
    wrote: bool


def open_ledger(cursor: Any) -> None:
    """Write down every change from now on."""
    cursor.execute(_NOTE)


def close_ledger(cursor: Any) -> None:
    """Write down nothing more, and forget what was."""
    cursor.execute(_CLOSE)


def read(cursor: Any) -> list[Move]:
    """Return every change, in order."""
    names = ("at", "what", "row_id", "size", "old", "new", "owner", "wrote")
    cursor.execute(_READ)
    return [Move(**dict(zip(names, row, strict=True))) for row in cursor.fetchall()]


def forbidden(moves: Iterable[Move]) -> list[str]:
    """Return, in words, every change of state that no table allows."""
    of_batches = {(old, new) for old, news in BatchJob.TRANSITIONS.items() for new in news}
    return [
        f"{move.what} {move.row_id} went from {move.old} to {move.new}"
        for move in moves
        if (move.old, move.new) not in (of_batches if move.what == "batch" else CHUNK_MOVES)
    ]


def held(moves: Iterable[Move], *, at: float, owner: str = "") -> dict[int, int]:
    """Return the chunks that `owner`, or anybody, held at that time, with their sizes."""
    last = {move.row_id: move for move in moves if move.what == "chunk" and move.at <= at}
    return {
        chunk: move.size for chunk, move in last.items() if move.new == "claimed" and (not owner or move.owner == owner)
    }


def next_done(moves: Iterable[Move], *, after: float, chunks: Collection[int] | None = None) -> float:
    """Return when the next chunk (of these) was done after that time; infinite if never."""
    done = (move for move in moves if (move.what, move.new) == ("chunk", "done") and move.at > after)
    return next((move.at for move in done if chunks is None or move.row_id in chunks), math.inf)


def without(outages: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    """Return the seconds from `begin` to `end` that lie in none of these outages."""
    seconds, reached = 0.0, begin
    for fell, rose in sorted(outages):
        seconds += max(0.0, min(fell, end) - reached)
        reached = max(reached, min(rose, end))
    return seconds + max(0.0, end - reached)
