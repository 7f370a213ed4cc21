"""One call for vectors: endpoints in order, retry, failover, deadline, and one record whatever the end.

Attempts rotate over the endpoints before any is asked twice. An endpoint that refuses before anything was sent (its
breaker is open, it asked for a pause, it has as many calls in flight as it may) costs no attempt. Another model is
asked only if the operator listed it as a fallback with the same embedding space: vector spaces never mix unseen.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from integrations import breakers, exchange, recorder, snapshot, transport
from integrations.attempts import Asked, Attempts
from integrations.breakers import Breakers
from integrations.coalescing import PERHAPS_A_TEXT
from integrations.errors import (
    CircuitOpen,
    CitadelError,
    Overloaded,
    UpstreamTimeout,
)
from integrations.exchange import Send
from integrations.patterns import Attempt, Embeddings, Mode
from integrations.protocols.base import Answer, Health
from integrations.retries import RetryBudget, backoff
from integrations.values import Assignment, Endpoint, Model

PROBE_TEXT = "Is this model there?"
PROBE_CONNECT_TIMEOUT = 5.0
PROBE_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What one endpoint said when it was asked outside of any call."""

    health: Health
    ok: bool  # a real embedding came back
    dimensions: int | None = None
    ms: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What is asked of whichever endpoint answers."""

    model: Model
    texts: Sequence[str]
    assignment: Assignment
    pattern: str
    mode: Mode
    request_id: str
    client: str
    batch_id: str
    input_type: str
    dimensions: int | None
    ends: float  # time.monotonic()

    def left(self) -> float:
        """Seconds of the deadline that are left. Raises UpstreamTimeout when there are none."""
        left = self.ends - time.monotonic()
        if left <= 0:
            raise UpstreamTimeout("The deadline passed.")
        return left


@dataclass(slots=True)
class _Trail:
    """What has happened so far, for the record."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)
    attempts: list[Attempt] = field(default_factory=list)
    retries: int = 0
    endpoint: str = ""
    alone: bool = False  # share no call any more

    @property
    def failovers(self) -> int:
        """How often another endpoint was asked than the attempt before."""
        return sum(a.endpoint != b.endpoint for a, b in zip(self.attempts, self.attempts[1:], strict=False))

    @property
    def ms(self) -> float:
        """Milliseconds since the call began."""
        return (time.monotonic() - self.started) * 1000


class Gateway:
    """The attempts of calls, over the breakers of one namespace."""

    def __init__(
        self,
        breakers_: Breakers,
        *,
        send: Send = transport.send,
        record: Callable[[recorder.Call], None] = recorder.record,
    ) -> None:
        self._send = send
        self.attempts = Attempts(breakers_, send)
        self._record = record
        self._budgets: defaultdict[int, RetryBudget] = defaultdict(RetryBudget)
        self._active: Counter[tuple[str, str]] = Counter()

    async def embed(
        self,
        model: Model,
        texts: Sequence[str],
        *,
        assignment: Assignment,
        pattern: str,
        mode: Mode,
        request_id: str,
        client: str,
        deadline: float,
        input_type: str = "",
        batch_id: str = "",
        dimensions: int | None = None,
    ) -> Embeddings:
        """Return one vector for each text, (texts, dimensions) float32, within `deadline` seconds.

        dimensions: ask for shorter vectors than the model's own; raises InvalidRequest when the server gives none.

        Raises CircuitOpen or Overloaded when no endpoint could be asked; UpstreamFailed, UpstreamMalformed,
        UpstreamTimeout or UpstreamBusy when all attempts failed; TextRejected when a server refuses these very texts.
        """
        job = _Job(
            model=model,
            texts=texts,
            assignment=assignment,
            pattern=pattern,
            mode=mode,
            request_id=request_id,
            client=client,
            batch_id=batch_id,
            input_type=input_type,
            dimensions=dimensions,
            ends=time.monotonic() + deadline,
        )
        trail, code = _Trail(), "internal_error"
        self._active[model.slug, pattern] += 1
        try:
            answer = await self._over_models(job, trail)
            code = "ok"
        except CitadelError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = "cancelled"
            raise
        finally:
            self._active[model.slug, pattern] -= 1
            self._record(_call(job, trail, code))
        return answer

    async def probe(self, endpoint: Endpoint, model: Model) -> Probe:
        """Ask one endpoint for its health and one real embedding, outside of breakers and records."""
        health = await exchange.health(self._send, endpoint)
        started = time.monotonic()
        try:
            answer = await exchange.embed(
                self._send,
                endpoint,
                model=model,
                texts=[PROBE_TEXT],
                connect_timeout=PROBE_CONNECT_TIMEOUT,
                timeout=PROBE_TIMEOUT,
            )
        except CitadelError as error:
            return Probe(health=health, ok=False, error=error.detail)
        ms = (time.monotonic() - started) * 1000
        return Probe(health=health, ok=True, dimensions=answer.vectors.shape[1], ms=ms)

    def in_flight(self) -> Mapping[tuple[str, str], int]:
        """Calls under way in this process, by model and pattern."""
        return {key: count for key, count in self._active.items() if count}

    # --- models, endpoints, attempts ---

    async def _over_models(self, job: _Job, trail: _Trail) -> Embeddings:
        try:
            return await self._over_endpoints(job, trail, job.model)
        except CitadelError as error:
            if not error.retryable:
                raise
            # A fallback's server may not know the word for shorter vectors: their space is this model's alone.
            for fallback in _fallbacks(job.model) if job.dimensions is None else ():
                try:
                    return await self._over_endpoints(job, trail, fallback)
                except CitadelError as second:
                    if not second.retryable:
                        raise
            raise

    async def _over_endpoints(self, job: _Job, trail: _Trail, model: Model) -> Embeddings:
        if not model.endpoints:
            raise CircuitOpen(f"{model.slug} has no enabled endpoint.", retry_after=60)
        # A worker tries a chunk again later by itself; within one call it only looks for an endpoint that works.
        further = len(model.endpoints) - 1 if job.mode is Mode.BULK else job.assignment.retry_attempts
        made, last, refusals = 0, None, list[CitadelError]()
        for round_, endpoint in _rounds(model.endpoints, 1 + further):
            if round_ and endpoint is model.endpoints[0]:
                if last is None:
                    break  # nobody could be asked in the whole round before
                refusals.clear()
            if round_ and not await self._may_retry(endpoint, round_, job, trail):
                continue
            job.left()  # an attempt that has no time left would be counted against the server
            try:
                answer = await self._attempt(endpoint, job, trail, model)
            except (CircuitOpen, Overloaded) as error:
                refusals.append(error)
                continue
            except CitadelError as error:
                made, last = made + 1, error
                trail.alone = trail.alone or isinstance(error, PERHAPS_A_TEXT)
                if not error.retryable or made > further:
                    raise
                continue
            return _answer(answer, endpoint, trail, job.model)
        raise last or _worst(refusals)

    async def _may_retry(self, endpoint: Endpoint, round_: int, job: _Job, trail: _Trail) -> bool:
        """Wait before a retry, if the endpoint's budget allows one."""
        if not self._budgets[endpoint.id].take():
            return False
        await asyncio.sleep(min(backoff(round_), job.left()))
        trail.retries += 1
        return True

    async def _attempt(self, endpoint: Endpoint, job: _Job, trail: _Trail, model: Model) -> Answer:
        started, outcome, detail = time.monotonic(), "cancelled", ""
        prefix, left, bulk = model.prefix(job.input_type), job.left(), job.mode is Mode.BULK
        asked = Asked(
            model=model,
            texts=[prefix + text for text in job.texts] if prefix else job.texts,
            assignment=job.assignment,
            dimensions=job.dimensions,
            # A worker's call is as long as it needs to be, within its own deadline.
            limit=left if bulk else min(job.assignment.attempt_timeout, left),
            left=left,
            bulk=bulk,
            alone=trail.alone,
        )
        try:
            answer = await self.attempts.make(endpoint, asked)
            outcome = "ok"
            return answer
        except (CircuitOpen, Overloaded):
            outcome = ""  # nothing was sent
            raise
        except CitadelError as error:
            outcome, detail = error.code, error.detail
            raise
        finally:
            if outcome:
                self._budgets[endpoint.id].called()
                ms = (time.monotonic() - started) * 1000
                trail.attempts.append(Attempt(endpoint=endpoint.url, outcome=outcome, ms=ms, detail=detail))
                trail.endpoint = endpoint.url


def _rounds(endpoints: Sequence[Endpoint], rounds: int) -> Iterator[tuple[int, Endpoint]]:
    for round_ in range(rounds):
        for endpoint in endpoints:
            yield round_, endpoint


def _fallbacks(model: Model) -> Iterator[Model]:
    known = snapshot.peek()
    for slug in model.fallbacks if known and model.embedding_space else ():
        other = known.models.get(slug) if known else None
        if other and other.enabled and not other.draining and other.embedding_space == model.embedding_space:
            yield other


def _worst(refusals: Sequence[CitadelError]) -> CitadelError:
    """The refusal to answer with when no endpoint could be asked: the one that ends soonest."""
    soonest = min(refusals, key=lambda error: error.retry_after or 0.0)
    if all(isinstance(error, CircuitOpen) for error in refusals):
        return CircuitOpen(soonest.detail, retry_after=soonest.retry_after)
    return Overloaded(soonest.detail, retry_after=soonest.retry_after)


def _answer(answer: Answer, endpoint: Endpoint, trail: _Trail, model: Model) -> Embeddings:
    preferred = model.endpoints[0].url
    return Embeddings(
        vectors=answer.vectors,
        prompt_tokens=answer.prompt_tokens,
        endpoint=endpoint.url,
        upstream_model=endpoint.upstream_model,
        attempts=tuple(trail.attempts),
        duration_ms=trail.ms,
        failover_from="" if endpoint.url == preferred else preferred,
    )


def _call(job: _Job, trail: _Trail, code: str) -> recorder.Call:
    preferred = job.model.endpoints[0].url if job.model.endpoints else ""
    return recorder.Call(
        started_at=trail.started_at,
        request_id=job.request_id,
        client=job.client,
        model=job.model.slug,
        pattern=job.pattern,
        mode=job.mode.value,
        code=code,
        duration_ms=trail.ms,
        texts=len(job.texts),
        endpoint=trail.endpoint,
        failover_from="" if trail.endpoint in ("", preferred) else preferred,
        attempts=tuple(trail.attempts),
        batch_id=job.batch_id,
        retries=trail.retries,
        failovers=trail.failovers,
    )


default = Gateway(breakers.live)
embed = default.embed
probe = default.probe
in_flight = default.in_flight
