"""Calls under way in all processes: each publishes its own count in Redis, and whoever asks adds them up.

A process's count is a key of its own that lives for 5 s, so that one which was killed is soon forgotten; a sorted set
lists the processes by when they last spoke. Redis away: only this process's own calls are known, and the answer says
so.
"""

import atexit
import logging
import os
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import orjson
import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

log = logging.getLogger(__name__)

# model and pattern -> calls under way
Counts = Mapping[tuple[str, str], int]

INTERVAL: Final = 0.5
KEEPALIVE: Final = 2.0
LIFETIME: Final = 5
PROCESSES: Final = "citadel:gauges"


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """Calls under way by model and pattern; `shared` is False while Redis is away and only our own are known."""

    counts: Counts
    shared: bool


class Publisher:
    """Tells the others, from one thread, what one process has under way."""

    def __init__(self) -> None:
        self._read: Callable[[], Counts] = dict
        self._name = f"{PROCESSES}:{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._redis: redis.Redis | None = None
        self._told: Counts = {}
        self._told_at = 0.0
        self._answers = True

    def start(self, read: Callable[[], Counts]) -> None:
        """Publish what `read` returns, from now on."""
        with self._lock:
            self._read = read
            if self._thread is None:
                self._stopping.clear()
                self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Stop publishing, and be forgotten at once."""
        with self._lock:
            thread, self._thread, self._read = self._thread, None, dict
            self._stopping.set()
        if thread is not None:
            thread.join(2 * settings.REDIS_TIMEOUT + INTERVAL)

    def in_flight(self) -> InFlight:
        """Return what all processes have under way, this one's own as of now."""
        total = Counter(dict(self._read()))
        try:
            others = self._others()
        except redis.RedisError as error:
            log.info("calls of other processes are not known: %s", type(error).__name__)
            return InFlight(counts=_positive(total), shared=False)
        for document in others:
            for model, pattern, count in orjson.loads(document):
                total[model, pattern] += count
        return InFlight(counts=_positive(total), shared=True)

    def _others(self) -> list[bytes]:
        with connect() as connection:
            since = _seconds(connection) - LIFETIME
            names = [n for n in connection.zrangebyscore(PROCESSES, since, "+inf") if n != self._name.encode()]
            return [document for document in connection.mget(names) if document] if names else []

    # --- the thread ---

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL):
            self._tell(_positive(self._read()))
        if self._told:
            self._tell({})
        if self._redis is not None:
            self._redis.close()
            self._redis = None

    def _tell(self, counts: Counts) -> None:
        """Say it when it has changed, and now and then while there is something to say."""
        now = time.monotonic()
        if counts == self._told and (not counts or now - self._told_at < KEEPALIVE):
            return
        try:
            self._send(counts)
        except redis.RedisError as error:
            if self._answers:
                log.warning("calls under way are not published: Redis does not answer (%s)", type(error).__name__)
            self._answers = False
        else:
            self._answers, self._told, self._told_at = True, counts, now

    def _send(self, counts: Counts) -> None:
        if self._redis is None:
            self._redis = connect()
        now = _seconds(self._redis)
        with self._redis.pipeline(transaction=True) as pipe:
            if counts:
                document = orjson.dumps([[model, pattern, count] for (model, pattern), count in counts.items()])
                pipe.set(self._name, document, ex=LIFETIME)
                pipe.zadd(PROCESSES, {self._name: now})
            else:
                pipe.delete(self._name)
                pipe.zrem(PROCESSES, self._name)
            pipe.zremrangebyscore(PROCESSES, "-inf", now - 10 * LIFETIME)
            pipe.execute()


def _positive(counts: Counts) -> dict[tuple[str, str], int]:
    return {key: count for key, count in counts.items() if count > 0}


def connect() -> redis.Redis:
    """Return a connection without redis-py's own retries: they would keep whoever asks for the status waiting."""
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=settings.REDIS_TIMEOUT,
        socket_connect_timeout=settings.REDIS_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
    )


def _seconds(connection: redis.Redis) -> float:
    """Redis's clock, which is the same for all."""
    seconds, microseconds = connection.time()
    return float(seconds) + float(microseconds) / 1_000_000


_publisher = Publisher()


def _begin_anew() -> None:
    """In a forked child: the thread, the name and the connection are the parent's."""
    global _publisher
    _publisher = Publisher()


os.register_at_fork(after_in_child=_begin_anew)


def publish(read: Callable[[], Counts]) -> None:
    """Publish this process's calls under way, as `read` (integrations.gateway.in_flight) counts them, until `stop`."""
    _publisher.start(read)


def stop() -> None:
    """Stop publishing; the other processes forget this one's calls at once."""
    _publisher.stop()


def in_flight() -> InFlight:
    """Return the calls under way in all processes, or in this one while Redis is away."""
    return _publisher.in_flight()


def active_requests() -> Counts:
    """Return only the counts of `in_flight`: model and pattern -> calls under way."""
    return in_flight().counts


atexit.register(stop)
