"""One event loop a process for every call to a model server, reachable from synchronous code.

Connections belong to the loop that opened them, so views, commands and workers must not each run a loop of their own.
A web process attaches its server's loop when it starts; every other process gets a thread with a loop on first use.
"""

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from integrations import cache_store, transport
from integrations.errors import UpstreamTimeout

T = TypeVar("T")

# How long an ending process waits for its calls to notice that they are cancelled.
STOP_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class _Own:
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread


_lock = threading.Lock()
_attached: asyncio.AbstractEventLoop | None = None
_own: _Own | None = None


def attach(loop: asyncio.AbstractEventLoop) -> None:
    """Make `loop` the process's: the server's own, as its lifespan starts."""
    global _attached
    stop()
    _attached = loop


def detach() -> None:
    """Forget the attached loop, as the lifespan ends; its owner has awaited transport.close()."""
    global _attached
    _attached = None


def run(coroutine: Coroutine[Any, Any, T], *, timeout: float | None = None) -> T:
    """Run `coroutine` on the process's loop and wait for what it returns or raises.

    After `timeout` seconds it is cancelled and UpstreamTimeout raised. It is cancelled, too, when the waiting thread is
    interrupted, as by a signal. RuntimeError when called on that loop: it would wait for itself.
    """
    loop = _target()
    if _running() is loop:
        coroutine.close()
        raise RuntimeError("run() was called on the gateway's own loop: await the coroutine instead")
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result(timeout)
    except TimeoutError:
        # The coroutine may have raised a TimeoutError of its own: that one passes.
        if future.cancel():
            raise UpstreamTimeout() from None
        raise
    except BaseException:
        future.cancel()
        raise


def submit(coroutine: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
    """Start `coroutine` on the process's loop and return at once; cancelling the future cancels the coroutine."""
    return asyncio.run_coroutine_threadsafe(coroutine, _target())


def stop() -> None:
    """Cancel what runs on the loop's own thread, close its connections and end it; the next run() starts another."""
    global _own
    with _lock:
        own, _own = _own, None
    if own is None:
        return
    asyncio.run_coroutine_threadsafe(_wind_up(), own.loop).result(STOP_TIMEOUT + 1)
    own.loop.call_soon_threadsafe(own.loop.stop)
    own.thread.join()
    own.loop.close()


async def _wind_up() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_TIMEOUT)
    await cache_store.close()
    await transport.close()
    await asyncio.get_running_loop().shutdown_default_executor()


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _target() -> asyncio.AbstractEventLoop:
    global _own
    if _attached is not None and _attached.is_running():
        return _attached
    with _lock:
        if _own is None:
            _own = _start()
        return _own.loop


def _start() -> _Own:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="gateway-loop", daemon=True)
    thread.start()
    return _Own(loop, thread)


def _after_fork() -> None:
    # The child has neither the thread nor a right to the parent's loop; a thread that is gone may hold the lock.
    global _lock, _attached, _own
    _lock = threading.Lock()
    _inherited.extend(x for x in (_attached, _own) if x is not None)
    _attached = _own = None


# Loops of the parent: never finalised in a child, since that would close what the parent still uses.
_inherited: list[object] = []

os.register_at_fork(after_in_child=_after_fork)
atexit.register(stop)
