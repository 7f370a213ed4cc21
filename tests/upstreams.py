"""Real HTTP model servers for tests: they speak all three protocols, count what they see, and fail on command.

    with Upstream(protocol="tei") as upstream:
        upstream.status(503, times=2)      # the next two embedding calls; without `times` until clear()
        ...
        assert upstream.texts["a text"] == 1

As a process, with the same failures set over HTTP:

    python -m tests.upstreams --port 18000 --protocol ollama
    curl -d '{"failure": "status", "code": 429, "headers": {"Retry-After": "1"}, "times": 2}' localhost:18000/control
    curl localhost:18000/control
"""

import argparse
import asyncio
import hashlib
import signal
import socket
import ssl
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import orjson
import requests
import trustme

from tests.upstream_commands import Commands
from tests.upstream_failures import FAILURES, RIGHT, Exchange, Recorded, read_request
from tests.upstream_speech import SPEECH, TOO_LARGE, Speech


def vector_of(text: str, dimensions: int, weights: str = "") -> npt.NDArray[np.float32]:
    """The vector that every Upstream with these weights gives for `text`: (dimensions,) float32, length 1."""
    seed = int.from_bytes(hashlib.sha256((weights + text).encode("utf-8", "surrogatepass")).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(dimensions)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def counters(url: str) -> dict[str, Any]:
    """What an Upstream in another process has counted so far."""
    answer: dict[str, Any] = requests.get(f"{url}/control", timeout=10).json()
    return answer


def control(url: str, **command: Any) -> None:
    """Set a failure of an Upstream in another process: control(url, failure="status", code=503, times=2)."""
    requests.post(f"{url}/control", json=command, timeout=10).raise_for_status()


class Upstream(Commands):
    """A model server on 127.0.0.1; use it as a context manager from synchronous tests.

    calls, answered: embedding calls that arrived, and those answered with 200; `texts` counts each text of the calls
    that arrived, `embedded` of those answered; `health_calls`; `connections` counts TCP connections, `peak` is the
    most embedding calls that were here at once; `requests` keeps the last 1,000 requests. `delay` (seconds, before
    each answer), `max_batch`, `max_body` (bytes; a longer one is answered with 413, as by nginx), and what makes it
    another model, `weights` and `dimensions`, may be set at any time.

    Failures are used in the order they were given, each for its `times`; one without `times` stays until clear() or
    the next one without `times`. They meet embedding calls, or, with on="health", the health checks.
    """

    def __init__(
        self,
        protocol: str = "ollama",
        *,
        dimensions: int = 8,
        model: str = "test-model",
        port: int = 0,
        max_batch: int | None = None,
        delay: float = 0.0,
        auth: tuple[str, str] | None = None,
        tls: trustme.CA | None = None,
    ) -> None:
        super().__init__()
        self.protocol, self.dimensions, self.model = protocol, dimensions, model
        self.max_batch, self.delay, self.auth, self.weights = max_batch, delay, auth, ""
        self.max_body: int | None = None
        self.requests: deque[Recorded] = deque(maxlen=1000)
        self.in_flight = 0
        self.reset_counters()
        self._speech: Speech = SPEECH[protocol]
        self._tls = _server_context(tls) if tls else None
        self._open: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, list[bool]]] = {}
        self._listener = _bound(port)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def reset_counters(self) -> None:
        """Count from zero again."""
        self.calls = self.answered = self.health_calls = self.connections = 0
        self.peak = self.in_flight
        self.texts: Counter[str] = Counter()
        self.embedded: Counter[str] = Counter()
        self.requests.clear()

    # --- its life ---

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"upstream-{self.port}", daemon=True)
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._listener.close()

    def listen(self) -> None:
        """Take connections (again)."""
        self._call(self._start())

    def refuse(self) -> None:
        """Close every connection and refuse new ones until listen(). The port stays ours, so nobody else answers."""
        self._call(self._stop())
        self._listener = _bound(self.port)

    def close_idle(self) -> None:
        """Close the connections on which no request is being answered, without a word, as servers do after a while."""
        self._call(self._close(only_idle=True))

    def wait_in_flight(self, count: int, *, timeout: float = 30.0) -> None:
        """Return once `count` embedding calls are here, answered by none yet. TimeoutError if they never are."""
        ends = time.monotonic() + timeout
        while self.in_flight < count:
            if time.monotonic() > ends:
                raise TimeoutError(f"{self.in_flight} of {count} calls arrived")
            time.sleep(0.005)

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listener, limit=2**20)

    async def _stop(self) -> None:
        # A connection that was just accepted needs some rounds of the loop until it is one of ours, and the server must
        # still be open then: asyncio loses those that it accepts while it closes.
        self._loop.remove_reader(self._listener)
        for _ in range(10):
            await asyncio.sleep(0)
        self._server.close()
        await self._close(only_idle=False)

    async def _close(self, *, only_idle: bool) -> None:
        tasks = [task for task, (_, busy) in self._open.items() if not (only_idle and busy[0])]
        for task in tasks:
            self._open[task][0].transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)

    # --- one connection ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task, busy = asyncio.current_task(), [False]
        assert task is not None
        self._open[task] = (writer, busy)
        self.connections += 1
        with suppress(OSError, EOFError, asyncio.CancelledError):
            if self._tls:
                await writer.start_tls(self._tls)
            while True:
                request = await read_request(reader)
                busy[0] = True
                await self._answer(request, reader, writer)
                busy[0] = False
        with suppress(OSError, asyncio.CancelledError):
            writer.close()
            await writer.wait_closed()
        del self._open[task]

    async def _answer(self, request: Recorded, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange = Exchange(request=request, texts=[], reader=reader, writer=writer)
        if request.path == "/control":
            await self._answer_control(exchange)
            return
        self.requests.append(request)
        if self.auth and request.headers.get(self.auth[0].lower()) != self.auth[1]:
            await exchange.send(401, b"")
        elif request.path in self._speech.health and request.method == "GET":
            self.health_calls += 1
            await self._answer_health(exchange)
        elif request.path == self._speech.path and request.method == "POST":
            await self._answer_call(exchange)
        else:
            await exchange.send(404, b"404 page not found", kind="text/plain")

    async def _answer_health(self, exchange: Exchange) -> None:
        if failure := self.next_failure("health"):
            await FAILURES[failure.kind](self, exchange, **failure.options)
        else:
            await exchange.send(200, self._speech.healthy(self.model))

    async def _answer_call(self, exchange: Exchange) -> None:
        exchange.texts.extend(self._speech.texts(orjson.loads(exchange.request.body)))
        self.calls += 1
        self.texts.update(exchange.texts)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(self.delay)
            await self._answer_texts(exchange)
        finally:
            self.in_flight -= 1

    async def _answer_texts(self, exchange: Exchange) -> None:
        failure, count = self.next_failure("embed"), len(exchange.texts)
        status = self._speech.refusal_status
        if failure:
            self._count_answered(exchange.texts if failure.kind in RIGHT else [])
            await FAILURES[failure.kind](self, exchange, **failure.options)
        elif self.max_body is not None and len(exchange.request.body) > self.max_body:
            await exchange.send(413, TOO_LARGE, kind="text/html")
        elif self.crashing.intersection(exchange.texts):
            await exchange.send(500, self._speech.error("the model crashed", 500))
        elif self.max_batch is not None and count > self.max_batch:
            message = self._speech.too_many.format(count=count, limit=self.max_batch)
            await exchange.send(status, self._speech.error(message, status))
        elif self.poisoned.intersection(exchange.texts):
            await exchange.send(status, self._speech.error(self._speech.too_long, status))
        else:
            self._count_answered(exchange.texts)
            await exchange.send(200, self.answer(exchange.texts))

    def _count_answered(self, texts: list[str]) -> None:
        # Before the answer goes out: whoever has received it must find it counted.
        self.answered += bool(texts)
        self.embedded.update(texts)

    def answer(self, texts: list[str], *, dimensions: int = 0, order: list[int] | None = None) -> bytes:
        """The right body for these texts; `order` gives the vectors in that order, with their `index`."""
        rows = [vector_of(text, dimensions or self.dimensions, self.weights) for text in texts]
        return self._speech.answer(rows, self.model, order or list(range(len(rows))))

    # --- from another process ---

    async def _answer_control(self, exchange: Exchange) -> None:
        if exchange.request.method == "POST":
            self._obey(orjson.loads(exchange.request.body))
        names = ("calls", "answered", "health_calls", "connections", "in_flight", "peak", "texts", "embedded")
        await exchange.send(200, orjson.dumps({name: getattr(self, name) for name in names}))

    def _obey(self, command: dict[str, Any]) -> None:
        for name in ("clear", "reset_counters"):
            if command.pop(name, False):
                getattr(self, name)()
        for name in ("delay", "max_batch", "max_body", "weights", "dimensions"):
            if name in command:
                setattr(self, name, command.pop(name))
        for name in ("poison", "crash_on"):
            if name in command:
                getattr(self, name)(command.pop(name))
        if "failure" in command:
            self.fail(command.pop("failure"), **command)


def _bound(port: int) -> socket.socket:
    """A socket that holds the port; while nobody listens on it, the kernel refuses connections."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener


def _server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM or SIGINT; the first line of output is the base URL."""
    parser = argparse.ArgumentParser(prog="python -m tests.upstreams", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--protocol", choices=sorted(SPEECH), default="ollama")
    parser.add_argument("--dimensions", type=int, default=8)
    parser.add_argument("--model", default="test-model")
    parser.add_argument("--max-batch", type=int, default=None)
    parser.add_argument("--delay", type=float, default=0.0)
    options = vars(parser.parse_args(arguments))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    with Upstream(options.pop("protocol"), **options) as upstream:
        print(upstream.url, flush=True)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main(sys.argv[1:])
