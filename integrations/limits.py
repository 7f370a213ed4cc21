"""What an API key may use: requests and texts a minute, texts a day. The same limit for all processes together.

A limit counts in windows of Redis's clock: a minute, or a day of UTC. From 600 on a process holds a lease, a fiftieth
at most, so that a live call costs no round trip; what is held and not used goes back within a second. A smaller limit
is asked for with one Redis call a request. Neither ever lets more through than its number. With Redis away each process
allows its share, the limit divided by the processes that used the key within the last minute as last heard; one that
never heard anything takes the whole limit for its own. A request counts when it is let in, whatever becomes of it.
"""

import asyncio
import logging
import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from integrations.access import Client
from integrations.errors import RateLimited
from integrations.limit_ledger import Ledger, Need
from integrations.limit_pool import Pool
from integrations.values import Key

log = logging.getLogger(__name__)

TICK = 0.1


async def admit(client: Client, texts: int) -> None:
    """Count one request with so many texts, from an event loop. Raises RateLimited."""
    needs = _needs(client.key, requests=1, texts=texts)
    if needs and not (ledger := _books.ledger(client.key)).take(needs):
        await asyncio.get_running_loop().run_in_executor(_books.threads(), ledger.settle, needs)


def admit_now(client: Client, texts: int, *, requests: int = 1) -> None:
    """Count one request with so many texts, from a thread that may wait for Redis. Raises RateLimited."""
    needs = _needs(client.key, requests=requests, texts=texts)
    if needs:
        _books.ledger(client.key).settle(needs)


def metered(client: Client, lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of an NDJSON body and count its texts once all are there: all of them, or none.

    Raises RateLimited, as soon as there are more than the key could ever have in one window.
    """
    count = 0
    for line in lines:
        if line and not line.isspace():
            count += 1
            _needs(client.key, requests=0, texts=count)
        yield line
    admit_now(client, count, requests=0)


def stop() -> None:
    """Bring back what is held, and end the thread."""
    _books.stop()


def _needs(key: Key | None, *, requests: int, texts: int) -> list[Need]:
    """What a request takes of each limit that its key has. Raises RateLimited for one that could never have it."""
    if key is None:
        return []
    asked = (
        ("requests", "requests a minute", key.requests_per_minute, 60, requests),
        ("texts", "texts a minute", key.texts_per_minute, 60, texts),
        ("day", "texts a day", key.texts_per_day, 86_400, texts),
    )
    needs = [
        Need(name=name, words=words, limit=limit, seconds=seconds, amount=amount)
        for name, words, limit, seconds, amount in asked
        if limit is not None and amount
    ]
    for need in needs:
        if need.amount > need.limit:
            raise RateLimited(
                f"One request with over {need.limit} texts: the key's limit is {need.limit} {need.words}."
            )
    return needs


class _Books:
    """The ledgers of this process, and the thread that keeps them tidy; a forked child begins its own."""

    def __init__(self) -> None:
        self._pid = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ledgers: dict[str, Ledger] = {}
        self._pool: Pool | None = None
        self._thread: threading.Thread | None = None
        self._threads: ThreadPoolExecutor | None = None

    def ledger(self, key: Key | None) -> Ledger:
        """Return the ledger of this key."""
        found = self._ledgers.get(key.prefix if key else "") if self._pid == os.getpid() else None
        return found or self._opened(key.prefix if key else "")

    def threads(self) -> ThreadPoolExecutor:
        """Where the event loop's calls wait for Redis."""
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(8, thread_name_prefix="limits")
            return self._threads

    def stop(self) -> None:
        """End the thread; the next use starts it again."""
        self._stop.set()
        if self._thread is not None and self._pid == os.getpid():
            self._thread.join(timeout=5)
        if self._pool is not None:
            self._pool.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False)
        self._pid, self._pool, self._thread, self._threads = 0, None, None, None

    def _opened(self, prefix: str) -> Ledger:
        with self._lock:
            if self._pid != os.getpid():
                self._begin()
            if self._pool is None:
                raise RuntimeError("limits are closed")
            return self._ledgers.setdefault(prefix, Ledger(prefix, self._pool))

    def _begin(self) -> None:
        self._pid, self._ledgers, self._stop = os.getpid(), {}, threading.Event()
        self._pool, self._threads = Pool(uuid.uuid4().hex), None
        self._thread = threading.Thread(target=self._keep_tidy, args=(self._stop,), name="limits", daemon=True)
        self._thread.start()

    def _keep_tidy(self, stop: threading.Event) -> None:
        while not stop.wait(TICK):
            for ledger in tuple(self._ledgers.values()):
                ledger.tidy()
        for ledger in tuple(self._ledgers.values()):
            ledger.give_back()


_books = _Books()
