"""Every call leaves a record, and none waits for it.

`record` puts a value into a buffer of this process and returns; one thread writes what is there every
RECORD_FLUSH_INTERVAL (100 ms), or once RECORD_FLUSH_ROWS (500) have come together. While PostgreSQL is away the buffer
fills up to RECORD_BUFFER_SIZE; what comes after that is dropped, and counted: the count is in patterns/status and
/metrics. The thread starts with the first record, in each process anew after a fork.
"""

import atexit
import contextlib
import logging
import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from django.conf import settings

from integrations.calls import BreakerChange, CacheUse, Call
from integrations.record_writer import REFUSED, Item, Writer

__all__ = ["Call", "breaker_event", "cache_use", "dropped", "flush", "record", "start", "stop", "unreported", "waiting"]

log = logging.getLogger(__name__)

# After an outage a full buffer goes out in pieces of this size: large transactions would hold the rollups' rows long.
_ROWS_AT_ONCE: Final = 5_000
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 5.0
_IDLE: Final = 60.0


class Recorder:
    """The buffer of one process, and the thread that empties it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[Item] = []
        self._accepted = self._settled = 0  # since the process began; settled is written or given up
        self._dropped = self._reported = 0  # likewise; reported is what PostgreSQL knows of
        self._thread: threading.Thread | None = None
        self._stopping = self._hurry = False

    def put(self, item: Item) -> None:
        """Take an item, or count it as dropped. Never waits for the database."""
        with self._changed:
            if self._accepted - self._settled >= settings.RECORD_BUFFER_SIZE or not self.start():
                self._dropped += 1
                return
            self._items.append(item)
            self._accepted += 1
            if len(self._items) in (1, settings.RECORD_FLUSH_ROWS):
                self._changed.notify_all()

    def start(self) -> bool:
        """Start the thread where it does not run; False where there can be none, the process being about to end."""
        with self._changed:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="recorder", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return False
                self._thread, self._stopping = thread, False
            return True

    def flush(self, timeout: float) -> bool:
        """Wait until what was recorded so far is written (or given up); False if that took over `timeout` seconds."""
        with self._changed:
            target = self._accepted
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._settled >= target, timeout)

    def stop(self, timeout: float) -> None:
        """Write what is left, once, and end the thread; what cannot be written now is dropped."""
        with self._changed:
            thread, self._stopping = self._thread, True
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeout)

    def dropped(self) -> int:
        """Return how many records this process has lost."""
        return self._dropped

    def unreported(self) -> int:
        """Return how many of the lost records PostgreSQL does not know of yet."""
        return self._dropped - self._reported

    def waiting(self) -> int:
        """Return how many records are not written yet."""
        return self._accepted - self._settled

    # --- the thread ---

    def _run(self) -> None:
        with contextlib.closing(Writer()) as writer:
            while items := self._take(writer):
                self._settle(items, writer)

    def _take(self, writer: Writer) -> list[Item]:
        """Wait for items, and a moment for more; nothing once the thread is to end."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._items or self._stopping, _IDLE):
                writer.close()
            if not self._items:
                self._thread = None  # under the lock: whoever records from here on starts another
                return []
            self._changed.wait_for(self._due, settings.RECORD_FLUSH_INTERVAL)
            self._hurry = False
            taken, self._items = self._items[:_ROWS_AT_ONCE], self._items[_ROWS_AT_ONCE:]
            return taken

    def _due(self) -> bool:
        return self._stopping or self._hurry or len(self._items) >= settings.RECORD_FLUSH_ROWS

    def _settle(self, items: Sequence[Item], writer: Writer) -> None:
        """Write `items`; where one is refused, find it by halves and write the others."""
        lost = self._dropped - self._reported
        try:
            written = self._written(items, writer, lost=lost)
        except REFUSED:
            if len(items) > 1:
                half = len(items) // 2
                self._settle(items[:half], writer)
                self._settle(items[half:], writer)
                return
            log.exception("a record cannot be stored and is dropped")
            written = False
        with self._changed:
            self._settled += len(items)
            self._reported += lost if written else 0
            self._dropped += 0 if written else len(items)
            self._changed.notify_all()

    def _written(self, items: Sequence[Item], writer: Writer, *, lost: int) -> bool:
        """Try until it is written; False where the process ends before. Raises one of REFUSED."""
        delay = 0.0
        while True:
            try:
                writer.write(items, dropped=lost)
            except REFUSED:
                raise
            except Exception as error:
                if not delay:
                    log.warning("records wait: the database does not take them (%s)", type(error).__name__)
                if self._stopping:
                    writer.give_up()
                    return False
                delay = min(max(_FIRST_DELAY, delay * 2), _LONGEST_DELAY)
                self._pause(delay)
            else:
                if delay:
                    log.info("records are written again")
                return True

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._hurry, seconds)
            self._hurry = False


_recorder = Recorder()


def _begin_anew() -> None:
    """In a forked child: the parent writes its own records, and its thread and lock are not ours."""
    global _recorder
    _recorder = Recorder()


os.register_at_fork(after_in_child=_begin_anew)


def record(call: Call) -> None:
    """Record a call: returns at once, never raises."""
    _put(call)


def cache_use(use: CacheUse) -> None:
    """Count texts that came from the cache, and those that did not: returns at once, never raises."""
    _put(use)


def breaker_event(
    *,
    endpoint_id: int | None,
    model: str,
    url: str,
    from_state: str,
    to_state: str,
    reason: str = "",
    actor: str = "",
    until: datetime | None = None,
    at: datetime | None = None,
) -> None:
    """Record that a breaker changed: returns at once, never raises. `at` is now where it is not given."""
    change = BreakerChange(
        at=at or datetime.now(UTC),
        endpoint_id=endpoint_id,
        model=model,
        url=url,
        from_state=from_state,
        to_state=to_state,
        reason=reason,
        actor=actor,
        until=until,
    )
    _put(change)


def _put(item: Item) -> None:
    try:
        _recorder.put(item)
    except Exception:
        log.exception("a call was not recorded")


def start() -> None:
    """Start the writing thread before the first record needs it."""
    _recorder.start()


def flush(timeout: float = 5.0) -> bool:
    """Wait until all that this process recorded so far is written (or given up); False after `timeout` seconds."""
    return _recorder.flush(timeout)


def stop(timeout: float = 5.0) -> None:
    """Write what is left and close the connection; a later record starts again. A process that ends by os._exit, such
    as RQ's work horse, must call this itself."""
    _recorder.stop(timeout)


def dropped() -> int:
    """Return how many records this process has lost, to a full buffer or because they could not be stored."""
    return _recorder.dropped()


def unreported() -> int:
    """Return how many of them are not counted in PostgreSQL's rollups yet."""
    return _recorder.unreported()


def waiting() -> int:
    """Return how many records of this process are not written yet."""
    return _recorder.waiting()


atexit.register(stop)
