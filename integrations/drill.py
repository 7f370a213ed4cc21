"""A drill: what would happen to a model's calls if its first endpoint failed, tried out for real.

The gateway and the breakers are those of live calls, in a namespace of the drill's own, so that live traffic does not
notice. Injected is one thing, a transport that cannot reach the first endpoint; everything else is a real request.
"""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Final

from integrations import gateway, loop, snapshot, transport
from integrations.breakers import Breakers
from integrations.errors import BatchNotCancellable, CircuitOpen, CitadelError, UpstreamFailed
from integrations.gateway import Gateway
from integrations.patterns import Accepted, EmbedCall, Embeddings, EmbedRequest, Mode
from integrations.protocols.base import HttpRequest, HttpResponse
from integrations.values import Assignment, Endpoint, Model

TEXT: Final = "Is there somebody else to ask?"
# Seconds from open to half-open: long enough to be seen, short enough to be waited for.
RESET_TIMEOUT: Final = 0.3

# Stores the call as a real batch, cancels it at once and returns what its client would have been told.
QueueTakeover = Callable[[EmbedCall], Accepted]


class Failover(StrEnum):
    """What takes over when a model's first endpoint fails."""

    ENDPOINT = "endpoint"  # the next endpoint of the same model
    FALLBACK = "fallback"  # a model of the same embedding space
    QUEUE = "queue"  # the work waits in the queue
    NONE = "none_configured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step, what it found, and how long it took."""

    step: str
    passed: bool
    at: datetime
    duration_ms: float
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole drill; `passed` if every step has."""

    model: str
    simulate_failure: bool
    failover: Failover
    passed: bool
    steps: tuple[Step, ...]
    started_at: datetime
    duration_ms: float


class StepFailed(Exception):
    """What a step expected did not happen."""


@dataclass(slots=True)
class _Steps:
    """The steps so far; after one that failed the others are not tried."""

    done: list[Step] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(step.passed for step in self.done)

    def run(self, name: str, action: Callable[[], str]) -> None:
        """Do `action`, whose answer says what was seen; a CitadelError or StepFailed is the step's failure."""
        if not self.passed:
            return
        at, started = datetime.now(UTC), time.monotonic()
        try:
            passed, detail = True, action()
        except CitadelError as error:
            passed, detail = False, f"{error.code}: {error.detail}"
        except StepFailed as error:
            passed, detail = False, str(error)
        ms = round((time.monotonic() - started) * 1000, 1)
        self.done.append(Step(step=name, passed=passed, at=at, duration_ms=ms, detail=detail))


def run(model: Model, *, simulate_failure: bool, request_id: str, client: str, queue_takeover: QueueTakeover) -> Report:
    """Drill `model`, or with `simulate_failure` false only ask each endpoint; takes a few seconds, blocking."""
    started_at, started = datetime.now(UTC), time.monotonic()
    failover, steps = _failover(model), _Steps()
    if not model.endpoints:
        steps.run("endpoints", _no_endpoint)
    elif simulate_failure:
        with _Drill.of(model, request_id=request_id, client=client) as drill:
            drill.steps(steps, failover, queue_takeover)
    else:
        for endpoint in model.endpoints:
            steps.run("probe", partial(_probe, endpoint, model))
    return Report(
        model=model.slug,
        simulate_failure=simulate_failure,
        failover=failover,
        passed=steps.passed,
        steps=tuple(steps.done),
        started_at=started_at,
        duration_ms=round((time.monotonic() - started) * 1000, 1),
    )


def _failover(model: Model) -> Failover:
    if len(model.endpoints) > 1:
        return Failover.ENDPOINT
    if any(_usable(model, slug) for slug in model.fallbacks):
        return Failover.FALLBACK
    return Failover.QUEUE if model.queue_assignment else Failover.NONE


def _usable(model: Model, slug: str) -> bool:
    other = snapshot.current().models.get(slug)
    space = model.embedding_space
    return bool(other and other.enabled and not other.draining and space and other.embedding_space == space)


def _no_endpoint() -> str:
    raise StepFailed("The model has no enabled endpoint.")


def _probe(endpoint: Endpoint, model: Model) -> str:
    """Health and one real embedding of one endpoint."""
    probe = loop.run(gateway.probe(endpoint, model))
    if not (probe.health.ok and probe.ok):
        raise StepFailed(f"{endpoint.url}: {probe.error or probe.health.detail}")
    return f"{endpoint.url} is well and gave {probe.dimensions} dimensions in {probe.ms or 0.0:.1f} ms."


class _Fault:
    """A transport that cannot reach one endpoint while `active`; it counts what it was asked to send there."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._base = endpoint.url + "/"
        self.active = True
        self.reached = 0

    async def send(
        self, request: HttpRequest, *, connect_timeout: float, timeout: float, ca_file: str = ""
    ) -> HttpResponse:
        """transport.send, or the failure. Raises UpstreamFailed and what transport.send raises."""
        if request.url.startswith(self._base):
            self.reached += 1
            if self.active:
                raise UpstreamFailed("The connection was refused (simulated).")
        return await transport.send(request, connect_timeout=connect_timeout, timeout=timeout, ca_file=ca_file)


@dataclass(slots=True, kw_only=True)
class _Drill:
    """The parts of one drill: breakers and a gateway of its own over a faulty transport."""

    model: Model
    assignment: Assignment
    request_id: str
    client: str
    fault: _Fault
    breakers: Breakers
    gateway: Gateway

    @classmethod
    @contextmanager
    def of(cls, model: Model, *, request_id: str, client: str) -> Iterator["_Drill"]:
        """Make the parts, and remove what they leave in Redis."""
        fault, breakers = _Fault(model.endpoints[0]), Breakers(f"drill:{uuid.uuid4().hex}")
        assignment = replace(
            model.assignments[0], retry_attempts=len(model.endpoints), breaker_reset_timeout=RESET_TIMEOUT
        )
        try:
            yield cls(
                model=model,
                assignment=assignment,
                request_id=request_id,
                client=client,
                fault=fault,
                breakers=breakers,
                # Its calls are no client's: they stay out of the records and figures.
                gateway=Gateway(breakers, send=fault.send, record=lambda call: None),
            )
        finally:
            breakers.forget()
            breakers.stop()

    @property
    def first(self) -> Endpoint:
        """The endpoint that is made to fail."""
        return self.model.endpoints[0]

    def steps(self, steps: _Steps, failover: Failover, queue_takeover: QueueTakeover) -> None:
        """Run the drill."""
        steps.run("failure", self._failure)
        steps.run("breaker_opens", self._opens)
        if failover is Failover.QUEUE:
            steps.run("takeover", lambda: self._queue(queue_takeover))
        elif failover is not Failover.NONE:
            steps.run("takeover", self._takeover)
        steps.run("half_open", self._half_open)
        steps.run("closed", self._closed)

    def _failure(self) -> str:
        error = self._fail()
        if not isinstance(error, UpstreamFailed):
            raise StepFailed(f"{self.first.url}: expected upstream_failed, found {error.code}: {error.detail}")
        return f"{self.first.url}: {error.detail}"

    def _opens(self) -> str:
        """The breaker opens at its threshold, not before, and then keeps calls away from the endpoint."""
        threshold = self.assignment.breaker_threshold
        while self.fault.reached < threshold:
            if self._state() != "closed":
                raise StepFailed(f"It opened after {self.fault.reached} failures instead of {threshold}.")
            self._fail()
        self.breakers.exchange()
        if self._state() != "open":
            raise StepFailed(f"It is {self._state()} after {threshold} failures.")
        refused = self._fail()
        if not isinstance(refused, CircuitOpen) or self.fault.reached > threshold:
            raise StepFailed(f"It is open, yet a call went through: {refused.code}.")
        return f"Opened after {threshold} failures; the next call was refused unsent."

    def _takeover(self) -> str:
        answer = self._embed(self.model)
        if answer.endpoint == self.first.url:
            raise StepFailed(f"{answer.endpoint} answered, whose breaker is open.")
        return f"{answer.endpoint} answered in {answer.duration_ms:.1f} ms with {answer.vectors.shape[1]} dimensions."

    def _queue(self, queue_takeover: QueueTakeover) -> str:
        call = EmbedCall(
            request_id=self.request_id,
            client=self.client,
            model=self.model,
            assignment=self.model.queue_assignment or self.assignment,
            mode=Mode.QUEUED,
            request=EmbedRequest(texts=(TEXT,), single=True, client_metadata={"drill": self.request_id}),
            received_at=datetime.now(UTC),
        )
        try:
            accepted = queue_takeover(call)
        except BatchNotCancellable:
            return "Queued, and done by a worker before it could be cancelled."
        return f"Queued as {accepted.batch_id}, which was cancelled at once."

    def _half_open(self) -> str:
        self.fault.active = False
        self.breakers.exchange()
        began = time.monotonic()
        # It has opened once, or twice if the takeover took so long that a trial was due: the timeout doubles then.
        while self._state() == "open" and time.monotonic() - began < 10 * RESET_TIMEOUT:
            time.sleep(RESET_TIMEOUT / 10)
        if self._state() != "half_open":
            raise StepFailed(f"It is {self._state()}.")
        return f"Lets one trial through after {time.monotonic() - began:.1f} s."

    def _closed(self) -> str:
        answer = self._embed(self._first_alone())
        if self._state() != "closed":
            raise StepFailed(f"{answer.endpoint} answered the trial, yet its breaker is {self._state()}.")
        return f"{answer.endpoint} answered the trial in {answer.duration_ms:.1f} ms."

    def _fail(self) -> CitadelError:
        try:
            self._embed(self._first_alone())
        except CitadelError as error:
            return error
        raise StepFailed(f"{self.first.url} answered although it cannot be reached.")

    def _first_alone(self) -> Model:
        return replace(self.model, endpoints=(self.first,), fallbacks=())

    def _embed(self, model: Model) -> Embeddings:
        alone = len(model.endpoints) == 1
        call = self.gateway.embed(
            model,
            [TEXT],
            assignment=replace(self.assignment, retry_attempts=0) if alone else self.assignment,
            pattern=self.assignment.pattern,
            mode=Mode.LIVE,
            request_id=self.request_id,
            client=self.client,
            deadline=self.assignment.deadline,
        )
        return loop.run(call)

    def _state(self) -> str:
        return self.breakers.state_of(self.first).status
