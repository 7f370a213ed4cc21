"""Who is alive, as rows in PostgreSQL: RQ's own registry does not come back after a flush of Redis.

A thread with a connection of its own says every WORKER_HEARTBEAT_INTERVAL that the process lives and renews the leases
of what it has in flight. So a lease can be shorter than a slow call: a kill -9 is noticed within CHUNK_LEASE, a slow
server costs nobody a lease.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection

from batches import claiming
from batches.claiming import UNSYNCED, Claim
from batches.models import WorkerHeartbeat

log = logging.getLogger(__name__)

WORKER, SCHEDULER = "worker", "scheduler"
# A row of a process that was killed stays so long, for whoever wonders where it went. In seconds.
KEEP = 600.0

_BEAT = f"""{UNSYNCED}
INSERT INTO batches_workerheartbeat AS w (name, kind, host, pid, started_at, seen_at, batch_id, chunks_in_flight)
VALUES (%(name)s, %(kind)s, %(host)s, %(pid)s, now(), now(), %(batch_id)s, %(chunks)s)
ON CONFLICT (name) DO UPDATE SET seen_at = now(), batch_id = EXCLUDED.batch_id,
    chunks_in_flight = EXCLUDED.chunks_in_flight, kind = EXCLUDED.kind, host = EXCLUDED.host, pid = EXCLUDED.pid,
    started_at = CASE WHEN (w.host, w.pid) = (EXCLUDED.host, EXCLUDED.pid) THEN w.started_at ELSE now() END
"""  # nosec B608 # made of constants

# Lately seen. Not later than now, either: a process that was killed before the clock stepped back would live on for as
# long as the step; one that does live says so anew within a beat.
ALIVE = """seen_at BETWEEN now() - %(alive)s * interval '1 second' AND now() + %(alive)s * interval '1 second'"""


def beat(name: str, kind: str, *, batch_id: str = "", chunks: int = 0) -> None:
    """Say that this process is alive, and on what it works."""
    values: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "host": socket.gethostname()[:100],
        "pid": os.getpid(),
        "batch_id": batch_id,
        "chunks": chunks,
    }
    with connection.cursor() as cursor:
        cursor.execute(_BEAT, values)


def sign_off(name: str) -> None:
    """Remove this process's row: it ends by itself and nobody need wonder."""
    WorkerHeartbeat.objects.filter(name=name, pid=os.getpid()).delete()


def alive_within() -> float:
    """Return how old, in seconds, the last sign of a live process may be."""
    return max(settings.CHUNK_LEASE, 3 * settings.WORKER_HEARTBEAT_INTERVAL)


def workers_alive() -> int:
    """Return how many workers have lately said that they are alive."""
    return _alive(WORKER)


def schedulers_alive() -> int:
    """Return how many schedulers have lately said that they are alive."""
    return _alive(SCHEDULER)


def remove_stale() -> int:
    """Remove the rows of processes that have been silent for minutes; return how many."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM batches_workerheartbeat WHERE seen_at < now() - %s * interval '1 second'", [KEEP])
        return int(cursor.rowcount)


def _alive(kind: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM batches_workerheartbeat WHERE kind = %(kind)s AND {ALIVE}",  # nosec B608 # made of constants
            {"kind": kind, "alive": alive_within()},
        )
        return int(cursor.fetchone()[0])


class Pulse:
    """The heartbeat thread of one worker. `batch_id` and `claims()` are read at each beat."""

    def __init__(self, name: str, claims: Callable[[], Sequence[Claim]]) -> None:
        self.name = name
        self.batch_id = ""
        self._claims = claims
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._silent = False

    def start(self) -> None:
        """Beat once in the calling thread, which must succeed, and from now on in the background."""
        self.beat_now()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and remove the row."""
        self._stopping.set()
        self._thread.join(timeout=5)

    def works_on(self, batch_id: str) -> None:
        """Say at once on which batch this worker has begun; "" for none. Raises django.db.DatabaseError."""
        self.batch_id = batch_id
        beat(self.name, WORKER, batch_id=batch_id, chunks=len(self._claims()))

    def beat_now(self) -> None:
        """Beat once. Raises django.db.DatabaseError."""
        claims = self._claims()
        beat(self.name, WORKER, batch_id=self.batch_id, chunks=len(claims))
        claiming.renew(claims)

    def _run(self) -> None:
        while not self._stopping.wait(settings.WORKER_HEARTBEAT_INTERVAL):
            try:
                self.beat_now()
                self._silent = False
            except (DatabaseError, InterfaceError) as error:
                self._lost(error)
        try:
            sign_off(self.name)
        except (DatabaseError, InterfaceError):
            log.warning("worker not signed off: PostgreSQL does not answer", extra={"worker": self.name})
        connection.close()

    def _lost(self, error: Exception) -> None:
        if not self._silent:
            log.warning("no heartbeat: PostgreSQL does not answer", extra={"worker": self.name, "error": str(error)})
        self._silent = True
        connection.close()
