"""The queue as simply as it can be said, for tests that compare it with what PostgreSQL holds after every step.

A batch is a list of chunks, a chunk a list of texts, each of them pending, with a vector or with an error. What an
operation does is a list of steps, each of which happens whole or not at all: a process that dies in the middle of the
operation leaves what the first few of them have made.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from batches import clock
from batches.models import BatchChunk, BatchJob
from tests.made_batches import a_vector

ACTIVE = ("queued", "processing")
PENDING, VECTOR, ERROR = "pending", "vector", "error"
# Texts of one call, at which what is held is released, too.
CALL = 4


@dataclass(slots=True, kw_only=True)
class Chunk:
    """`lapsed`: its lease has run out; `later`: it may not be claimed yet."""

    texts: tuple[str, ...]
    state: str = "waiting"
    outcomes: list[str]
    attempts: int = 0
    token: uuid.UUID | None = None
    lapsed: bool = False
    later: bool = False

    @property
    def claimable(self) -> bool:
        return not self.later and (self.state == "waiting" or (self.state == "claimed" and self.lapsed))

    def let_go(self, state: str) -> None:
        """End the lease."""
        self.state, self.token, self.lapsed = state, None, False


@dataclass(slots=True, kw_only=True)
class Batch:
    """`later`: nothing of it may be claimed yet; `overdue`: its time is over; `stored`: its chunks may be there."""

    batch_id: str = field(default="", compare=False)
    pk: int = field(default=0, compare=False)
    state: str = "queued"
    released: bool = False
    later: bool = False
    overdue: bool = False
    purged: bool = False
    stored: bool = True
    chunks: list[Chunk]

    @property
    def outcomes(self) -> list[str]:
        return [outcome for chunk in self.chunks for outcome in chunk.outcomes]

    @property
    def open(self) -> bool:
        return self.state in ACTIVE and self.released and not self.later

    @property
    def idle(self) -> bool:
        """Whether a worker could take something of it."""
        return self.open and any(chunk.claimable for chunk in self.chunks)

    @property
    def retryable(self) -> bool:
        return (
            self.state in ("completed", "failed", "expired")
            and not self.purged
            and self.outcomes.count(VECTOR) < len(self.outcomes)
        )


Model = list[Batch]
Step = Callable[[Model], None]


def submit(texts: Iterable[str], size: int) -> list[Step]:
    """Store a batch in chunks of `size`; then release what is held, if that is a call's worth."""
    every = tuple(texts)
    cut = [every[start : start + size] for start in range(0, len(every), size)]

    def insert(model: Model) -> None:
        model.append(Batch(chunks=[Chunk(texts=part, outcomes=[PENDING] * len(part)) for part in cut]))

    def release_if_full(model: Model) -> None:
        held = [batch for batch in model if batch.state == "queued" and not batch.released]
        if sum(len(batch.outcomes) for batch in held) >= CALL:
            for batch in held:
                batch.released = True

    return [insert, release_if_full]


def release(index: int) -> list[Step]:
    def one(model: Model) -> None:
        model[index].released |= model[index].state == "queued"

    return [one]


def claim(taken: Mapping[tuple[int, int], uuid.UUID]) -> list[Step]:
    """Take these chunks, named by batch and number, under these tokens; then say that work on their batches began."""

    def take(model: Model) -> None:
        for (index, number), token in taken.items():
            chunk = model[index].chunks[number]
            assert model[index].open, "claimed a chunk of a batch that is not open"
            assert chunk.claimable, "claimed a chunk that was not claimable"
            chunk.state, chunk.token, chunk.lapsed = "claimed", token, False

    def begin(index: int) -> Step:
        def one(model: Model) -> None:
            if model[index].state == "queued":
                model[index].state = "processing"

        return one

    return [take, *(begin(index) for index in sorted({index for index, _ in taken}))]


def store(index: int, number: int, outcomes: Mapping[int, str], *, later: bool) -> list[Step]:
    """Store the outcomes of these positions; the last chunk ends its batch."""

    def one(model: Model) -> None:
        batch = model[index]
        chunk = batch.chunks[number]
        for position, outcome in outcomes.items():
            assert chunk.outcomes[position] == PENDING, "a text got a second outcome"
            chunk.outcomes[position] = outcome
        done = PENDING not in chunk.outcomes
        chunk.let_go("done" if done else "waiting")
        chunk.later = chunk.later if done else later
        ended = all(chunk.state == "done" for chunk in batch.chunks)
        batch.state = "processing" if not ended else "completed" if VECTOR in batch.outcomes else "failed"

    return [one]


def wait_again(index: int, number: int, *, attempts: int = 0, later: bool | None = None) -> list[Step]:
    """Let go of a chunk; `later` None leaves the time from which it may be claimed."""

    def one(model: Model) -> None:
        chunk = model[index].chunks[number]
        chunk.let_go("waiting")
        chunk.attempts += attempts
        chunk.later = chunk.later if later is None else later

    return [one]


def postpone(index: int) -> list[Step]:
    def one(model: Model) -> None:
        model[index].later |= model[index].state in ACTIVE

    return [one]


def end(index: int, state: str) -> list[Step]:
    """Cancel or expire an active batch."""

    def one(model: Model) -> None:
        if model[index].state in ACTIVE:
            model[index].state = state
            for chunk in model[index].chunks:
                if chunk.state in ("waiting", "claimed"):
                    chunk.let_go("dropped")

    return [one]


def retry(index: int) -> list[Step]:
    def one(model: Model) -> None:
        batch = model[index]
        batch.state, batch.released, batch.later, batch.overdue = "queued", True, False, False
        for chunk in batch.chunks:
            if chunk.state == "dropped" or ERROR in chunk.outcomes:
                chunk.outcomes = [PENDING if outcome == ERROR else outcome for outcome in chunk.outcomes]
                chunk.let_go("waiting")
                chunk.attempts, chunk.later = 0, False

    return [one]


def purge(index: int) -> list[Step]:
    """Hide a batch's texts and vectors, ending it; then delete them; then say so."""

    def hide(model: Model) -> None:
        end(index, "cancelled")[0](model)
        model[index].purged = True

    def delete(model: Model) -> None:
        model[index].chunks = []

    def finish(model: Model) -> None:
        model[index].stored = False

    return [hide, delete, finish]


def observe() -> Model:
    """Return what PostgreSQL holds, in order of submission; counts that do not fit their rows fail."""
    now = clock.now()
    return [_batch(job, now) for job in BatchJob.objects.order_by("pk")]


def _batch(job: BatchJob, now: Any) -> Batch:
    batch = Batch(
        batch_id=job.batch_id,
        pk=job.pk,
        state=job.state,
        released=job.released_at is not None,
        later=job.available_at > now,
        overdue=job.expires_at <= now,
        purged=job.purged_at is not None,
        stored=job.stored,
        chunks=[_chunk(chunk, now) for chunk in BatchChunk.objects.filter(batch=job).order_by("number")],
    )
    assert (job.finished_at is None) == (job.state in ACTIVE)
    if batch.chunks or not batch.purged:
        counts = (batch.outcomes.count(VECTOR), batch.outcomes.count(ERROR), len(batch.outcomes))
        assert (job.completed, job.failed, job.total) == counts, f"{job} does not count its rows"
        _check_state(batch)
    return batch


def _check_state(batch: Batch) -> None:
    states = {chunk.state for chunk in batch.chunks}
    match batch.state:
        case "queued" | "processing":
            assert states & {"waiting", "claimed"}, "nobody closed it"
            assert "dropped" not in states
        case "completed":
            assert states == {"done"}
            assert VECTOR in batch.outcomes
        case "failed":
            assert states == {"done"}
            assert VECTOR not in batch.outcomes
        case _:
            assert states <= {"done", "dropped"}


def _chunk(row: BatchChunk, now: Any) -> Chunk:
    outcomes = [VECTOR] * row.size
    for position in row.pending_positions():
        outcomes[position] = PENDING
    for position in row.errors:
        assert outcomes[int(position)] == VECTOR, "a text with an error is pending, too"
        outcomes[int(position)] = ERROR
    _check_vectors(row, outcomes)
    assert (row.state == "claimed") == (row.lease_token is not None) == bool(row.lease_owner)
    return Chunk(
        texts=tuple(row.texts),
        state=row.state,
        outcomes=outcomes,
        attempts=row.attempts,
        token=row.lease_token,
        lapsed=row.state == "claimed" and row.lease_until is not None and row.lease_until < now,
        later=row.available_at > now,
    )


def _check_vectors(row: BatchChunk, outcomes: list[str]) -> None:
    if row.vectors is None:
        assert VECTOR not in outcomes
        return
    rows = np.frombuffer(row.vectors, dtype="<f4").reshape(row.size, row.dimensions or 0)
    for position, outcome in enumerate(outcomes):
        right = a_vector(row.texts[position]) if outcome == VECTOR else [0.0] * 4
        assert rows[position].tobytes() == np.array(right, dtype="<f4").tobytes(), "not the text's own vector"
