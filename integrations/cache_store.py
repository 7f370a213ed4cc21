"""Redis as the cache knows it: slots, read within CACHE_TIMEOUT or not at all, and written while nobody waits.

Connections belong to an event loop. While Redis is not known to answer it is not asked on the way of a call; a task of
its own asks it, at most once a second, and says when it does again. So a Redis that stalls costs one call 5 ms, not
every call.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakKeyDictionary

import redis.asyncio
from django.conf import settings

log = logging.getLogger(__name__)

# redis-py's pool would open any number. Who finds none of these free has a miss.
_CONNECTIONS: Final = 16
# Answers being written at once; those beyond are not kept.
_WRITING: Final = 8
_LOOK_AGAIN: Final = 1.0
_AWAY: Final = (redis.RedisError, OSError, TimeoutError)


@dataclass(slots=True)
class _Link:
    """One event loop's way to Redis."""

    client: "redis.asyncio.Redis"
    answers: bool = False
    looking: "asyncio.Task[None] | None" = None
    writing: "set[asyncio.Task[None]]" = field(default_factory=set)


_links: "WeakKeyDictionary[asyncio.AbstractEventLoop, _Link]" = WeakKeyDictionary()


async def get(keys: Sequence[str]) -> list[bytes | None]:
    """Return what the slots hold; nothing where Redis does not say so within CACHE_TIMEOUT."""
    link = _link()
    if not link.answers:
        _look(link)
        return [None] * len(keys)
    try:
        async with asyncio.timeout(settings.CACHE_TIMEOUT):
            return [slot if isinstance(slot, bytes) else None for slot in await link.client.mget(keys)]
    except _AWAY as error:
        _away(link, error)
        return [None] * len(keys)


def put(slots: Mapping[str, bytes], *, seconds: float) -> None:
    """Write these slots in the background, for so long. Never waits, never raises."""
    link = _link()
    if link.answers and len(link.writing) < _WRITING:
        task = asyncio.get_running_loop().create_task(_put(link, slots, seconds))
        link.writing.add(task)
        task.add_done_callback(link.writing.discard)


def ready() -> bool:
    """Whether Redis is known to answer the running loop."""
    return _link().answers


def writing() -> int:
    """Return how many answers are just being written."""
    return len(_link().writing)


async def close() -> None:
    """Close the running loop's connections."""
    link = _links.pop(asyncio.get_running_loop(), None)
    if link is None:
        return
    tasks = [*link.writing, *([link.looking] if link.looking else [])]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await link.client.aclose()


async def _put(link: _Link, slots: Mapping[str, bytes], seconds: float) -> None:
    try:
        async with link.client.pipeline(transaction=False) as pipe:
            for key, value in slots.items():
                pipe.set(key, value, px=max(1, int(seconds * 1000)))
            await pipe.execute()
    except _AWAY as error:
        _away(link, error)


def _away(link: _Link, error: BaseException) -> None:
    if link.answers:
        log.info("the cache is left alone: Redis does not answer in time (%s)", type(error).__name__)
    link.answers = False
    _look(link, after=_LOOK_AGAIN)


def _look(link: _Link, *, after: float = 0.0) -> None:
    if link.looking is None or link.looking.done():
        link.looking = asyncio.get_running_loop().create_task(_find(link, after))


async def _find(link: _Link, after: float) -> None:
    """Ask until Redis answers. Its connection is kept, so that the next call need not make one in 5 ms."""
    await asyncio.sleep(after)
    while True:
        try:
            await link.client.ping()
        except _AWAY:
            await asyncio.sleep(_LOOK_AGAIN)
        else:
            link.answers = True
            return


def _link() -> _Link:
    loop = asyncio.get_running_loop()
    link = _links.get(loop)
    if link is None:
        pool = redis.asyncio.ConnectionPool.from_url(
            settings.REDIS_URL,
            max_connections=_CONNECTIONS,
            socket_timeout=settings.REDIS_TIMEOUT,
            socket_connect_timeout=settings.REDIS_TIMEOUT,
            retry=None,
        )
        link = _links[loop] = _Link(client=redis.asyncio.Redis.from_pool(pool))
    return link
