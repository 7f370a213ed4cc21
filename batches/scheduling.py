"""The scheduler: release, rescue, expire, purge and prune, in a loop of its own; callbacks and canaries beside it.

Never through RQ, where a tick would wait behind a batch. Each tick holds an advisory lock, so two schedulers take turns
and do no harm, and the canaries one of their own; whatever fails is logged and tried again at its next time.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore
from django.db import DatabaseError, InterfaceError, connection

from batches import (
    callbacks,
    clock,
    ended,
    file_batches,
    file_clerk,
    file_store,
    heartbeats,
    lifecycle,
    queues,
    releasing,
    rescue,
)
from batches.repeating import Repeating
from integrations import canaries, marks, pruning, rollups

log = logging.getLogger(__name__)

# Any numbers will do, as long as nobody else in this database takes the same ones.
LOCK = 0x43495441
CANARY_LOCK = 0x43414E41
PURGE_INTERVAL = 60.0
PURGE_SLICES = 3
PRUNE_INTERVAL = 300.0
SESSIONS_INTERVAL = 3600.0
# How often a waiting scheduler looks whether it should stop: its signal handler may set a flag but take no lock.
GLANCE = 0.1


@dataclass(slots=True, kw_only=True)
class Duty:
    """Something to do every `interval` seconds, or at each tick; when it returns True, at the next tick again."""

    name: str
    do: Callable[[], object]
    interval: float = 0.0
    due: float = 0.0  # time.monotonic()


def release() -> None:
    """Release what is due and hand it to the workers."""
    for batch_id in releasing.release_due(clock.now()):
        queues.enqueue(batch_id)


def expire() -> None:
    """End the batches whose time is over."""
    for batch_id in lifecycle.expire_due(clock.now()):
        queues.remove(batch_id)


def expire_files() -> None:
    """End the batches of files whose lines were never read, and take files from sight whose time is over."""
    now = clock.now()
    file_batches.expire_due(now)
    file_store.expire_due(now)


def sweep_files() -> bool:
    """Remove some of the files that nobody sees any more."""
    return file_store.sweep(clock.now())


def purge() -> bool:
    """Delete some of the texts and vectors that are due. Few at a time: the next rescue waits for it."""
    return lifecycle.purge_due(clock.now(), limit=PURGE_SLICES) > 0


def fold() -> bool:
    """Fold some of the rollups that are due, and mark where long windows begin; return whether there may be more."""
    marks.keep()
    return rollups.fold().more


def prune() -> bool:
    """Delete some of the records whose retention is over; return whether there may be more."""
    return pruning.prune().more


def deliver() -> bool:
    """Make the attempts at callbacks that are due; return whether there may be more."""
    return callbacks.deliver_due() == callbacks.AT_ONCE


def check_canaries() -> bool:
    """Ask the endpoints that are due for their canary, unless another scheduler just does."""
    if not _try_lock(CANARY_LOCK):
        return False
    try:
        canaries.check_due()
    finally:
        _unlock(CANARY_LOCK)
    return False


def threads() -> tuple[Repeating, ...]:
    """Return what runs beside the ticks: a slow receiver, model server or storage must hold up no rescue."""
    return (
        Repeating("callbacks", deliver, patience=settings.CALLBACK_TIMEOUT + 5),
        # Nothing is lost with a question that nobody waits for.
        Repeating("canaries", check_canaries, patience=1.0),
        # A file that is left in the middle is begun anew by the next clerk.
        Repeating("files", file_clerk.do_one, patience=settings.WORKER_STOP_TIMEOUT),
    )


class Scheduler:
    """Runs the duties until told to stop."""

    def __init__(self) -> None:
        self.name = f"scheduler-{socket.gethostname()[:60]}-{os.getpid()}"
        self.stopping = False
        self._failing: set[str] = set()
        # Whoever is alive says so, whether or not it is the one that holds the lock.
        self._own = [Duty(name="heartbeat", do=self._beat, interval=settings.WORKER_HEARTBEAT_INTERVAL)]
        self._shared = [
            Duty(name="release", do=release),
            Duty(name="expire", do=expire),
            Duty(name="expire files", do=expire_files),
            Duty(name="announce", do=callbacks.announce),
            Duty(name="dispatch", do=rescue.dispatch),
            Duty(name="heartbeats", do=heartbeats.remove_stale, interval=PURGE_INTERVAL),
            Duty(name="purge", do=purge, interval=PURGE_INTERVAL),
            Duty(name="sweep files", do=sweep_files, interval=PURGE_INTERVAL),
            Duty(name="count ended", do=ended.count, interval=ended.INTERVAL),
            Duty(name="fold", do=fold, interval=PRUNE_INTERVAL),
            Duty(name="prune", do=prune, interval=PRUNE_INTERVAL),
            Duty(name="sessions", do=SessionStore.clear_expired, interval=SESSIONS_INTERVAL),
        ]

    def stop(self) -> None:
        """End after the duty under way. Safe in a signal handler."""
        self.stopping = True

    def run(self) -> None:
        """Tick every SCHEDULER_INTERVAL until stopped."""
        log.info("scheduler started", extra={"scheduler": self.name})
        while not self.stopping:
            next_tick = time.monotonic() + settings.SCHEDULER_INTERVAL
            self.tick()
            self._wait(next_tick)
        self.sign_off()
        log.info("scheduler stopped", extra={"scheduler": self.name})

    def tick(self) -> bool:
        """Do what is due; False when another scheduler is just doing it. Never raises."""
        self._do(self._own)
        locked = False
        try:
            locked = _try_lock(LOCK)
            if locked:
                self._do(self._shared)
        except (DatabaseError, InterfaceError) as error:
            self._failed("lock", error)
        finally:
            if locked:
                self._guarded(Duty(name="unlock", do=lambda: _unlock(LOCK)))
        return locked

    def sign_off(self) -> None:
        """Remove this scheduler's heartbeat."""
        self._guarded(Duty(name="sign off", do=lambda: heartbeats.sign_off(self.name)))

    def _wait(self, until: float) -> None:
        while not self.stopping and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, GLANCE))

    def _beat(self) -> None:
        heartbeats.beat(self.name, heartbeats.SCHEDULER)

    def _do(self, duties: Iterable[Duty]) -> None:
        for duty in duties:
            if not self.stopping and time.monotonic() >= duty.due:
                self._guarded(duty)

    def _guarded(self, duty: Duty) -> None:
        try:
            more = duty.do() is True
        except Exception as error:
            self._failed(duty.name, error)
            return
        duty.due = time.monotonic() + (0.0 if more else duty.interval)
        if duty.name in self._failing:
            self._failing.discard(duty.name)
            log.info("duty works again", extra={"duty": duty.name})

    def _failed(self, name: str, error: Exception) -> None:
        if isinstance(error, DatabaseError | InterfaceError):
            connection.close()  # the next use opens another; the advisory lock went with this one
        if name not in self._failing:
            self._failing.add(name)
            log.warning("duty failed", exc_info=error, extra={"duty": name})


def _try_lock(number: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [number])
        return bool(cursor.fetchone()[0])


def _unlock(number: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock(%s)", [number])
