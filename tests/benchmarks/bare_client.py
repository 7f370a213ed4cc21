"""What a bulk worker is measured against: aiohttp, so many calls at once, and the vectors thrown away.

python -m tests.benchmarks.bare_client --url http://127.0.0.1:9000/v1/embeddings --texts 100000 --at-once 8
"""

import argparse
import asyncio
import time
from collections.abc import Iterator

import aiohttp
import orjson

from tests.benchmarks.embedding_stub import CALL


def texts(count: int, *, first: int = 0) -> list[str]:
    """Short texts, all different."""
    return [f"text number {n} of a batch that is measured, with some more words" for n in range(first, first + count)]


async def run(url: str, *, count: int, at_once: int, encoding: str, model: str = "stub", size: int = CALL) -> float:
    """Make the calls, `size` texts each; return the seconds they took."""
    firsts = iter(range(0, count, size))

    async def one_place(session: aiohttp.ClientSession, mine: Iterator[int]) -> None:
        for first in mine:
            asked = {"model": model, "input": texts(min(size, count - first), first=first)}
            if encoding:
                asked["encoding_format"] = encoding
            async with session.post(
                url, data=orjson.dumps(asked), headers={"Content-Type": "application/json"}
            ) as answer:
                answer.raise_for_status()
                await answer.read()

    started = time.perf_counter()
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        await asyncio.gather(*(one_place(session, firsts) for _ in range(at_once)))
    return time.perf_counter() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--encoding", default="", help="float or base64, for OpenAI's protocol")
    parser.add_argument("--model", default="stub")
    parser.add_argument("--size", type=int, default=CALL, help="texts in one call")
    options = parser.parse_args()
    seconds = asyncio.run(
        run(
            options.url,
            count=options.texts,
            at_once=options.at_once,
            encoding=options.encoding,
            model=options.model,
            size=options.size,
        )
    )
    print(orjson.dumps({"seconds": seconds}).decode())
