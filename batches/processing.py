"""A worker's engine: it claims chunks, keeps upstream calls in flight, and stores what they bring.

Three threads share the work. The worker's own claims, for a slice of BULK_SLICE seconds: as many chunks as may be under
way for the model (integrations.pressure says how many calls), and some more, which wait on the gateway's loop so that a
server never waits for a claim. The loop makes the calls. The third thread stores what has come back, all of it in one
transaction; a server does not wait for that either. A slice does not wait for its calls: a server that hangs keeps its
few places, and the worker goes on with another model.
"""

import asyncio
import concurrent.futures
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection

from batches import bisection, claiming, settling
from batches.bisection import Found
from batches.claiming import Claim, Target
from batches.heartbeats import Pulse
from batches.places import Places
from integrations import breakers, gateway, logs, loop, pressure, snapshot
from integrations.errors import CitadelError
from integrations.patterns import Embeddings, Mode
from integrations.values import Assignment, Model, Snapshot

log = logging.getLogger(__name__)

AWAY = (OperationalError, InterfaceError)
# How often a waiting thread looks whether it should stop: a signal handler may set a flag but take no lock.
GLANCE = 0.1
# A slice that cannot start a call for so long gives its turn to other batches, in seconds.
PATIENCE = 1.0
# How long results are kept while PostgreSQL is away, in seconds. Their texts would otherwise be embedded again.
KEEP_RESULTS = 60.0
# Calls whose results are stored in one transaction: some megabytes.
STORED_AT_ONCE = 8
# Calls claimed ahead, and results that wait to be stored, of one model at the most.
MOST_AHEAD = 8
MOST_UNSTORED = 16
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
        self._places = Places(in_flight)
        # From the claim until the result is stored; of each model how many those are, and how many have not ended.
        self._calls: dict[Call, concurrent.futures.Future[Found]] = {}
        self._held: Counter[str] = Counter()
        self._open: Counter[str] = Counter()
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
        loop.submit(self._dismiss())
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
            if model is None:
                return
            room = self._wait_for_room(model.slug, min(ends, time.monotonic() + PATIENCE))
            if not room or not self._claim_and_call(model, target, room):
                return

    def _claim_and_call(self, model: Model, target: Target, room: int) -> bool:
        calls = claiming.claim_calls(
            target, owner=self.name, call_size=claiming.call_size(model), most=room, held=self.claims()
        )
        for claims in calls:
            self._start(model, claims)
        return bool(calls)

    def _wait_for_room(self, model: str, until: float) -> int:
        """Wait until this worker may claim for the model; return for how many calls, 0 when for none before `until`."""
        with self._changed:
            while not self.stopping:
                if (room := self._room(model)) >= max(1, _ahead(in_flight(model)) // 2):
                    return room
                left = until - time.monotonic()
                if left <= 0:
                    return max(0, room)
                self._changed.wait(min(left, GLANCE))
        return 0

    def _room(self, model: str) -> int:
        """How many further calls may be claimed: no more than a server soon wants, or than can be stored."""
        places = in_flight(model)
        return places + _ahead(places) - max(self._open[model], self._held[model] - min(places, MOST_UNSTORED))

    def _start(self, model: Model, claims: Sequence[Claim]) -> None:
        call = Call(model=model.slug, claims=claims)
        future = loop.submit(self._call(model, call))
        with self._changed:
            self._calls[call] = future
            self._held[call.model] += 1
            self._open[call.model] += 1
        future.add_done_callback(lambda done: self._ended(call, done))

    # --- the gateway's loop ---

    async def _call(self, model: Model, call: Call) -> Found:
        async with self._places.one(call.model):
            # Perhaps it has waited for its place, and the model was drained or changed meanwhile.
            if (known := snapshot.peek()) is not None:
                now = _serving(known, call.model)
                if now is None:
                    raise asyncio.CancelledError  # the chunks are handed back
                model = now
            return await _embed(model, call.claims)

    def _ended(self, call: Call, future: "concurrent.futures.Future[Found]") -> None:
        self._back.put(_Back(call=call, future=future))
        with self._changed:
            self._open[call.model] -= 1
            self._changed.notify_all()

    async def _dismiss(self) -> None:
        self._places.dismiss()

    # --- the storing thread ---

    def _store_all(self) -> None:
        while backs := self._came_back():
            found = [(back.call, _found(back)) for back in backs]
            try:
                self._settle(found)
            except Exception:
                # The lease runs out and somebody claims these chunks again: late, but not lost.
                log.exception("result not stored", extra={"batch_id": backs[0].call.claims[0].batch_id})
            with self._changed:
                for back in backs:
                    del self._calls[back.call]
                    self._held[back.call.model] -= 1
                self._changed.notify_all()
        connection.close()

    def _came_back(self) -> list[_Back]:
        """Wait for a result, and take with it what has come meanwhile; nothing at the end."""
        backs: list[_Back] = []
        while len(backs) < STORED_AT_ONCE:
            try:
                back = self._back.get(block=not backs)
            except queue.Empty:
                break
            if back is None:
                if backs:
                    self._back.put(None)
                break
            backs.append(back)
        return backs

    def _settle(self, calls: Sequence[tuple[Call, Found]]) -> None:
        """Store the calls' outcomes; while PostgreSQL is away, try again."""
        until = time.monotonic() + KEEP_RESULTS
        while True:
            try:
                return settling.settle_all([(call.claims, found) for call, found in calls])
            except AWAY:
                connection.close()
                if time.monotonic() > min(until, self._keep_until):
                    raise
                time.sleep(0.5)
            except DatabaseError as error:
                return self._settle_refused(calls, error)

    def _settle_refused(self, calls: Sequence[tuple[Call, Found]], error: DatabaseError) -> None:
        """Something about these results cannot be stored: about one of them, and as a failure that one can."""
        if len(calls) > 1:
            for one in calls:
                self._settle([one])
            return
        [(call, found)] = calls
        if isinstance(found.stopped_by, DatabaseError):
            raise error
        log.exception("result refused by PostgreSQL", extra={"batch_id": call.claims[0].batch_id}, exc_info=error)
        self._settle([(call, Found(count=found.count, stopped_by=error))])


def in_flight(model: str) -> int:
    """How many calls to this model this worker may have under way now: none where live calls need its only server."""
    known = snapshot.peek()
    endpoints = known.models[model].endpoints if known and model in known.models else ()
    if not endpoints:
        return 1
    # Calls go to the first one that is not known to fail.
    asked = next((endpoint for endpoint in endpoints if breakers.live.lets_through(endpoint)), endpoints[0])
    return pressure.bulk_allowance(asked)


def _ahead(places: int) -> int:
    """How many calls are claimed before they have a place. They are handed back, unasked, when the worker stops."""
    return min((places + 1) // 2, MOST_AHEAD)


def serving(slug: str) -> Model | None:
    """Return the model if queued work may go to it now: it is known, enabled and not drained."""
    try:
        return _serving(snapshot.current(), slug)
    except CitadelError:
        return None


def _serving(known: Snapshot, slug: str) -> Model | None:
    model = known.models.get(slug)
    return model if model and model.enabled and not model.draining else None


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
            dimensions=first.shortened,
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
