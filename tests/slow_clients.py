"""Clients that never finish what they send, for a test and for a look by hand:

    python -m tests.slow_clients --url http://127.0.0.1:8000 --model phi3 --clients 1000

Half of them stop within the head, half within the body; each sends one more byte now and then. Meanwhile live calls are
made, and timed.
"""

import argparse
import contextlib
import os
import selectors
import socket
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from typing import Self
from urllib.parse import urlsplit

import requests


class SlowClients:
    """So many connections that trickle; use as a context manager. `cut` counts those that the server has ended."""

    def __init__(self, url: str, count: int, *, path: str, key: str = "", every: float = 0.5) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._every, self.cut = every, 0
        head = f"POST {path} HTTP/1.1\r\nHost: {parts.hostname}\r\nContent-Type: application/json\r\n"
        head += f"Authorization: Bearer {key}\r\n" if key else ""
        self._first = (f"{head}X-Slow: ".encode(), f"{head}Content-Length: 100000\r\n\r\n{{".encode())
        self._open = selectors.DefaultSelector()
        self._count = count
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._trickle, name="slow", daemon=True)

    def __enter__(self) -> Self:
        for number in range(self._count):
            client = socket.create_connection(self._address, timeout=30)
            client.sendall(self._first[number % 2])
            client.setblocking(False)
            self._open.register(client, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for client in self._clients():
            client.close()
        self._open.close()

    def _trickle(self) -> None:
        while not self._ended.wait(self._every):
            for client in self._clients():
                with contextlib.suppress(BlockingIOError):
                    if self._is_cut(client):
                        self._open.unregister(client)
                        client.close()
                        self.cut += 1

    def _is_cut(self, client: socket.socket) -> bool:
        """Send one more byte; whether the server has had enough."""
        try:
            client.send(b"a")
            # An answer (408) may come before the end.
            while client.recv(4096):
                pass
            return True
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _clients(self) -> list[socket.socket]:
        found = [key.fileobj for key in self._open.get_map().values()]
        return [client for client in found if isinstance(client, socket.socket)]


def timed_calls(url: str, count: int, *, model: str, key: str = "") -> list[float]:
    """Make so many live calls, one after the other; return their times in ms. Raises for one that is not answered."""
    headers, times = {"Authorization": f"Bearer {key}"} if key else {}, []
    with requests.Session() as session:
        for _ in range(count):
            began = time.perf_counter()
            body = {"text": "a", "urgent": True}
            address = f"{url}/api/v1/external/{model}/embed"
            session.post(address, json=body, headers=headers, timeout=30).raise_for_status()
            times.append((time.perf_counter() - began) * 1000)
    return times


def _said(name: str, times: Sequence[float]) -> str:
    cuts = statistics.quantiles(times, n=100)
    return f"{name}: {len(times)} live calls, p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms"


def main(arguments: list[str]) -> None:
    """Time live calls without and with the slow clients."""
    parser = argparse.ArgumentParser(prog="python -m tests.slow_clients", description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="phi3")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=300)
    options = parser.parse_args(arguments)
    key = os.environ.get("CITADEL_API_KEY", "")
    asked = {"model": options.model, "key": key}
    print(_said("alone", timed_calls(options.url, options.calls, **asked)))
    path = f"/api/v1/external/{options.model}/embed"
    with SlowClients(options.url, options.clients, path=path, key=key) as slow:
        print(_said(f"with {options.clients} slow clients", timed_calls(options.url, options.calls, **asked)))
        print(f"cut off so far: {slow.cut}")


if __name__ == "__main__":
    main(sys.argv[1:])
