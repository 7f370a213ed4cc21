"""How live calls fare at each endpoint, told to queued work in all processes through Redis.

Each process notes what its live calls take, beside what they took when they were quickest. One thread tells it to
Redis every 250 ms while there is something to tell, and, where queued work is under way, reads what the others told
and lets each endpoint's Share act upon it (integrations.yielding). On the way of a live call there is nothing but
adding up. With Redis away queued work takes a fixed share that is safe.
"""

import atexit
import logging
import os
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypedDict

import orjson
import redis

from integrations import gauges
from integrations.values import Endpoint
from integrations.yielding import Share

log = logging.getLogger(__name__)

TICK: Final = 0.25
# A process that has not spoken for so many milliseconds is forgotten, and so are live calls of longer ago.
LIFETIME_MS: Final = 2000
PROCESSES: Final = "citadel:pressure"
# The weight of a new call in the average, and how quickly the quickest time is forgotten, a tick.
_WEIGHT: Final = 0.15
_FORGET: Final = 1.002


class _Told(TypedDict):
    """What one process tells: [endpoint, calls in flight, slowness] of live calls, endpoints with queued work."""

    live: list[tuple[int, int, float]]
    bulk: list[int]


class LiveTimes:
    """What one process's live calls to one endpoint take."""

    __slots__ = ("alone", "average", "ended", "ended_at", "in_flight", "seen", "variance")

    def __init__(self) -> None:
        self.in_flight = self.ended = self.seen = 0
        self.average = self.alone = self.variance = 0.0  # seconds; 0: not known
        self.ended_at = 0.0

    def end(self, seconds: float, now: float) -> None:
        """Note one that was answered."""
        self.ended += 1
        self.ended_at = now
        off = seconds - self.average if self.average else 0.0
        self.average = self.average + _WEIGHT * off if self.average else seconds
        self.variance += _WEIGHT * (off * off - self.variance)

    def tick(self) -> None:
        """Note the quickest average so far, which counts as what they take alone."""
        if self.ended - self.seen:
            self.alone = min(self.alone * _FORGET or self.average, self.average)
            self.seen = self.ended

    def present(self, now: float) -> bool:
        """Whether there are any, or were a moment ago."""
        return self.in_flight > 0 or now - self.ended_at < LIFETIME_MS / 1000

    @property
    def slowness(self) -> float:
        """What they take, as a multiple of what they take alone; what the average errs by is taken off.

        The quickest average is one that erred to the quick side: of times that scatter every other would seem slow.
        What scatters by more than they take alone is queued work's doing, though, and must not hide it: were one call
        of twenty to stand behind 100 texts, the scatter of it would weigh more than the average of all.
        """
        error = min(self.variance**0.5, self.alone) * (_WEIGHT / (2 - _WEIGHT)) ** 0.5
        return (self.average - error) / self.alone if self.alone else 1.0


class Pressure:
    """One process's part in it."""

    def __init__(self) -> None:
        self._name = uuid.uuid4().hex
        self._live: defaultdict[int, LiveTimes] = defaultdict(LiveTimes)
        self._shares: dict[int, Share] = {}
        self._bulk: defaultdict[int, int] = defaultdict(int)
        self._bulk_at: defaultdict[int, float] = defaultdict(float)
        self._redis: redis.Redis | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._answers = True

    # --- on the way of a call ---

    @contextmanager
    def live(self, endpoint: Endpoint) -> Iterator[None]:
        """Note a live call's attempt, the wait for others included."""
        live, started = self._live[endpoint.id], time.monotonic()
        live.in_flight += 1
        try:
            yield
            now = time.monotonic()
            live.end(now - started, now)
        finally:
            live.in_flight -= 1

    @contextmanager
    def bulk(self, endpoint: Endpoint, texts: int) -> Iterator[None]:
        """Note a call of queued work."""
        share, answered = self.share(endpoint), 0
        self._bulk[endpoint.id] += 1
        self._bulk_at[endpoint.id] = time.monotonic()
        try:
            yield
            answered = texts
        finally:
            now = time.monotonic()
            full = self._bulk[endpoint.id] >= share.calls
            if not share.yields:
                share.target.ended(answered, now, in_flight=self._bulk[endpoint.id], waiting=full)
            self._bulk[endpoint.id] -= 1
            self._bulk_at[endpoint.id] = now

    def allowance(self, endpoint: Endpoint) -> int:
        """Return how many calls of queued work there may be now. Who asks has work, though it may have no call."""
        self._bulk_at[endpoint.id] = time.monotonic()
        return self.share(endpoint).calls

    def share(self, endpoint: Endpoint) -> Share:
        """Return queued work's share of an endpoint."""
        share = self._shares.get(endpoint.id)
        if share is None:
            with self._lock:
                share = self._shares.setdefault(endpoint.id, Share())
        share.target.within(1, endpoint.max_in_flight)
        return share

    # --- the thread ---

    def start(self) -> None:
        """Tell and listen from now on."""
        with self._lock:
            if self._thread is None:
                self._stopping.clear()
                self._thread = threading.Thread(target=self._run, name="pressure", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Stop, and be forgotten soon."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._stopping.set()
        if thread is not None:
            thread.join(5)

    def _run(self) -> None:
        while not self._stopping.wait(TICK):
            try:
                self._tick()
            except redis.RedisError as error:
                if self._answers:
                    log.warning("queued work takes its fixed share: Redis does not answer (%s)", type(error).__name__)
                self._answers = False
                for share in tuple(self._shares.values()):
                    share.be_blind()
            except Exception:
                log.exception("the pressure of live calls is not known")
            else:
                self._answers = True
        if self._redis is not None:
            self._redis.close()
            self._redis = None

    def _tick(self) -> None:
        now = time.monotonic()
        bulk = [id_ for id_, at in tuple(self._bulk_at.items()) if self._bulk[id_] or now - at < LIFETIME_MS / 1000]
        live = {}
        for id_, here in tuple(self._live.items()):
            here.tick()
            if here.present(now):
                live[id_] = (max(here.in_flight, 1), here.slowness)
        if live or bulk:
            told = self._exchange(live, bulk)
            for id_ in bulk:
                self._shares[id_].see(_slowness(told, id_), least=int(self._name == _first(told, id_)))

    def _exchange(self, live: Mapping[int, tuple[int, float]], bulk: list[int]) -> dict[str, _Told]:
        """Tell the others; where queued work is under way, return what all of them tell."""
        if self._redis is None:
            self._redis = gauges.connect()
        document: _Told = {"live": [(id_, *told) for id_, told in live.items()], "bulk": bulk}
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(f"{PROCESSES}:{self._name}", orjson.dumps(document), px=LIFETIME_MS)
            pipe.sadd(PROCESSES, self._name)
            pipe.smembers(PROCESSES)
            names = [name.decode() for name in pipe.execute()[2]] if bulk else pipe.execute()[:0]
        if not bulk:
            return {}
        told = self._redis.mget([f"{PROCESSES}:{name}" for name in names])
        if gone := [name for name, document in zip(names, told, strict=True) if document is None]:
            self._redis.srem(PROCESSES, *gone)
        return {name: orjson.loads(document) for name, document in zip(names, told, strict=True) if document}


def _slowness(told: Mapping[str, _Told], endpoint_id: int) -> float | None:
    """How live calls fare in all processes together, each counting by its calls in flight."""
    rows = [row for document in told.values() for row in document["live"] if row[0] == endpoint_id]
    calls = sum(count for _, count, _ in rows)
    return sum(count * slowness for _, count, slowness in rows) / calls if calls else None


def _first(told: Mapping[str, _Told], endpoint_id: int) -> str:
    """Which of the processes with queued work there keeps a call in any case."""
    return min(name for name, document in told.items() if endpoint_id in document["bulk"])


_pressure = Pressure()


def _begin_anew() -> None:
    """In a forked child: the thread, the name and the connection are the parent's."""
    global _pressure
    _pressure = Pressure()


os.register_at_fork(after_in_child=_begin_anew)


def current() -> Pressure:
    """Return this process's."""
    return _pressure


def start() -> None:
    """Tell the other processes how live calls fare here, and listen for queued work."""
    _pressure.start()


def stop() -> None:
    """Stop telling and listening."""
    _pressure.stop()


def bulk_allowance(endpoint: Endpoint) -> int:
    """Return how many calls of queued work this process may have in flight to an endpoint now. It may be 0.

    Ask before each call; what is in flight already is never taken back.
    """
    return _pressure.allowance(endpoint)


def bulk_batch_size(endpoint: Endpoint, whole: int) -> int:
    """Return how many texts a call of queued work should hold now, where `whole` would be best without live calls."""
    return max(1, round(whole * _pressure.share(endpoint).portion))


atexit.register(stop)
