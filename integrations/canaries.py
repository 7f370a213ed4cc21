"""Canaries: each endpoint is asked for one fixed text now and then, and its vector compared with the first it gave.

A server that was restarted with another model answers as quickly and as well formed as before; only its vectors are
others, and mixed into an index they spoil it unseen. The reference is taken at the first success under a configuration
(server's name for the model, protocol, prefix, ...); a change of that takes a new one, and so may an operator. Nothing
here is a client's call: no record, no rollup, no breaker counts it.
"""

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
import orjson
from django.conf import settings
from django.db.models import Exists, OuterRef

from integrations import exchange, loop, operations, snapshot, transport
from integrations.errors import CitadelError
from integrations.models import BreakerEvent, Canary, Endpoint, ModelConfig
from integrations.trail import write

log = logging.getLogger(__name__)

# Several kinds of words, so that no model takes it for next to nothing. It is part of every fingerprint.
TEXT: Final = "The canary sings in the mine at 4:17; der Kanarienvogel singt, le canari chante, 金丝雀在唱歌."
# Enough to be quick, few enough that one server behind several endpoints is not asked by all of them at once.
AT_ONCE: Final = 4

State = Canary.State
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one vector says. cosine: to the reference; None where the lengths differ."""

    state: Canary.State
    cosine: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one endpoint answered; `vector` is None where it did not."""

    asked_at: datetime
    fingerprint: str
    vector: Vector | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One endpoint's canary as status, metrics and the console show it."""

    state: str
    cosine: float | None
    asked_at: datetime | None
    well_at: datetime | None
    since: datetime
    error: str

    @property
    def astray(self) -> bool:
        """Whether its vectors are not those of its reference, or of its model's other endpoints."""
        return self.state in (*Canary.ASTRAY, State.UNLIKE)


def seen() -> Mapping[int, Seen]:
    """Return what is known of each endpoint, by its id. Raises django.db.DatabaseError."""
    rows = Canary.objects.defer("reference")
    return {
        row.endpoint_id: Seen(
            state=row.state,
            cosine=row.cosine,
            asked_at=row.asked_at,
            well_at=row.well_at,
            since=row.since,
            error=row.error,
        )
        for row in rows
    }


def check_due() -> int:
    """Ask each endpoint that is due and act on what it says; return how many were asked.

    It takes up to CANARY_TIMEOUT where a server hangs. Raises django.db.DatabaseError.
    """
    rows = due()
    answers = loop.run(_ask_all(rows)) if rows else ()
    for row, answer in zip(rows, answers, strict=True):
        _settle(row, answer)
    return len(rows)


# --- Who is due ------------------------------------------------------------------------------------------------------


def due(now: datetime | None = None) -> list[Endpoint]:
    """Return the endpoints to ask now.

    Beside the interval: at once under a new configuration, and when a breaker has closed, for what answers again
    after a failure may be a server that was started anew.
    """
    if settings.CANARY_INTERVAL <= 0:
        return []
    closed = BreakerEvent.objects.filter(
        model=OuterRef("model__slug"), endpoint=OuterRef("pk"), to_state="closed", at__gt=OuterRef("canary__asked_at")
    )
    rows = (
        Endpoint.objects.filter(enabled=True, model__enabled=True)
        .exclude(model__canary=ModelConfig.OnMoved.OFF)
        .select_related("model", "canary")
        .defer("canary__reference")
        .annotate(has_closed=Exists(closed))
    )
    return [row for row in rows if _is_due(row, now or datetime.now(UTC), closed=row.has_closed)]


def _is_due(row: Endpoint, now: datetime, *, closed: bool) -> bool:
    canary = getattr(row, "canary", None)
    if canary is None or canary.asked_at is None or canary.fingerprint != fingerprint(row):
        return True
    age = now - canary.asked_at
    # A time still to come: the clock has stepped back, and it would not be asked for as long as the step.
    return closed or age >= timedelta(seconds=settings.CANARY_INTERVAL) or age < timedelta(0)


def fingerprint(row: Endpoint) -> str:
    """Return a digest of what the vector depends on by configuration.

    Not the address: a server that takes over another's work must give the same vectors.
    """
    model = row.model
    parts = (row.upstream_model or model.upstream_model, row.protocol, model.passage_prefix, model.normalise, TEXT)
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()


# --- Asking ----------------------------------------------------------------------------------------------------------


async def _ask_all(rows: Sequence[Endpoint]) -> list[Answer]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(row: Endpoint) -> Answer:
        async with turn:
            return await _ask(row)

    return await asyncio.gather(*(one(row) for row in rows))


async def _ask(row: Endpoint) -> Answer:
    asked_at, mark = datetime.now(UTC), fingerprint(row)
    # Of whatever length: that it has changed is what is looked for.
    model = replace(snapshot.compose(row.model, endpoints=[row]), dimensions=None)
    try:
        answer = await exchange.embed(
            transport.send,
            model.endpoints[0],
            model=model,
            texts=[model.passage_prefix + TEXT],
            connect_timeout=min(settings.CONNECT_TIMEOUT, settings.CANARY_TIMEOUT),
            timeout=settings.CANARY_TIMEOUT,
        )
    except CitadelError as error:
        return Answer(asked_at=asked_at, fingerprint=mark, error=f"{error.code}: {error.detail}"[:300])
    return Answer(asked_at=asked_at, fingerprint=mark, vector=np.asarray(answer.vectors[0], dtype="<f4"))


# --- Judging ---------------------------------------------------------------------------------------------------------


def judge(vector: Vector, reference: Vector | None, *, dimensions: int | None, at_least: float) -> Verdict:
    """Compare a vector with its reference; without one it is well if it has the configured length."""
    expected = len(reference) if reference is not None else dimensions
    if expected is not None and len(vector) != expected:
        return Verdict(state=State.RESIZED, detail=f"its vectors have {len(vector)} numbers instead of {expected}")
    found = cosine(vector, vector if reference is None else reference)
    if found >= at_least:
        return Verdict(state=State.WELL, cosine=found)
    return Verdict(state=State.MOVED, cosine=found, detail=f"its vectors have changed: cosine {found:.4f}")


def cosine(one: Vector, other: Vector) -> float:
    """Return the cosine of the angle between two vectors of one length; 0 where one of them is zero."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 0.0


def _settle(row: Endpoint, answer: Answer) -> None:
    """Write down what came back, and what follows from it, in one transaction under the operators' lock.

    Not if its configuration has been changed meanwhile: the answer is that of the one before.
    """
    with write("canary", actor=operations.CANARY):  # no write of its own: it leaves no audit row
        endpoint = Endpoint.objects.select_related("model").filter(pk=row.pk).first()
        if endpoint is None or fingerprint(endpoint) != answer.fingerprint:
            return
        canary, _ = Canary.objects.get_or_create(endpoint=endpoint, defaults={"since": answer.asked_at})
        was_astray = canary.state in Canary.ASTRAY
        if canary.fingerprint != answer.fingerprint:
            _begin(canary, answer)
        canary.asked_at, canary.error = answer.asked_at, answer.error
        if answer.vector is not None:
            _compare(canary, endpoint, answer.vector)
        canary.save()
        _act(endpoint, canary, was_astray=was_astray)


def _act(endpoint: Endpoint, canary: Canary, *, was_astray: bool) -> None:
    """Take the endpoint out where its model says so, unless it is out; then let the cache forget what is in doubt.

    In this order a process that knows of the emptied cache knows of the trip: nothing wrong comes into it again.
    """
    astray, model = canary.state in Canary.ASTRAY, endpoint.model
    known = "another length" if canary.cosine is None else f"cosine {canary.cosine:.4f}"
    if astray and model.canary == ModelConfig.OnMoved.TAKE_OUT and not endpoint.is_forced_open:
        reason = f"Its vectors have changed ({known})."
        operations.trip_breaker([endpoint.pk], actor=operations.CANARY, reason=reason)
    if model.cache and astray != was_astray:
        reason = f"{endpoint.url}: vectors {f'have changed ({known})' if astray else 'are as they were'}."[:200]
        operations.purge_cache(model.slug, actor=operations.CANARY, reason=reason)


def _begin(canary: Canary, answer: Answer) -> None:
    canary.fingerprint, canary.reference, canary.reference_at = answer.fingerprint, None, None
    canary.state, canary.since, canary.cosine, canary.well_at = State.WAITING, answer.asked_at, None, None


def _compare(canary: Canary, endpoint: Endpoint, vector: Vector) -> None:
    reference = None if canary.reference is None else np.frombuffer(canary.reference, dtype="<f4")
    verdict = judge(
        vector,
        reference,
        dimensions=endpoint.model.dimensions,
        at_least=_bound(endpoint.model),
    )
    if verdict.state == State.WELL:
        verdict = _beside_others(verdict, endpoint, vector)
    if reference is None and verdict.state in (State.WELL, State.UNLIKE):
        canary.reference, canary.reference_at = vector.tobytes(), canary.asked_at
        log.info("canary of %s: reference taken", endpoint)
    if verdict.state != canary.state:
        canary.since = canary.asked_at or canary.since
        _tell(endpoint, canary, verdict)
    canary.state, canary.cosine = verdict.state, verdict.cosine
    if verdict.state == State.WELL:
        canary.well_at = canary.asked_at


def _beside_others(verdict: Verdict, endpoint: Endpoint, vector: Vector) -> Verdict:
    """Compare with the reference of the model's first other endpoint, if that one comes before in order.

    Which of two is right nobody knows, so it is said of one, and nothing follows from it but a report.
    """
    others = Canary.objects.filter(
        endpoint__model=endpoint.model_id, endpoint__enabled=True, reference__isnull=False
    ).exclude(endpoint=endpoint.pk)
    first = others.select_related("endpoint").order_by("endpoint__position", "endpoint_id").first()
    if first is None or (first.endpoint.position, first.endpoint_id) > (endpoint.position, endpoint.pk):
        return verdict
    other = np.frombuffer(first.reference or b"", dtype="<f4")
    beside = judge(vector, other, dimensions=None, at_least=_bound(endpoint.model))
    if beside.state == State.WELL:
        return verdict
    detail = f"its vectors are not those of {first.endpoint.url}"
    return replace(verdict, state=State.UNLIKE, detail=detail)


def _bound(model: ModelConfig) -> float:
    return settings.CANARY_MIN_COSINE if model.canary_min_cosine is None else model.canary_min_cosine


def _tell(endpoint: Endpoint, canary: Canary, verdict: Verdict) -> None:
    if verdict.state != State.WELL:
        log.error(
            "canary of %s: %s",
            endpoint,
            verdict.detail,
            extra={"model": endpoint.model.slug, "endpoint": endpoint.url, "well_at": canary.well_at},
        )
    elif canary.state != State.WAITING:
        log.warning("canary of %s: its vectors are as they should be again", endpoint)
