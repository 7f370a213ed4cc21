"""A worker's engine: it claims chunks, keeps upstream calls in flight, and stores what they bring.

Three threads share the work. The worker's own claims, for a slice of BULK_SLICE seconds, as long as the model has fewer
than BULK_CALLS_IN_FLIGHT calls of this worker under way. The gateway's loop waits for the servers. One more stores what
has come back. A slice does not wait for its calls: a server that hangs keeps its few places, and the worker goes on
with another model.
"""

import concurrent.futures
import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection

from batches import bisection, claiming, settling
from batches.bisection import Found
from batches.claiming import Claim, Target
from batches.heartbeats import Pulse
from integrations import gateway, logs, loop, snapshot
from integrations.errors import CitadelError
from integrations.patterns import Embeddings, Mode
from integrations.values import Assignment, Model

log = logging.getLogger(__name__)

AWAY = (OperationalError, InterfaceError)
# How often a waiting thread looks whether it should stop: a signal handler may set a flag but take no lock.
GLANCE = 0.1
# A slice that cannot start a call for so long gives its turn to other batches, in seconds.
PATIENCE = 1.0
# How long results are kept while PostgreSQL is away, in seconds. Their texts would otherwise be embedded again.
KEEP_RESULTS = 60.0
# How long cancelled calls may take to hand their chunks back.
HAND_BACK = 2.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """Chunks on their way to a model server, together."""

    model: str
    claims: Sequence[Claim]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Back:
    call: Call
    future: "concurrent.futures.Future[Found]"


class Engine:
    """What one worker process has under way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pulse = Pulse(name, self.claims)
        self.stopping = False
        self._changed = threading.Condition()
        self._calls: dict[Call, concurrent.futures.Future[Found]] = {}
        self._back: queue.SimpleQueue[_Back | None] = queue.SimpleQueue()
        self._storer = threading.Thread(target=self._store_all, name="storer", daemon=True)
        self._keep_until = float("inf")

    def start(self) -> None:
        """Begin to beat and to store. Raises django.db.DatabaseError."""
        self.pulse.start()
        self._storer.start()

    def request_stop(self) -> None:
        """Claim nothing more. Safe in a signal handler."""
        self.stopping = True

    def shutdown(self, timeout: float) -> None:
        """Let the calls finish for `timeout` seconds, hand back the chunks of the others, and end."""
        self.stopping = True
        self._keep_until = time.monotonic() + timeout
        if not self.drain(timeout):
            with self._changed:
                futures = list(self._calls.values())
            log.info("calls cancelled, their chunks handed back", extra={"worker": self.name, "calls": len(futures)})
            for future in futures:
                future.cancel()
            self.drain(HAND_BACK)
        self._back.put(None)
        self._storer.join(HAND_BACK)
        self.pulse.stop()

    def drain(self, timeout: float) -> bool:
        """Wait until nothing is under way; False if that took longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._calls, timeout)

    def claims(self) -> list[Claim]:
        """Return the chunks that this process holds."""
        with self._changed:
            return [claim for call in self._calls for claim in call.claims]

    # --- the worker's own thread: claim ---

    def work(self, target: Target) -> None:
        """Work on a batch for one slice; batches that share its calls or go before it get their part."""
        ends = time.monotonic() + settings.BULK_SLICE
        self.pulse.works_on(target.batch_id)
        while not self.stopping and time.monotonic() < ends:
            model = serving(target.model)
            if model is None or not self._wait_for_place(model.slug, min(ends, time.monotonic() + PATIENCE)):
                return
            if not self._claim_and_call(model, target):
                return

    def _claim_and_call(self, model: Model, target: Target) -> bool:
        claims = claiming.claim(target, owner=self.name, call_size=claiming.call_size(model))
        if not claims:
            return False
        self._start(model, claims)
        return True

    def _wait_for_place(self, model: str, until: float) -> bool:
        """Wait until this worker may make another call to the model; False when it may not before `until`."""
        with self._changed:
            while not self.stopping:
                if sum(call.model == model for call in self._calls) < settings.BULK_CALLS_IN_FLIGHT:
                    return True
                left = until - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, GLANCE))
        return False

    def _start(self, model: Model, claims: Sequence[Claim]) -> None:
        call = Call(model=model.slug, claims=claims)
        future = loop.submit(_embed(model, claims))
        with self._changed:
            self._calls[call] = future
        future.add_done_callback(lambda done: self._back.put(_Back(call=call, future=done)))

    # --- the storing thread ---

    def _store_all(self) -> None:
        while (back := self._back.get()) is not None:
            try:
                self._settle(back.call, _found(back))
            except Exception:
                # The lease runs out and somebody claims these chunks again: late, but not lost.
                log.exception("result not stored", extra={"batch_id": back.call.claims[0].batch_id})
            with self._changed:
                del self._calls[back.call]
                self._changed.notify_all()
        connection.close()

    def _settle(self, call: Call, found: Found) -> None:
        """Store a call's outcome; while PostgreSQL is away, try again."""
        until = time.monotonic() + KEEP_RESULTS
        while True:
            try:
                connection.close_if_unusable_or_obsolete()
                return settling.settle(call.claims, found)
            except AWAY:
                connection.close()
                if time.monotonic() > min(until, self._keep_until):
                    raise
                time.sleep(0.5)
            except DatabaseError as error:
                # Something about this result cannot be stored: as a failure it can.
                if isinstance(found.stopped_by, DatabaseError):
                    raise
                log.exception("result refused by PostgreSQL", extra={"batch_id": call.claims[0].batch_id})
                found = Found(count=found.count, stopped_by=error)


def serving(slug: str) -> Model | None:
    """Return the model if queued work may go to it now: it is known, enabled and not drained."""
    try:
        model = snapshot.current().serving(slug, live=False)
    except CitadelError:
        return None
    return None if model.draining else model


def _assignment(model: Model, pattern: str) -> Assignment | None:
    """The assignment under which the chunk was submitted, or what there is now."""
    chosen = next((a for a in model.assignments if a.pattern == pattern), None)
    return chosen or model.queue_assignment or next(iter(model.assignments), None)


async def _embed(model: Model, claims: Sequence[Claim]) -> Found:
    """Find an outcome for every text of these chunks, in order. Raises nothing but CancelledError."""
    first = claims[0]
    logs.request_id.set(first.request_id)
    texts = [text for claim in claims for text in claim.texts]
    assignment = _assignment(model, first.pattern)
    if assignment is None:
        return Found(count=len(texts), stopped_by=CitadelError(f"{model.slug} has no pattern."))

    async def ask(part: Sequence[str]) -> Embeddings:
        return await gateway.embed(
            model,
            part,
            assignment=assignment,
            pattern=first.pattern,
            mode=Mode.BULK,
            request_id=first.request_id,
            client=first.client,
            deadline=settings.BULK_TIMEOUT,
            input_type=first.input_type,
            batch_id=first.batch_id,
        )

    return await bisection.search(texts, ask, pieces=settling.pieces(claims), last_try=settling.is_last_try(claims))


def _found(back: _Back) -> Found:
    """What the call brought; where it ended without a word, why."""
    count = sum(len(claim.texts) for claim in back.call.claims)
    try:
        found = back.future.result()
    except settling.CANCELLED as error:
        return Found(count=count, stopped_by=error)
    except Exception as error:
        found = Found(count=count, stopped_by=error)
    reason = found.stopped_by
    if reason is not None and not isinstance(reason, CitadelError):
        log.error("unexpected error in a call", exc_info=reason, extra={"batch_id": back.call.claims[0].batch_id})
    return found


_engine: Engine | None = None


def install(engine: Engine | None) -> None:
    """Make this the process's engine: RQ's jobs are plain functions and find it here."""
    global _engine
    _engine = engine


def current() -> Engine:
    """Return the process's engine."""
    if _engine is None:
        raise RuntimeError("no engine in this process: start workers with `manage.py worker`")
    return _engine
