"""What a storm has shown, and whether the promise was kept."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from django.conf import settings
from django.db import connection

from batches.models import BatchChunk, BatchJob
from tests import ledger
from tests.acceptance.storm.clients import Work
from tests.ledger import Move
from tests.upstreams import vector_of

# Calls of one worker: under way, and as many results that wait to be stored or are not on the disk yet.
CALLS: int = 2 * settings.BULK_CALLS_IN_FLIGHT
# A kill -9 of a worker is made good within so many seconds.
LONGEST_PAUSE = 15.0
FEWEST_HITS = 5
DIMENSIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One kill: `at` in seconds since 1970, `owner` the name under which a killed worker held its chunks.

    `met`: it held some a moment before. What it held when it died the ledger says afterwards.
    """

    kind: str
    at: float
    owner: str = ""
    met: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A batch as PostgreSQL has it at the end; `vectors` are the bytes of each chunk."""

    state: str
    total: int
    completed: int
    failed: int
    texts: tuple[str, ...]
    vectors: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that one storm left behind."""

    seed: int
    seconds: float
    work: Sequence[Work]
    accepted: Mapping[str, tuple[str, ...]]
    submissions: Counter[str]
    live: Counter[str]
    kills: Sequence[Kill]
    outages: Sequence[tuple[float, float]]
    ended: Sequence[str]
    asked: Counter[str]
    moves: Sequence[Move]
    stored: Mapping[str, Stored]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A worker's kill that met running chunks: the texts in them, and the seconds until all of them were done.

    They wait behind whatever stands in the queue; the time in which Redis or PostgreSQL was away is not counted.
    """

    kill: Kill
    texts: int
    rescued: float


def stored() -> dict[str, Stored]:
    """Return every batch as it is stored."""
    connection.close()  # the server at its other end was killed
    chunks: dict[int, list[BatchChunk]] = {}
    for chunk in BatchChunk.objects.order_by("batch_id", "number"):
        chunks.setdefault(chunk.batch_id, []).append(chunk)
    return {
        job.batch_id: Stored(
            state=job.state,
            total=job.total,
            completed=job.completed,
            failed=job.failed,
            texts=tuple(text for chunk in chunks.get(job.pk, []) for text in chunk.texts),
            vectors=tuple(bytes(chunk.vectors or b"") for chunk in chunks.get(job.pk, [])),
        )
        for job in BatchJob.objects.all()
    }


def hits(facts: Facts) -> list[Hit]:
    """Return the workers' kills that met running chunks."""
    return [hit for kill in facts.kills if kill.owner and (hit := _hit(facts, kill)).texts]


def _hit(facts: Facts, kill: Kill) -> Hit:
    held = ledger.held(facts.moves, at=kill.at, owner=kill.owner)
    rescued = max((ledger.next_done(facts.moves, after=kill.at, chunks=[chunk]) for chunk in held), default=kill.at)
    return Hit(kill=kill, texts=sum(held.values()), rescued=ledger.without(facts.outages, kill.at, rescued))


def pauses(facts: Facts) -> dict[Kill, float]:
    """Return after which kills of workers it took how many seconds until the next chunk, whosesoever, was done.

    Without the time in which Redis or PostgreSQL was away. Where another worker was killed first, the pause is that
    one's; where nobody held a chunk, there was nothing to go on with.
    """
    found = {}
    deaths = [kill for kill in facts.kills if kill.owner and ledger.held(facts.moves, at=kill.at)]
    for kill in deaths:
        resumed = ledger.next_done(facts.moves, after=kill.at)
        if not any(other.owner and kill.at < other.at < resumed for other in facts.kills):
            found[kill] = ledger.without(facts.outages, kill.at, resumed)
    return found


def duplicates(facts: Facts) -> int:
    """Return how often the model server was asked for a text that it had been asked for before."""
    return sum(count - 1 for count in facts.asked.values())


def bound(facts: Facts, chunk: int, workers: int) -> int:
    """Return how many texts were in flight at the kills that may cost a repetition.

    Of a worker: what it held. Of PostgreSQL: what all workers may have had in flight or just stored, as neither is
    waited for to be on the disk, and as leases run out while it is away.
    """
    of_workers = sum(hit.texts for hit in hits(facts))
    return of_workers + sum(kill.kind == "postgres" for kill in facts.kills) * workers * CALLS * chunk


def faults(facts: Facts, *, limit: int) -> list[str]:
    """Return every promise that was broken, in words; empty when the storm was survived."""
    return [
        *_lost(facts),
        *_twice(facts, limit),
        *ledger.forbidden(facts.moves),
        *_slow(facts),
        *_clients(facts),
        *facts.ended,
    ]


def _lost(facts: Facts) -> Iterable[str]:
    if len(facts.accepted) != len(facts.work) or set(facts.accepted) != set(facts.stored):
        yield f"{len(facts.work)} batches, {len(facts.accepted)} accepted, {len(facts.stored)} stored"
    for batch_id, texts in facts.accepted.items():
        batch = facts.stored.get(batch_id)
        if batch is None or batch.texts != texts:
            yield f"{batch_id}: texts lost"
        elif (batch.state, batch.total, batch.completed, batch.failed) != ("completed", len(texts), len(texts), 0):
            yield f"{batch_id}: {batch.state}, {batch.completed} of {len(texts)} completed, {batch.failed} failed"
        elif b"".join(batch.vectors) != b"".join(vector_of(text, DIMENSIONS).astype("<f4").tobytes() for text in texts):
            yield f"{batch_id}: a stored vector is not its text's own"


def _twice(facts: Facts, limit: int) -> Iterable[str]:
    written = Counter(move.row_id for move in facts.moves if move.wrote)
    if again := {chunk: count for chunk, count in written.items() if count > 1}:
        yield f"chunks stored more than once: {again}"
    if missing := {text for texts in facts.accepted.values() for text in texts} - set(facts.asked):
        yield f"{len(missing)} texts that the model server was never asked for"
    if (repeated := duplicates(facts)) > limit:
        yield f"{repeated} texts were asked for again, {limit} were in flight at the kills"


def _slow(facts: Facts) -> Iterable[str]:
    met = hits(facts)
    if len(met) < FEWEST_HITS:
        yield f"only {len(met)} kills hit a running chunk: this storm proves nothing"
    for kill, pause in pauses(facts).items():
        if pause > LONGEST_PAUSE:
            yield f"after the kill of {kill.owner} work paused for {pause:.1f} s"


def _clients(facts: Facts) -> Iterable[str]:
    if strange := set(facts.submissions) - {"accepted", "broken", "queue_unavailable"}:
        yield f"submissions were answered with {strange}"
    if strange := set(facts.live) - {"ok", "refused", "broken"}:
        yield f"live calls were answered with {strange}"
