"""Clients that call again and again in threads, and what each of them got: the traffic beside a fault."""

import http.client
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

from tests.processes import wait_until


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, as a proxy on the same machine speaks it."""

    def __init__(self, path: Path) -> None:
        super().__init__("127.0.0.1", timeout=60)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a port."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


class Load:
    """Live calls to one URL, or to its path behind the socket `unix`, until the block ends.

    `outcomes` counts "ok", the code of each problem that came back, and where no answer came what the client saw:
    "refused" when there was nobody to connect to (nothing was sent, so that any balancer asks the next host),
    "broken" when a connection ended before the answer. With `retry` such a call is made once more, as a proxy does that
    may ask again; `retried` counts these.
    """

    def __init__(
        self,
        url: str,
        *,
        clients: int = 8,
        keep_alive: bool = True,
        body: Mapping[str, Any] | None = None,
        pause: float = 0.0,
        unix: Path | None = None,
        retry: bool = False,
    ) -> None:
        self.retried = 0
        self._retry = retry
        self.outcomes: Counter[str] = Counter()
        self._parts, self._keep_alive, self._pause, self._unix = urlsplit(url), keep_alive, pause, unix
        self._body = orjson.dumps(body or {"text": "a", "urgent": True})
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call_on, daemon=True) for _ in range(clients)]

    @property
    def calls(self) -> int:
        """Calls that have ended, in whatever way."""
        return sum(self.outcomes.values())

    def wait_for(self, calls: int, *, seconds: float = 60) -> None:
        """Wait until so many further calls have ended."""
        wanted = self.calls + calls
        wait_until(lambda: self.calls >= wanted, seconds)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)

    def _connection(self) -> http.client.HTTPConnection:
        if self._unix is not None:
            return _UnixConnection(self._unix)
        return http.client.HTTPConnection(self._parts.hostname or "", self._parts.port, timeout=60)

    def _call_on(self) -> None:
        connection = self._connection()
        while not self._ended.is_set():
            outcome = self._call(connection)
            if self._retry and outcome == "broken":
                with self._lock:
                    self.retried += 1
                outcome = self._call(connection)
            with self._lock:
                self.outcomes[outcome] += 1
            # Whoever is refused at once would only turn in circles.
            self._ended.wait(0.02 if outcome == "refused" else self._pause)
        connection.close()

    def _call(self, connection: http.client.HTTPConnection) -> str:
        headers = {"Content-Type": "application/json", "Connection": "keep-alive" if self._keep_alive else "close"}
        try:
            connection.request("POST", self._parts.path, self._body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (ConnectionRefusedError, FileNotFoundError):
            connection.close()
            return "refused"
        except (OSError, http.client.HTTPException):
            connection.close()
            return "broken"
        if not self._keep_alive:
            connection.close()
        return "ok" if answer.status in (200, 202) else str(orjson.loads(content)["code"])
