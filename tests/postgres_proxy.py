"""A TCP proxy before PostgreSQL that cuts a connection at the worst moment."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Self

from django.db import connections


class PostgresProxy:
    """Hands bytes on, until a client sends the words it waits for: then that connection is cut, once."""

    def __init__(self, database: Mapping[str, Any]) -> None:
        self._server = (database["HOST"], int(database["PORT"]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.swallowed = 0
        self._words, self._deliver = b"", False
        self._threads = [threading.Thread(target=self._accept)]

    def swallow_answer_to(self, words: bytes) -> None:
        """Let the server do what these words ask, and lose its answer."""
        self._words, self._deliver = words, True

    def swallow_before(self, words: bytes) -> None:
        """Lose these words on their way to the server."""
        self._words, self._deliver = words, False

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            while True:
                for ready in select.select([client, server], [], [], 10)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if ready is client and self._words and self._words in data:
                        self._swallow(data, server)
                        return
                    (server if ready is client else client).sendall(data)

    def _swallow(self, data: bytes, server: socket.socket) -> None:
        self._words, self.swallowed = b"", self.swallowed + 1
        if self._deliver:
            server.sendall(data)
            server.recv(65536)


@contextlib.contextmanager
def connections_through(proxy: PostgresProxy) -> Iterator[None]:
    """New connections to the database go through `proxy`; those that are open stay as they are."""
    settings = connections.settings["default"]
    straight = settings["HOST"], settings["PORT"]
    settings["HOST"], settings["PORT"] = "127.0.0.1", proxy.port
    try:
        yield
    finally:
        settings["HOST"], settings["PORT"] = straight


@contextlib.contextmanager
def unreachable_database() -> Iterator[None]:
    """Nobody listens where the database was; this thread's connection is closed, so that it has to ask."""
    settings = connections.settings["default"]
    port = settings["PORT"]
    connections["default"].close()
    settings["PORT"] = 1
    try:
        yield
    finally:
        settings["PORT"] = port
