"""A model server for benchmarks of the queue: so many places, so long a call, and hardly any work of its own.

    python -m tests.benchmarks.embedding_stub --port 9000 --dimensions 768 --ms 50 --slots 8

It speaks OpenAI's protocol (numbers or base64, as asked) and Ollama's. A call of 100 texts takes `ms` milliseconds in
one of the places, a shorter one less; calls that find no place wait in order. Answers are made once for each number of
texts: what a call costs here is its bytes. `GET /control` says what was counted.
"""

import argparse
import asyncio
import base64
import re
from collections import deque
from collections.abc import Callable
from functools import cache

import numpy as np
import orjson

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
# A call's texts that the time is stated for.
CALL = 100


class Places:
    """The server's places, and what has gone through them."""

    def __init__(self, *, slots: int, seconds: float) -> None:
        self._free, self._seconds = slots, seconds
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self.calls = self.texts = 0
        self.busy = 0.0  # seconds of all places together

    def take(self, texts: int, answer: Callable[[], None]) -> None:
        """Call `answer` once a place has worked on so many texts."""
        if not self._free:
            self._waiting.append((texts, answer))
            return
        self._free -= 1
        seconds = self._seconds * texts / CALL
        self.calls, self.texts, self.busy = self.calls + 1, self.texts + texts, self.busy + seconds
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self._done, answer)
        else:
            self._done(answer)

    def _done(self, answer: Callable[[], None]) -> None:
        self._free += 1
        if self._waiting:
            self.take(*self._waiting.popleft())
        answer()


class Answers:
    """Whole answers by protocol and number of texts."""

    def __init__(self, dimensions: int) -> None:
        rows = np.random.default_rng(7).standard_normal((CALL, dimensions))
        self._rows = (rows / np.linalg.norm(rows, axis=1)[:, None]).astype(np.float32)
        self.of = cache(self._of)

    def _of(self, path: str, texts: int, packed: bool) -> bytes:
        rows = self._rows[np.arange(texts) % CALL]
        if path == "/api/embed":
            return _http({"model": "stub", "embeddings": rows, "prompt_eval_count": texts})
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(row.tobytes()).decode() if packed else row,
            }
            for index, row in enumerate(rows)
        ]
        usage = {"prompt_tokens": texts, "total_tokens": texts}
        return _http({"object": "list", "model": "stub", "data": data, "usage": usage})


class Connection(asyncio.Protocol):
    """One connection: its requests come one after the other."""

    def __init__(self, places: Places, answers: Answers) -> None:
        self._places, self._answers = places, answers
        self._pieces: list[bytes] = []
        self._size = self._needed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request, and answer it when it is whole."""
        self._pieces.append(data)
        self._size += len(data)
        if not self._needed:
            self._measure()
        if self._needed and self._size >= self._needed:
            request, self._pieces, self._size, self._needed = b"".join(self._pieces), [], 0, 0
            self._answer(request)

    def _measure(self) -> None:
        whole = b"".join(self._pieces)
        self._pieces = [whole]
        head, found, _ = whole.partition(b"\r\n\r\n")
        if found:
            length = _LENGTH.search(head)
            self._needed = len(head) + 4 + (int(length[1]) if length else 0)

    def _answer(self, request: bytes) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        path = head.split(b" ", 2)[1].decode()
        if not body:
            places = self._places
            told = {"calls": places.calls, "texts": places.texts, "busy": places.busy, "version": "0.9.0"}
            self._transport.write(_http(told))
            return
        asked = orjson.loads(body)
        texts = len(asked["input"])
        packed = asked.get("encoding_format") == "base64"
        self._places.take(texts, lambda: self._transport.write(self._answers.of(path, texts, packed)))


def _http(document: object) -> bytes:
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _serve(options: argparse.Namespace) -> None:
    places = Places(slots=options.slots, seconds=options.ms / 1000)
    answers = Answers(options.dimensions)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(places, answers), "127.0.0.1", options.port, backlog=1000)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--ms", type=float, default=50.0)
    parser.add_argument("--slots", type=int, default=8)
    asyncio.run(_serve(parser.parse_args()))
