"""Clients that call as fast as they are answered, in one process of their own.

    python -m tests.benchmarks.live_client --url http://127.0.0.1:8000/path --connections 32 --seconds 5 < bodies

Standard input holds the JSON bodies, one a line, which the connections send in turns; `--header "Name: value"` adds to
each. With `--every S` a connection begins a call each S seconds instead. It prints one JSON object: requests, errors,
requests a second, and the quartiles of the time that a request took, in milliseconds.
"""

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from urllib.parse import urlsplit

import orjson
import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_CHUNKED = 10**12


class Connection(asyncio.Protocol):
    """One connection with at most one request under way. It knows just enough of HTTP to be no bottleneck."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._got = 0
        self._needed: int | None = None
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self.ask()

    def ask(self) -> None:
        """Send the next request."""
        self._began = time.perf_counter()
        self._transport.write(next(self._load.requests))  # type: ignore[attr-defined]  # a socket's can be written to

    def data_received(self, data: bytes) -> None:
        """Take a piece of an answer, whose end its length tells, or the last of its chunks."""
        if self._needed is None:
            self._head += data
            head, found, body = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._status, self._head, self._got = head[9:12], b"", len(body)
            length = _LENGTH.search(head)
            self._needed = int(length[1]) if length else _CHUNKED
        else:
            self._got += len(data)
        if self._got >= self._needed or (self._needed == _CHUNKED and data.endswith(b"0\r\n\r\n")):
            self._needed = None
            self._load.ended(self, self._began, self._status == b"200")

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closed it: begin anew."""
        if not self._load.over:
            self._load.errors += 1
            self._load.connect()


class Load:
    """All connections."""

    def __init__(self, options: argparse.Namespace, bodies: list[bytes]) -> None:
        self._options, self._parts = options, urlsplit(options.url)
        self.requests = self._requests(bodies)
        self.over = False
        self.errors = 0
        self.taken: list[float] = []
        self._counts_from = time.perf_counter() + options.warm
        self._tasks: set[object] = set()

    def _requests(self, bodies: list[bytes]) -> Iterator[bytes]:
        head = [f"POST {self._parts.path} HTTP/1.1", f"Host: {self._parts.netloc}", "Content-Type: application/json"]
        words = "\r\n".join([*head, *self._options.header])
        return cycle([f"{words}\r\nContent-Length: {len(b)}\r\n\r\n".encode() + b for b in bodies])

    def connect(self) -> None:
        """Open one more connection."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(
            loop.create_connection(lambda: Connection(self), self._parts.hostname, self._parts.port)
        )
        self._tasks.add(task)

    def ended(self, connection: Connection, began: float, good: bool) -> None:
        """Note an answer and ask again."""
        now = time.perf_counter()
        # By its end: of answers that take a second those that were asked for earlier count as well.
        if now >= self._counts_from and not self.over:
            if good:
                self.taken.append(now - began)
            else:
                self.errors += 1
        if self._options.every:
            asyncio.get_running_loop().call_later(max(0.0, began + self._options.every - now), connection.ask)
        elif not self.over:
            connection.ask()

    async def run(self) -> dict[str, float]:
        """Call for the time that was asked for."""
        for number in range(self._options.connections):
            self.connect()
            if self._options.every:
                await asyncio.sleep(self._options.every / self._options.connections)
            elif number % 50 == 49:
                await asyncio.sleep(0.01)
        await asyncio.sleep(self._counts_from + self._options.seconds - time.perf_counter())
        self.over = True
        taken = sorted(self.taken) or [0.0]
        at = {f"p{p}_ms": taken[min(len(taken) - 1, len(taken) * p // 100)] * 1000 for p in (50, 95, 99)}
        rate = len(self.taken) / self._options.seconds
        return {"requests": len(self.taken), "errors": self.errors, "per_second": rate, **at}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm", type=float, default=1.0)
    parser.add_argument("--every", type=float, default=0.0)
    parser.add_argument("--header", action="append", default=[])
    load_options = parser.parse_args()

    async def _whole() -> dict[str, float]:
        return await Load(load_options, sys.stdin.buffer.read().splitlines()).run()

    print(orjson.dumps(uvloop.run(_whole())).decode())
