"""What came of a batch's texts, in the order they were submitted."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from asgiref.sync import sync_to_async
from django.db.models import Max, QuerySet

from batches.models import BatchChunk, BatchJob
from integrations.patterns import Vectors

# Chunks read at once for a stream: some megabytes.
STREAM_CHUNKS: Final = 8
PURGED: Final = "purged"

# What became of a text that has no outcome, by its batch's state. A completed or failed batch leaves none.
_WITHOUT_OUTCOME: Final[dict[str, str]] = {
    BatchJob.State.QUEUED: "pending",
    BatchJob.State.PROCESSING: "pending",
    BatchJob.State.CANCELLED: "cancelled",
    BatchJob.State.EXPIRED: "expired",
}

# One text's result: index, status, "embedding" (a float32 array) or "error", and with either endpoint, upstream_model.
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some rows; `next` is the offset of the row after the last, None at the end."""

    rows: Sequence[Row]
    total: int
    next: int | None


def page(job: BatchJob, *, offset: int, limit: int) -> Page:
    """Return the rows from `offset` on, at most `limit`."""
    end = min(offset + limit, job.total)
    rows = [row for row in _rows(job, _chunks(job, offset, end)) if offset <= row["index"] < end]
    rows = _complete(job, rows, offset, end)
    return Page(rows=rows, total=job.total, next=end if end < job.total else None)


def lines(job: BatchJob) -> Iterator[bytes]:
    """Yield the whole result as NDJSON in blocks of some chunks; memory does not grow with the batch."""
    position = 0
    while position < job.total:
        block, position = block_from(job, position)
        yield block


async def alines(job: BatchJob) -> AsyncIterator[bytes]:
    """`lines` for an ASGI server: Django would collect a synchronous iterator whole before the first byte went out."""
    position = 0
    while position < job.total:
        block, position = await sync_to_async(block_from)(job, position)
        yield block


def block_from(job: BatchJob, position: int) -> tuple[bytes, int]:
    """Return the NDJSON of the next chunks' rows, which begin at `position`, and where the next block begins."""
    rows, end = _next_rows(job, position, STREAM_CHUNKS)
    return b"".join(
        orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE) for row in rows
    ), end


def rows(job: BatchJob, *, chunks: int = STREAM_CHUNKS) -> Iterator[Row]:
    """Yield the whole result in order, with so many chunks in memory at once."""
    position = 0
    while position < job.total:
        found, position = _next_rows(job, position, chunks)
        yield from found


def _next_rows(job: BatchJob, position: int, most: int) -> tuple[list[Row], int]:
    chunks = list(_of(job).filter(first__gte=position).order_by("first")[:most])
    # Purged in the meantime: the rest is said to be, in blocks like the others.
    end = chunks[-1].first + chunks[-1].size if chunks else min(position + 1000, job.total)
    return _complete(job, list(_rows(job, chunks)), position, end), end


def vectors_of(chunk: BatchChunk) -> Vectors | None:
    """Return the chunk's vectors, float32 (size, dimensions), rows without one all zeros; None before the first."""
    if chunk.vectors is None or not chunk.dimensions:
        return None
    stored = np.frombuffer(chunk.vectors, dtype="<f4").reshape(chunk.size, chunk.dimensions)
    return stored.astype(np.float32, copy=False)


def _of(job: BatchJob) -> QuerySet[BatchChunk]:
    """The batch's chunks without their texts: nobody who reads results needs them."""
    return BatchChunk.objects.filter(batch=job).defer("texts")


def _chunks(job: BatchJob, offset: int, end: int) -> QuerySet[BatchChunk]:
    """The chunks that hold the positions from `offset` to before `end`."""
    chunks = _of(job)
    begins = chunks.filter(first__lte=offset).aggregate(first=Max("first"))["first"]
    return chunks.filter(first__gte=begins or 0, first__lt=end).order_by("first")


def _rows(job: BatchJob, chunks: Iterator[BatchChunk] | Sequence[BatchChunk] | QuerySet[BatchChunk]) -> Iterator[Row]:
    if job.purged_at is None:
        for chunk in chunks:
            yield from _chunk_rows(job, chunk)


def _chunk_rows(job: BatchJob, chunk: BatchChunk) -> Iterator[Row]:
    vectors, pending = vectors_of(chunk), frozenset(chunk.pending_positions())
    source = {"endpoint": chunk.endpoint, "upstream_model": chunk.upstream_model}
    for position in range(chunk.size):
        row: Row = {"index": chunk.first + position}
        if position in pending:
            yield row | {"status": _WITHOUT_OUTCOME.get(job.state, "pending")}
        elif error := chunk.errors.get(str(position)):
            yield row | {"status": "failed", "error": error} | source
        elif vectors is not None:
            yield row | {"status": "completed", "embedding": vectors[position]} | source


def _complete(job: BatchJob, rows: list[Row], offset: int, end: int) -> list[Row]:
    """Each position has its row: those whose chunk is deleted say so."""
    if len(rows) == max(0, end - offset):
        return rows
    found = {row["index"]: row for row in rows}
    return [found.get(index) or {"index": index, "status": PURGED} for index in range(offset, end)]
