"""A way to a TCP server that can be shut or stalled: what is behind it then looks as if it had died, or hung."""

import contextlib
import socket
import threading
from typing import Self


class Gate:
    """Hands bytes on between its port and `port`; `shut()` cuts every connection and new ones until `open()`.

    `stall()` lets connections stand, and holds every byte until `flow()`.
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1") -> None:
        self._behind = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._shut = self._ended = False
        self._flows = threading.Event()
        self._flows.set()
        self._thread = threading.Thread(target=self._accept, name="gate", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self.flow()
        self.shut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def shut(self) -> None:
        """Cut every connection; new ones end at once."""
        with self._lock:
            self._shut = True
            for open_socket in self._sockets:
                with contextlib.suppress(OSError):
                    open_socket.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        """Hold what comes from either side."""
        self._flows.clear()

    def flow(self) -> None:
        """Hand on what was held, and what comes."""
        self._flows.set()

    def open(self) -> None:
        """Let connections through again."""
        self._shut = False

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._shut:
                client.close()
                continue
            behind = socket.create_connection(self._behind)
            with self._lock:
                self._sockets |= {client, behind}
            for source, target in ((client, behind), (behind, client)):
                threading.Thread(target=self._hand_on, args=(source, target), daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                target.sendall(data)
        for ended in (source, target):
            with contextlib.suppress(OSError):
                ended.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._sockets.discard(source)
        source.close()
