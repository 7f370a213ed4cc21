"""Submissions and batches for tests of the queue's client side."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from django.db import connection

from batches import clock
from batches.models import BatchChunk, BatchJob
from integrations import snapshot
from integrations.models import ModelConfig, PatternAssignment
from integrations.patterns import EmbedCall, EmbedRequest, Mode
from tests.made import a_model, an_assignment

State = BatchJob.State


def a_submission(texts: Sequence[str] = ("one", "two", "three"), **changes: Any) -> EmbedCall:
    """A call for the queue: model m, bulk_only, 100 texts a chunk; `changes` of call, model, assignment or request."""
    assignment = an_assignment(
        changes.pop("pattern", "bulk_only"),
        **{k: changes.pop(k) for k in ("batch_size", "processing_interval") if k in changes},
    )
    model = a_model(
        assignments=(assignment,), **{k: changes.pop(k) for k in ("slug", "max_waiting_texts") if k in changes}
    )
    of_request = {
        k: changes.pop(k) for k in ("priority", "input_type", "client_metadata", "callback_url") if k in changes
    }
    values: dict[str, Any] = {
        "request_id": "req-1",
        "client": "team-a",
        "model": model,
        "assignment": assignment,
        "mode": Mode.QUEUED,
        "request": EmbedRequest(texts=list(texts), single=False, batch=True, **of_request),
        "received_at": datetime.now(UTC),
    }
    return EmbedCall(**(values | changes))


def configure(
    slug: str = "m", *, pattern: str = "bulk_only", max_waiting_texts: int | None = None, **fields: Any
) -> None:
    """Store a model with one assignment and make it known to this process."""
    model = ModelConfig.objects.create(slug=slug, upstream_model="test-model", max_waiting_texts=max_waiting_texts)
    PatternAssignment.objects.create(model=model, pattern=pattern, **fields)
    snapshot.bump()
    snapshot.load()


def a_batch(model: str = "m", *, total: int = 3, age: float = 0, **fields: Any) -> BatchJob:
    """Store a batch's row, submitted `age` seconds ago; without chunks."""
    then = clock.now() - timedelta(seconds=age)
    values: dict[str, Any] = {
        "batch_id": f"batch_{model}_{BatchJob.objects.count()}",
        "client": "team-a",
        "model": model,
        "pattern": "bulk_only",
        "request_id": "req-1",
        "total": total,
        "submitted_at": then,
        "queued_at": then,
        "available_at": then,
        "expires_at": then + timedelta(days=1),
    }
    return BatchJob.objects.create(**(values | fields))


def a_chunk(job: BatchJob, *, number: int, first: int, texts: Sequence[str], **fields: Any) -> BatchChunk:
    """Store one of the batch's chunks, waiting."""
    return BatchChunk.objects.create(
        batch=job,
        number=number,
        first=first,
        size=len(texts),
        texts=list(texts),
        available_at=job.available_at,
        **fields,
    )


def a_vector(text: str, dimensions: int = 4) -> list[float]:
    """What these tests store for a text: different for different texts, and not exact in binary."""
    return [round(sum(map(ord, text)) / 7 + i / 10, 3) for i in range(dimensions)]


def finish(chunk: BatchChunk, *, failed: Iterable[int] = ()) -> None:
    """Store an outcome for each pending text of a chunk, as a worker does; the positions in `failed` get an error."""
    failed = set(failed)
    rows = np.zeros((chunk.size, 4), dtype="<f4")
    if chunk.vectors is not None:
        rows[:] = np.frombuffer(chunk.vectors, dtype="<f4").reshape(chunk.size, 4)
    pending = list(chunk.pending_positions())
    for position in pending:
        rows[position] = 0 if position in failed else a_vector(chunk.texts[position])
    chunk.vectors, chunk.dimensions = rows.tobytes(), 4
    chunk.errors = {str(p): {"code": "text_rejected", "detail": "too long"} for p in failed}
    chunk.state, chunk.pending, chunk.finished_at = BatchChunk.State.DONE, [], clock.now()
    chunk.endpoint, chunk.upstream_model = "http://127.0.0.1:11400", "test-model"
    chunk.save()
    job = chunk.batch
    job.refresh_from_db()
    job.failed += len(failed)
    job.completed += len(pending) - len(failed)
    job.state, job.started_at = State.PROCESSING, job.started_at or clock.now()
    if not job.outstanding:
        job.state = State.COMPLETED if job.completed else State.FAILED
        job.finished_at = clock.now()
    job.save()


def texts_of(batch_id: str) -> list[str]:
    """Every stored text of a batch, in order."""
    chunks = BatchChunk.objects.filter(batch__batch_id=batch_id).order_by("first")
    return [text for chunk in chunks for text in chunk.texts]


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Run `calls` in threads that begin together, each with a connection of its own; return what came of each."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        gate.wait(10)
        try:
            return call()
        except Exception as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
