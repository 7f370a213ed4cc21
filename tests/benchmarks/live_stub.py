"""A model server for benchmarks of live calls, with next to no work of its own.

    python -m tests.benchmarks.live_stub --port 9000 --ms 85 --dimensions 768 [--slots 8]

It speaks OpenAI's protocol (numbers or base64, as asked) and Ollama's. A call takes `ms` milliseconds, however many
texts it has; with `slots`, calls over that number wait in order. Whole answers are made once for each number of texts:
what a call costs is its bytes. `GET /control` says how many calls and texts there were.
"""

import argparse
import asyncio
import base64
import re
from collections import deque
from functools import cache, partial

import numpy as np
import orjson
import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Stub:
    """What all connections share."""

    def __init__(self, *, dimensions: int, ms: float, slots: int) -> None:
        self._seconds, self._free = ms / 1000, slots or 10**9
        self._waiting: deque[tuple[asyncio.Transport, bytes]] = deque()
        rows = np.random.default_rng(7).standard_normal((64, dimensions))
        self._rows = (rows / np.linalg.norm(rows, axis=1)[:, None]).astype(np.float32)
        self.calls = self.texts = 0
        self._of = cache(self._made)

    def take(self, transport: asyncio.Transport, head: bytes, body: bytes) -> None:
        """Answer a request, now or when its time has come."""
        if not body:
            transport.write(_http({"calls": self.calls, "texts": self.texts, "version": "0.9.0"}))
            return
        texts = len(orjson.loads(body)["input"]) if b'"input":[' in body[:400] else 1
        self.calls, self.texts = self.calls + 1, self.texts + texts
        answer = self._of(b"/api/embed" in head[:40], texts, b'"base64"' in body)
        if not self._seconds:
            transport.write(answer)
        elif self._free:
            self._begin(transport, answer)
        else:
            self._waiting.append((transport, answer))

    def _begin(self, transport: asyncio.Transport, answer: bytes) -> None:
        self._free -= 1
        asyncio.get_running_loop().call_later(self._seconds, self._end, transport, answer)

    def _end(self, transport: asyncio.Transport, answer: bytes) -> None:
        self._free += 1
        if not transport.is_closing():  # its caller has gone: uvloop would raise, and the place be lost for good
            transport.write(answer)
        if self._waiting:
            self._begin(*self._waiting.popleft())

    def _made(self, ollama: bool, texts: int, packed: bool) -> bytes:
        rows = self._rows[np.arange(texts) % len(self._rows)]
        if ollama:
            return _http({"model": "stub", "embeddings": rows, "prompt_eval_count": texts})
        shown = [base64.b64encode(row).decode() for row in rows] if packed else rows
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(shown)]
        usage = {"prompt_tokens": texts, "total_tokens": texts}
        return _http({"object": "list", "model": "stub", "data": data, "usage": usage})


class Connection(asyncio.Protocol):
    """One connection; its requests come one after the other."""

    def __init__(self, stub: Stub) -> None:
        self._stub, self._got = stub, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request; a whole one is answered."""
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found:
            return
        length = _LENGTH.search(head)
        if len(body) >= (int(length[1]) if length else 0):
            self._got = b""
            self._stub.take(self._transport, head, body)  # type: ignore[arg-type]  # a socket's is one to write to


def _http(document: object) -> bytes:
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _serve(options: argparse.Namespace) -> None:
    stub = Stub(dimensions=options.dimensions, ms=options.ms, slots=options.slots)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(Connection, stub), "127.0.0.1", options.port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--ms", type=float, default=0.0)
    parser.add_argument("--slots", type=int, default=0)
    uvloop.run(_serve(parser.parse_args()))
