"""What a model server of the tests can do wrong, one function each, at the level of bytes and connections."""

import asyncio
import gzip
import re
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

PIECE = 64 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One request that arrived; header names in lower case, `at` in seconds of time.monotonic()."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and the connection that it came on."""

    request: Recorded
    texts: list[str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(
        self, status: int, body: bytes, *, kind: str = "application/json", headers: Mapping[str, str] | None = None
    ) -> None:
        """Answer with the whole of `body`."""
        await self.head(status, len(body), kind=kind, headers=headers)
        for start in range(0, len(body), PIECE):
            self.writer.write(body[start : start + PIECE])
            await self.writer.drain()

    async def head(
        self, status: int, length: int, *, kind: str = "application/json", headers: Mapping[str, str] | None = None
    ) -> None:
        """Begin an answer of `length` bytes."""
        fields = {"Content-Type": kind, "Content-Length": str(length), **(headers or {})}
        lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self.writer.write("\r\n".join(lines).encode())
        await self.writer.drain()


async def read_request(reader: asyncio.StreamReader) -> Recorded:
    """Return the next request of a connection; raises EOFError at its end."""
    start = await reader.readexactly(1)
    if not start.isalpha():  # not HTTP: TLS, say
        raise EOFError
    head = start + await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Recorded(method=method, path=path, headers=headers, body=body, at=time.monotonic())


class Server(Protocol):
    """What a failure needs of the server that shows it."""

    dimensions: int

    def answer(self, texts: list[str], *, dimensions: int = 0, order: list[int] | None = None) -> bytes:
        """The right body for these texts."""


async def _status(
    _: Server, exchange: Exchange, *, code: int, headers: Mapping[str, str] | None = None, body: str = ""
) -> None:
    await exchange.send(code, body.encode(), headers=headers)


async def _hang(_: Server, exchange: Exchange) -> None:
    await exchange.reader.read()  # until the caller has had enough


async def _drop(_: Server, exchange: Exchange) -> None:
    exchange.writer.close()
    raise EOFError


async def _short(upstream: Server, exchange: Exchange) -> None:
    body = upstream.answer(exchange.texts)
    await exchange.head(200, len(body))
    exchange.writer.write(body[: len(body) // 2])
    await exchange.writer.drain()
    raise EOFError


async def _reset(upstream: Server, exchange: Exchange) -> None:
    body = upstream.answer(exchange.texts)
    await exchange.head(200, len(body))
    exchange.writer.write(body[: len(body) // 2])
    await exchange.writer.drain()
    # A linger time of zero makes the kernel send RST instead of FIN.
    linger = struct.pack("ii", 1, 0)
    exchange.writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    exchange.writer.transport.abort()
    raise EOFError


async def _html(_: Server, exchange: Exchange) -> None:
    await exchange.send(200, b"<!doctype html><title>secret-proxy.internal</title>", kind="text/html")


async def _truncated(upstream: Server, exchange: Exchange) -> None:
    body = upstream.answer(exchange.texts)
    await exchange.send(200, body[: len(body) // 2])


async def _wrong_count(upstream: Server, exchange: Exchange) -> None:
    await exchange.send(200, upstream.answer(exchange.texts[:-1]))


async def _wrong_dimension(upstream: Server, exchange: Exchange) -> None:
    await exchange.send(200, upstream.answer(exchange.texts, dimensions=upstream.dimensions + 1))


async def _nan(upstream: Server, exchange: Exchange) -> None:
    body = upstream.answer(exchange.texts)
    await exchange.send(200, re.sub(rb"\[(-?\d[^,\]]*)", b"[NaN", body, count=1))


async def _shuffled(upstream: Server, exchange: Exchange) -> None:
    await exchange.send(200, upstream.answer(exchange.texts, order=list(reversed(range(len(exchange.texts))))))


async def _twice(upstream: Server, exchange: Exchange) -> None:
    await exchange.send(200, upstream.answer(exchange.texts))
    await asyncio.sleep(0.05)
    await exchange.send(200, upstream.answer([f"not {text}" for text in exchange.texts]))


async def _slow(upstream: Server, exchange: Exchange, *, delay: float) -> None:
    await asyncio.sleep(delay)
    await exchange.send(200, upstream.answer(exchange.texts))


async def _trickle(upstream: Server, exchange: Exchange, *, interval: float) -> None:
    body = upstream.answer(exchange.texts)
    await exchange.head(200, len(body))
    for position in range(len(body)):
        exchange.writer.write(body[position : position + 1])
        await exchange.writer.drain()
        await asyncio.sleep(interval)


async def _big(upstream: Server, exchange: Exchange, *, size: int) -> None:
    await exchange.send(200, upstream.answer(exchange.texts).ljust(size))


@lru_cache(maxsize=4)
def _packed(body: bytes, size: int) -> bytes:
    return gzip.compress(body.ljust(size), 1)


async def _gzip_bomb(upstream: Server, exchange: Exchange, *, size: int) -> None:
    packed = _packed(upstream.answer(exchange.texts), size)
    await exchange.send(200, packed, headers={"Content-Encoding": "gzip"})


FAILURES: Mapping[str, Callable[..., Awaitable[None]]] = {
    "status": _status,
    "hang": _hang,
    "drop": _drop,
    "short": _short,
    "reset": _reset,
    "html": _html,
    "truncated": _truncated,
    "wrong_count": _wrong_count,
    "wrong_dimension": _wrong_dimension,
    "nan": _nan,
    "shuffled": _shuffled,
    "twice": _twice,
    "slow": _slow,
    "trickle": _trickle,
    "big": _big,
    "gzip_bomb": _gzip_bomb,
}
# These give every text its vector all the same.
RIGHT = frozenset({"shuffled", "twice", "slow", "trickle", "big", "gzip_bomb"})
