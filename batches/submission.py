"""Submit: a batch and its chunks in one transaction, then into the queue.

Who got a 202 finds the batch again, whatever dies next: it is in PostgreSQL before the answer goes out. Handing it to
Redis comes after the commit and may fail; the scheduler hands over what is missing there.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db import IntegrityError, InterfaceError, OperationalError, transaction

from batches import bounds, clock, estimates, idempotency, queues, releasing
from batches.models import BatchChunk, BatchJob, FileBatch
from integrations import embed_request, recorder
from integrations.calls import Call
from integrations.errors import CitadelError, InvalidRequest, QueueUnavailable
from integrations.patterns import Accepted, EmbedCall, Mode

# Rows of one INSERT, and characters of one chunk and one INSERT: what an upload of any size holds in memory.
BLOCK_CHUNKS: Final = 50
BLOCK_CHARACTERS: Final = 8 * 2**20
CHUNK_CHARACTERS: Final = 4 * 2**20
# 24 random bits meet again within one second and one model only under absurd loads; then another draw does.
ID_DRAWS: Final = 5
RETRY_AFTER: Final = 5.0


def submit(call: EmbedCall) -> Accepted:
    """Store the call's texts as a batch and return its place in the queue.

    Raises IdempotencyConflict, QueueFull, and QueueUnavailable when PostgreSQL cannot be asked; nothing is stored then.
    (A connection that breaks during COMMIT itself leaves that open: an Idempotency-Key makes sending again safe.)
    """
    texts = call.request.texts
    digest = idempotency.BodyDigest(call)
    for text in texts:
        digest.add(text)
    with _recorded(call) as outcome, _queue_errors(), transaction.atomic():
        job = idempotency.first_batch(call, digest.hex())
        if job is None:
            bounds.check_room(call.model.slug, limit=call.model.max_waiting_texts, adding=len(texts))
            job = insert_job(call, clock.now())
            job.total = _insert_chunks(job, texts, size=call.assignment.batch_size)
            position = settle(job, call, digest.hex())
        else:
            position = _position(job, call)
        outcome.job = job
        return _accepted(job, position)


def submit_lines(call: EmbedCall, lines: Iterable[bytes]) -> Accepted:
    """Store the texts of an NDJSON body, one `{"text": …}` a line, up to MAX_BATCH_TEXTS, in constant memory.

    `call.request.texts` is not looked at. Raises as `submit` does, and InvalidRequest that names the first bad line.
    """
    digest = idempotency.BodyDigest(call)
    with _recorded(call) as outcome, _queue_errors(), transaction.atomic():
        # Whoever sends a stored batch again gets its answer also when the queue is full by now.
        if not idempotency.is_used(call):
            bounds.check_room(call.model.slug, limit=call.model.max_waiting_texts, adding=1)
        before = transaction.savepoint()
        job = insert_job(call, clock.now())
        texts = _digested(embed_request.parse_lines(lines), digest)
        job.total = _insert_chunks(job, texts, size=call.assignment.batch_size)
        if not job.total:
            raise InvalidRequest(errors={"body": ["Send at least one line."]})
        # Only now is the body known, and with it whether it came before.
        first = idempotency.first_batch(call, digest.hex())
        if first is None:
            position = settle(job, call, digest.hex())
        else:
            transaction.savepoint_rollback(before)
            job, position = first, _position(first, call)
        outcome.job = job
        return _accepted(job, position)


def insert_texts(call: EmbedCall, texts: Iterable[str], *, parent: FileBatch) -> BatchJob:
    """Insert those lines of a file that one batch can hold, within the caller's transaction; `settle` comes next."""
    job = insert_job(call, clock.now(), parent=parent)
    job.total = _insert_chunks(job, texts, size=call.assignment.batch_size)
    return job


def _six_hex() -> str:
    return secrets.token_hex(3)


def insert_job(
    call: EmbedCall, now: datetime, *, draw: Callable[[], str] = _six_hex, parent: FileBatch | None = None
) -> BatchJob:
    """Insert the row of a batch that has no texts yet, under an id that `draw`'s six characters end."""
    for _ in range(ID_DRAWS - 1):
        try:
            with transaction.atomic():
                return _new_job(call, now, suffix=draw(), parent=parent)
        except IntegrityError:
            continue
    return _new_job(call, now, suffix=draw(), parent=parent)


def _new_job(call: EmbedCall, now: datetime, *, suffix: str, parent: FileBatch | None) -> BatchJob:
    return BatchJob.objects.create(
        batch_id=f"batch_{call.model.slug}_{now:%Y%m%d_%H%M%S}_{suffix}",
        client=call.client,
        model=call.model.slug,
        pattern=call.assignment.pattern,
        priority=call.request.priority,
        input_type=call.request.input_type,
        dimensions=call.request.dimensions,
        client_metadata=dict(call.request.client_metadata),
        callback_url=call.request.callback_url,
        request_id=call.request_id,
        total=0,
        submitted_at=now,
        queued_at=now,
        available_at=now,
        file_batch=parent,
        expires_at=parent.expires_at if parent else now + timedelta(seconds=settings.BULK_EXPIRY),
    )


def _insert_chunks(job: BatchJob, texts: Iterable[str], *, size: int) -> int:
    """Insert `texts` as chunks of at most `size`, in blocks; return how many texts there were."""
    number = first = 0
    for block in _blocks(_cut(texts, size)):
        rows = []
        for piece in block:
            rows.append(_chunk(job, piece, number=number, first=first))
            number, first = number + 1, first + len(piece)
        BatchChunk.objects.bulk_create(rows)
    return first


def _chunk(job: BatchJob, texts: list[str], *, number: int, first: int) -> BatchChunk:
    return BatchChunk(
        batch=job, number=number, first=first, size=len(texts), texts=texts, available_at=job.available_at
    )


def _cut(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Pieces of at most `size` texts; long texts make shorter pieces."""
    piece: list[str] = []
    characters = 0
    for text in texts:
        if piece and (len(piece) == size or characters + len(text) > CHUNK_CHARACTERS):
            yield piece
            piece, characters = [], 0
        piece.append(text)
        characters += len(text)
    if piece:
        yield piece


def _blocks(pieces: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    block: list[list[str]] = []
    characters = 0
    for piece in pieces:
        block.append(piece)
        characters += sum(map(len, piece))
        if len(block) == BLOCK_CHUNKS or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _digested(texts: Iterable[str], digest: idempotency.BodyDigest) -> Iterator[str]:
    for text in texts:
        digest.add(text)
        yield text


def settle(job: BatchJob, call: EmbedCall, digest: str = "") -> int:
    """Write what is known only once all texts are stored, see that they fit, and have the batch handed over.

    Return its position in the queue. Raises QueueFull. Of several batches in one transaction, by the model's name.
    """
    job.body_digest = digest
    job.idempotency_key = call.idempotency_key or None
    place = estimates.place(job, assignment=call.assignment, now=clock.now())
    job.estimated_completion = place.estimated_completion
    job.save(update_fields=["total", "body_digest", "idempotency_key", "estimated_completion"])
    bounds.confirm_room(job.model, limit=call.model.max_waiting_texts)
    # A lambda: what fails after the commit is only logged, and Django names it by a name that a partial does not have.
    transaction.on_commit(lambda: _hand_over(job.model), robust=True)
    return place.position or 0


def _hand_over(model: str) -> None:
    for batch_id in releasing.release_if_full(model):
        queues.enqueue(batch_id)


def _position(job: BatchJob, call: EmbedCall) -> int:
    """Where a batch that came before stands now; 0 when it waits no more."""
    if job.state != BatchJob.State.QUEUED:
        return 0
    return estimates.place(job, assignment=call.assignment, now=clock.now()).position or 0


def _accepted(job: BatchJob, position: int) -> Accepted:
    return Accepted(
        batch_id=job.batch_id,
        items_count=job.total,
        queue_position=position,
        estimated_completion=job.estimated_completion or job.queued_at,
        queued_at=job.submitted_at,
    )


@contextmanager
def _queue_errors() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise QueueUnavailable(retry_after=RETRY_AFTER) from error


@dataclass(slots=True)
class _Outcome:
    job: BatchJob | None = None


@contextmanager
def _recorded(call: EmbedCall) -> Iterator[_Outcome]:
    """Record the submission, whatever becomes of it."""
    outcome, code, began = _Outcome(), "ok", time.perf_counter()
    try:
        yield outcome
    except CitadelError as error:
        code = error.code
        raise
    except Exception:
        code = CitadelError.code
        raise
    finally:
        record(call, outcome.job, code=code, seconds=time.perf_counter() - began)


def record(call: EmbedCall, job: BatchJob | None, *, code: str, seconds: float) -> None:
    """Note a submission among the calls, and what it came to."""
    recorder.record(
        Call(
            started_at=call.received_at,
            request_id=call.request_id,
            client=call.client,
            model=call.model.slug,
            pattern=call.assignment.pattern,
            mode=Mode.QUEUED,
            code=code,
            duration_ms=seconds * 1000,
            texts=job.total if job else len(call.request.texts),
            batch_id=job.batch_id if job else "",
        )
    )
