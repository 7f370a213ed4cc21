"""One breaker an endpoint: allow, do, report.

pybreaker holds the state machine (breaker_machine); its storage is a mirror in memory, and the other processes are told
in the background (breaker_sharing), so that a call through a closed breaker costs no round trip. What pybreaker cannot
do is kept out of it: an outcome that is nobody's fault is not reported at all (pybreaker would count it as a success),
and who may make the trial of a half-open breaker is settled across all processes before pybreaker is asked.

closed --threshold consecutive failures--> open --timeout--> half_open --trial succeeds--> closed
                                            ^                    |
                                            +---trial fails------+

The timeout doubles with each trial that fails, up to BREAKER_RESET_TIMEOUT_MAX.
forced_open is the operator's own, a row in PostgreSQL; it stands above all of these until reset or until its expiry.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta

import redis
from django.conf import settings

from integrations import forced_open, recorder, snapshot
from integrations.breaker_machine import (
    STATE_CLOSED,
    STATE_HALF_OPEN,
    STATE_OPEN,
    Breaker,
    BreakerView,
    Mirror,
    Transition,
)
from integrations.breaker_sharing import Command, Shared, SharedBreakers, command_for, new_owner
from integrations.errors import CitadelError
from integrations.forced_open import SYNC_INTERVAL
from integrations.values import Assignment, Endpoint, Snapshot

log = logging.getLogger(__name__)

LIVE = "live"
# Commands kept while Redis is away; older ones are dropped: each process then goes on with its own count.
MAX_PENDING = 10_000


class Breakers:
    """All breakers of one namespace; `live` is the real one, a drill has its own."""

    def __init__(self, namespace: str = LIVE, *, on_transition: Callable[[Transition], None] | None = None) -> None:
        self._namespace = namespace
        self._on_transition = on_transition
        self._breakers: dict[int, Breaker] = {}
        self._lock = threading.RLock()
        self._pending: deque[Command] = deque(maxlen=MAX_PENDING)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._exchange_lock = threading.Lock()
        self._shared: SharedBreakers | None = None
        self.redis_answers = False

    # --- on the way of a call ---

    def lets_through(self, endpoint: Endpoint) -> bool:
        """Whether `guard` lets every call in, and not just a trial or none."""
        return endpoint.forced is None and self._breaker(endpoint).mirror.current == STATE_CLOSED

    @contextlib.asynccontextmanager
    async def guard(self, endpoint: Endpoint, assignment: Assignment) -> AsyncIterator[None]:
        """Let one attempt through, and learn from how it ends. Raises CircuitOpen instead of entering."""
        owner = await self._admit(endpoint, assignment)
        try:
            yield
        except CitadelError as error:
            self._report(endpoint, assignment, owner, error if error.counts_against_breaker else None, neutral=True)
            raise
        except BaseException:
            # The client went away, or we are at fault: the server is not judged by it.
            self._report(endpoint, assignment, owner, None, neutral=True)
            raise
        else:
            self._report(endpoint, assignment, owner, None, neutral=False)

    async def _admit(self, endpoint: Endpoint, assignment: Assignment) -> str:
        """Return the trial's owner, "" for an ordinary call. Raises CircuitOpen."""
        forced_open.refuse(endpoint)
        mirror = self._breaker(endpoint).mirror
        if mirror.current == STATE_CLOSED:
            return ""
        left = mirror.left()
        if left > 0 or mirror.trial:
            raise forced_open.open_error(endpoint, mirror.reason, left)
        return await self._take_trial(endpoint, assignment)

    async def _take_trial(self, endpoint: Endpoint, assignment: Assignment) -> str:
        breaker = self._breaker(endpoint)
        breaker.mirror.trial = True  # before the round trip: one try a process at a time
        owner = new_owner()
        limit = assignment.connect_timeout + max(assignment.attempt_timeout, 1.0) + 1.0
        command = command_for(endpoint, assignment, "take", longest=limit, owner=owner)
        try:
            answer = await asyncio.get_running_loop().run_in_executor(None, self._ask, command)
        except BaseException:
            breaker.mirror.trial = False
            raise
        if answer in ("taken", "alone"):
            with self._lock:
                breaker.machine.half_open()
            self._tell(endpoint, "open", "half_open", "trial")
            return owner
        breaker.mirror.trial = False
        if answer == "closed":
            with self._lock:
                breaker.mirror.close()
            return ""
        raise forced_open.open_error(endpoint, breaker.mirror.reason, SYNC_INTERVAL)

    def _ask(self, command: Command) -> str:
        """Ask Redis for the trial; with Redis away each process makes its own."""
        try:
            if self._pending:
                self.exchange()  # Redis may not know yet that it is open
            return self._connection().run(command)
        except redis.RedisError:
            return "alone"

    def _report(
        self, endpoint: Endpoint, assignment: Assignment, owner: str, error: CitadelError | None, *, neutral: bool
    ) -> None:
        breaker = self._breaker(endpoint)
        with self._lock:
            if endpoint.breaker_epoch < breaker.mirror.epoch:
                return  # begun before an operator reset it: what it met may be what was mended
            if owner:
                self._report_trial(breaker, endpoint, assignment, owner, error, neutral=neutral)
            elif breaker.mirror.current != STATE_CLOSED:
                return  # a late outcome of a call from before it opened: nothing new
            elif error is not None:
                self._report_failure(breaker, endpoint, assignment, error)
            elif not neutral and breaker.mirror.count:
                breaker.report(None)
                self._send(command_for(endpoint, assignment, "ok"))

    def _report_failure(
        self, breaker: Breaker, endpoint: Endpoint, assignment: Assignment, error: CitadelError
    ) -> None:
        breaker.machine.fail_max = assignment.breaker_threshold
        breaker.report(error)
        tripped = breaker.mirror.current == STATE_OPEN
        if tripped:
            self._opened(breaker.mirror, assignment, _reason(error))
        else:
            breaker.mirror.pending_fails += 1
        self._send(command_for(endpoint, assignment, "trip" if tripped else "fail", reason=_reason(error)))

    def _report_trial(
        self,
        breaker: Breaker,
        endpoint: Endpoint,
        assignment: Assignment,
        owner: str,
        error: CitadelError | None,
        *,
        neutral: bool,
    ) -> None:
        mirror = breaker.mirror
        mirror.trial = False
        if mirror.current != STATE_HALF_OPEN:
            return  # reset by hand in the meantime
        if error is not None:
            breaker.report(error)
            self._opened(mirror, assignment, _reason(error))
            op = "reopen"
        elif neutral:
            mirror.current, op = STATE_OPEN, "release"
        else:
            breaker.report(None)
            mirror.close()
            op = "close"
        reason = _reason(error) if error else ""
        self._send(command_for(endpoint, assignment, op, reason=reason, owner=owner))

    def _opened(self, mirror: Mirror, assignment: Assignment, reason: str) -> None:
        mirror.opens += 1
        timeout = min(assignment.breaker_reset_timeout * 2 ** (mirror.opens - 1), settings.BREAKER_RESET_TIMEOUT_MAX)
        mirror.open_until, mirror.reason = time.monotonic() + timeout, reason

    # --- what others see ---

    def state_of(self, endpoint: Endpoint) -> BreakerView:
        """Return the state of this endpoint's breaker, the operator's own first."""
        mirror = self._breaker(endpoint).mirror
        if forced := forced_open.now(endpoint):
            return BreakerView(
                status="forced_open",
                failure_count=mirror.count,
                reason=forced.reason,
                until=forced.until,
                by=forced.by,
                opened_at=forced.at,
                shared=self.redis_answers,
            )
        if mirror.current == STATE_CLOSED:
            return BreakerView(status="closed", failure_count=mirror.count, shared=self.redis_answers)
        left = mirror.left()
        return BreakerView(
            status="open" if left > 0 else "half_open",
            failure_count=mirror.count,
            reason=mirror.reason,
            until=datetime.now(UTC) + timedelta(seconds=left) if left > 0 else None,
            opened_at=mirror.since,
            shared=self.redis_answers,
        )

    def apply_epochs(self, endpoints: Iterable[Endpoint]) -> None:
        """Close the breakers that an operator has reset since, in this process."""
        for endpoint in endpoints:
            self._breaker(endpoint)

    # --- sharing ---

    @property
    def started(self) -> bool:
        """Whether this process is sharing."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Share with the other processes from now on, in a thread."""
        if not self.started:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name=f"breakers-{self._namespace}", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Tell the others what is still untold, and stop."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None
        if self._shared is not None:
            self._shared.close()
            self._shared = None
        self.redis_answers = False  # nobody asks it any more

    def forget(self) -> None:
        """Remove this namespace from Redis."""
        with contextlib.suppress(redis.RedisError):
            self._connection().forget()

    def exchange(self) -> bool:
        """Send what is pending and take over what the others know; False while Redis is away."""
        with self._exchange_lock:
            batch = self._drain()
            try:
                answers, known = self._connection().exchange(batch)
            except redis.RedisError as error:
                self._away(batch, error)
                return False
            if not self.redis_answers:
                self.redis_answers = True
                log.info("breakers are shared through Redis")
            for command, answer in zip(batch, answers, strict=True):
                self._told(command, answer)
            self._adopt(known)
            return True

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.exchange()
            self._wake.wait(SYNC_INTERVAL)
            self._wake.clear()
        self.exchange()

    def _drain(self) -> list[Command]:
        with self._lock:
            batch = list(self._pending)
            self._pending.clear()
            for breaker in self._breakers.values():
                breaker.mirror.pending_fails = 0
            return batch

    def _adopt(self, known: Mapping[int, Shared]) -> None:
        with self._lock:
            # What has happened here since the batch was sent is newer than what came back.
            busy = {command.endpoint_id for command in self._pending if command.op != "fail"}
            for endpoint_id, shared in known.items():
                if endpoint_id not in busy:
                    self._breakers.setdefault(endpoint_id, Breaker()).mirror.take(shared)
            for endpoint_id in self._breakers.keys() - known.keys() - busy:
                self._restore(endpoint_id, self._breakers[endpoint_id].mirror)

    def _restore(self, endpoint_id: int, mirror: Mirror) -> None:
        """Redis was emptied: tell it again what is open here."""
        if mirror.current == STATE_OPEN and (left := mirror.left()) > 0:
            command = Command(
                endpoint_id=endpoint_id,
                op="restore",
                epoch=mirror.epoch,
                threshold=mirror.count,
                longest=left,
                reason=mirror.reason,
            )
            self._send(command)

    def _away(self, batch: list[Command], error: redis.RedisError) -> None:
        if self.redis_answers:
            log.warning("breakers are not shared: Redis does not answer (%s)", type(error).__name__)
        self.redis_answers = False
        for command in batch:
            # Nobody else can tell the story while Redis is away: each process writes its own transitions.
            if command.op in ("trip", "reopen"):
                self._told(command, "open")
            elif command.op == "close":
                self._told(command, "closed")

    def _told(self, command: Command, answer: str) -> None:
        endpoint = self._breakers[command.endpoint_id].endpoint
        if endpoint is None:
            return
        if answer == "open":
            self._tell(endpoint, "half_open" if command.op == "reopen" else "closed", "open", command.reason)
        elif answer == "closed":
            self._tell(endpoint, "half_open", "closed", "trial succeeded")

    def _tell(self, endpoint: Endpoint, old: str, new: str, reason: str) -> None:
        if self._on_transition is not None:
            until = self.state_of(endpoint).until if new == "open" else None
            self._on_transition(Transition(endpoint=endpoint, from_state=old, to_state=new, reason=reason, until=until))

    def _send(self, command: Command) -> None:
        self._pending.append(command)
        self._wake.set()

    def _connection(self) -> SharedBreakers:
        if self._shared is None:
            # What a drill that was killed leaves behind goes by itself.
            self._shared = SharedBreakers(self._namespace, lifetime=None if self._namespace == LIVE else 600)
        return self._shared

    def _breaker(self, endpoint: Endpoint) -> Breaker:
        breaker = self._breakers.get(endpoint.id)
        if breaker is None:
            with self._lock:
                breaker = self._breakers.setdefault(endpoint.id, Breaker())
        known = breaker.endpoint
        if known is None or (known is not endpoint and known.breaker_epoch <= endpoint.breaker_epoch):
            breaker.endpoint = endpoint
            with self._lock:
                breaker.mirror.follow(endpoint.breaker_epoch)
        return breaker


def _reason(error: CitadelError) -> str:
    return f"{error.code}: {error.detail}"[:300]


def _record(transition: Transition) -> None:
    recorder.breaker_event(
        endpoint_id=transition.endpoint.id,
        model=transition.endpoint.model,
        url=transition.endpoint.url,
        from_state=transition.from_state,
        to_state=transition.to_state,
        reason=transition.reason,
        until=transition.until,
    )


live = Breakers(LIVE, on_transition=_record)


def state_of(endpoint: Endpoint) -> BreakerView:
    """Return the state of this endpoint's breaker."""
    return live.state_of(endpoint)


def start() -> None:
    """Share this process's breakers, and follow the resets of operators; once started it costs nothing."""
    if live.started:
        return
    snapshot.on_change(_follow)
    if (known := snapshot.peek()) is not None:
        _follow(known)
    live.start()


def stop() -> None:
    """Tell the other processes what is still untold, and stop sharing."""
    live.stop()


def _follow(new: Snapshot) -> None:
    live.apply_epochs(endpoint for model in new.models.values() for endpoint in model.endpoints)
