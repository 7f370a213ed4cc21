"""Health for balancers and supervisors: alive, and ready with the missing parts named."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import redis
from django.conf import settings
from django.db import connection
from redis.backoff import NoBackoff
from redis.retry import Retry
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from integrations import snapshot
from integrations.api import schema
from integrations.errors import InvalidRequest, QueueUnavailable

log = logging.getLogger(__name__)

# Seconds: a balancer asks often, and must not wait for a database that says nothing.
CHECK_TIMEOUT: Final = 1.0
# What queued work cannot do without; the workers take batches from PostgreSQL's rows once Redis is back.
QUEUE_NEEDS: Final = ("database", "workers")


class Check:
    """One thing to ask, in a thread of its own that may hang; while it hangs, no second one is started."""

    def __init__(self, name: str, ask: Callable[[], object]) -> None:
        self.name = name
        self._ask = ask
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._answer: bool | None = None

    def begin(self) -> None:
        """Ask, unless the question before is still open: then its answer is this one's, too."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._answer = None
                self._thread = threading.Thread(target=self._run, name=f"health-{self.name}", daemon=True)
                self._thread.start()

    def passed(self, deadline: float) -> bool:
        """Whether it answered well before `deadline` (of time.monotonic())."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))
        return bool(self._answer)

    def _run(self) -> None:
        try:
            self._answer = bool(self._ask())
        except Exception as error:  # whatever it is, the part does not answer
            log.warning("health: %s does not answer (%s)", self.name, type(error).__name__)
        finally:
            connection.close()


def database_answers() -> bool:
    """Ask PostgreSQL, over a connection of this thread's. Raises django.db.Error."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return True


def redis_answers() -> bool:
    """Ask Redis once. Raises redis.RedisError."""
    client = redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=CHECK_TIMEOUT,
        socket_connect_timeout=CHECK_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        return bool(client.ping())
    finally:
        client.close()


def run_checks(checks: Mapping[str, Check], *, timeout: float = CHECK_TIMEOUT) -> dict[str, str]:
    """Ask all at once; return name -> "ok" or "failed" within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    for check in checks.values():
        check.begin()
    return {name: "ok" if check.passed(deadline) else "failed" for name, check in checks.items()}


class LiveView(APIView):
    """The process answers; nothing else is asked."""

    authentication_classes = ()
    permission_classes = ()

    @schema.live
    def get(self, request: Request) -> Response:
        """Say so."""
        return Response({"status": "ok"})


class ReadyView(APIView):
    """200 as soon as there is a configuration, with the degraded parts named; ?need=queue is strict."""

    # name -> what to ask; given by the composition root, for the workers are not this app's.
    checks: Mapping[str, Check] = {}

    authentication_classes = ()
    permission_classes = ()

    @schema.ready
    def get(self, request: Request) -> Response:
        """Ask every part at once and name those that do not answer."""
        need = request.query_params.get("need")
        if need not in (None, "queue"):
            raise InvalidRequest(errors={"need": ["Must be queue, or not given."]})
        version = snapshot.current().version
        found = run_checks(self.checks)
        if found.get("database") == "failed":
            found["workers"] = "unknown"  # known from PostgreSQL's rows alone
        degraded = [name for name, state in found.items() if state != "ok"]
        if need and (missing := [name for name in degraded if name in QUEUE_NEEDS]):
            raise QueueUnavailable(f"Queued work cannot be done now; missing: {', '.join(missing)}.", retry_after=5)
        return Response(_document(version, found, degraded))


def _document(version: int, found: Mapping[str, str], degraded: list[str]) -> dict[str, Any]:
    return {
        "status": "degraded" if degraded else "ok",
        "degraded": degraded,
        "checks": found,
        "config_version": version,
    }
