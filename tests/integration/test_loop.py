"""The process's one loop, from threads, across forks and to the end of the process."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest

from integrations import loop, transport
from integrations.errors import UpstreamTimeout
from integrations.protocols import HttpRequest
from tests.upstreams import Upstream

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_loop_left() -> Iterator[None]:
    yield
    loop.detach()
    loop.stop()


async def thread_name() -> str:
    return threading.current_thread().name


async def sleep_until_cancelled(ended: threading.Event) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        ended.set()


def test_every_thread_of_the_process_shares_one_loop() -> None:
    async def here() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    with ThreadPoolExecutor(8) as threads:
        loops = set(threads.map(lambda _: loop.run(here()), range(64)))
    assert len(loops) == 1
    assert loop.run(thread_name()) == "gateway-loop"


def test_what_the_coroutine_raises_reaches_the_caller() -> None:
    async def fail() -> None:
        raise KeyError("mine")

    async def late() -> None:
        raise TimeoutError("its own")

    with pytest.raises(KeyError, match="mine"):
        loop.run(fail())
    with pytest.raises(TimeoutError, match="its own"):
        loop.run(late(), timeout=60)


def test_a_coroutine_over_its_time_is_cancelled() -> None:
    ended = threading.Event()
    with pytest.raises(UpstreamTimeout):
        loop.run(sleep_until_cancelled(ended), timeout=0.05)
    assert ended.wait(10)


def test_an_exception_in_the_waiting_thread_cancels_the_coroutine() -> None:
    class Told(Exception):
        pass

    def tell(*_: object) -> None:
        raise Told

    ended, before = threading.Event(), signal.signal(signal.SIGUSR1, tell)
    try:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(Told):
            loop.run(sleep_until_cancelled(ended), timeout=60)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ended.wait(10)


def test_waiting_for_itself_is_refused_instead_of_hanging() -> None:
    async def nested() -> None:
        loop.run(thread_name())

    with pytest.raises(RuntimeError, match="await"):
        loop.run(nested())


def test_an_attached_loop_is_used_until_it_is_detached() -> None:
    async def serve() -> list[str]:
        names = [await asyncio.to_thread(loop.run, thread_name())]
        loop.attach(asyncio.get_running_loop())
        names.append(await asyncio.to_thread(loop.run, thread_name()))
        loop.detach()
        names.append(await asyncio.to_thread(loop.run, thread_name()))
        return names

    assert asyncio.run(serve()) == ["gateway-loop", threading.current_thread().name, "gateway-loop"]


def test_a_loop_that_ended_without_a_word_is_not_waited_for() -> None:
    async def serve() -> None:
        loop.attach(asyncio.get_running_loop())

    asyncio.run(serve())
    assert loop.run(thread_name(), timeout=10) == "gateway-loop"


def test_stopping_ends_calls_and_closes_connections() -> None:
    with Upstream() as upstream, ThreadPoolExecutor(1) as threads:
        upstream.hang()
        request = HttpRequest(method="POST", url=f"{upstream.url}/api/embed", body=b'{"input": ["x"]}')
        call = threads.submit(loop.run, transport.send(request, timeout=60, connect_timeout=5))
        upstream.wait_in_flight(1)
        loop.stop()
        with pytest.raises(CancelledError):
            call.result(timeout=10)
        upstream.clear()
        assert loop.run(transport.send(request, timeout=10, connect_timeout=5)).status == 200


PROLOGUE = """
import os, sys, threading
import django
django.setup()
from integrations import loop, transport
from integrations.protocols import HttpRequest

def ask(timeout=10.0):
    request = HttpRequest(method="POST", url=sys.argv[1] + "/api/embed", body=b'{"input": ["x"]}')
    return loop.run(transport.send(request, timeout=timeout, connect_timeout=5)).status
"""


def run_script(script: str, upstream: Upstream) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own, where every warning is an error."""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "citadel.settings", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PROLOGUE + script, upstream.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_a_process_ends_without_a_word_about_open_connections() -> None:
    with Upstream() as upstream:
        ended = run_script("print(ask())", upstream)
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, "200", "")


def test_a_process_ends_though_a_call_hangs() -> None:
    script = """
threading.Thread(target=ask, args=(600,), daemon=True).start()
while not sys.stdin.read(1): pass
"""
    with Upstream() as upstream:
        upstream.hang()
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "citadel.settings", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PROLOGUE + script, upstream.url]
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, stderr=subprocess.DEVNULL) as process:
            upstream.wait_in_flight(1)
            process.communicate(b"x", timeout=30)
        assert process.returncode == 0


def test_a_forked_child_has_its_own_loop_and_leaves_the_parents_connection_alone() -> None:
    script = """
ask()
child = os.fork()
if child == 0:
    print("child", ask(), ask(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent", ask(), ask())
"""
    with Upstream() as upstream:
        ended = run_script(script, upstream)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.split() == ["child", "200", "200", "parent", "200", "200"]
        # One connection of the parent's, which outlives the child, and one of the child's.
        assert upstream.connections == 2


def test_a_fork_while_a_call_is_under_way_does_not_disturb_it() -> None:
    script = """
call = threading.Thread(target=lambda: print("parent", ask(), flush=True))
call.start()
sys.stdin.read(1)
child = os.fork()
if child == 0:
    import gc
    gc.collect()
    print("child", ask(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
call.join()
"""
    with Upstream() as upstream:
        upstream.slow(1.0, times=1)
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "citadel.settings", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROLOGUE + script, upstream.url]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        ) as process:
            upstream.wait_in_flight(1)
            output, errors = process.communicate(b"x", timeout=30)
        assert (process.returncode, errors) == (0, b"")
        assert output.split() == [b"child", b"200", b"parent", b"200"]
