"""Queued work in one process yields to the live calls of another, through a real Redis."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from integrations.pressure import Pressure
from integrations.values import Endpoint
from tests.made import an_endpoint


def wait_for(true: Callable[[], bool], work: Callable[[], None] = lambda: None) -> None:
    ends = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends
        work()
        time.sleep(0.01)


@pytest.fixture
def endpoint() -> Endpoint:
    return an_endpoint("http://127.0.0.1:1")


@pytest.fixture
def processes(redis_db: Any) -> Iterator[list[Pressure]]:
    processes = [Pressure() for _ in range(3)]
    for process in processes:
        process.start()
    yield processes
    for process in processes:
        process.stop()


def live_call(process: Pressure, endpoint: Endpoint, seconds: float) -> None:
    with process.live(endpoint):
        time.sleep(seconds)


def test_queued_work_yields_to_live_calls_elsewhere_and_comes_back_when_they_end(
    processes: list[Pressure], endpoint: Endpoint
) -> None:
    web, worker, _ = processes
    share = worker.share(endpoint)
    whole = share.calls
    with worker.bulk(endpoint, 100):
        assert not share.yields
        wait_for(lambda: share.yields, lambda: live_call(web, endpoint, 0.005))
        wait_for(lambda: share.calls == 1 and share.portion < 1, lambda: live_call(web, endpoint, 0.05))
        wait_for(lambda: not share.yields)
    assert (share.calls, share.portion) == (whole, 1.0)


def test_of_two_workers_one_keeps_its_last_call(processes: list[Pressure], endpoint: Endpoint) -> None:
    web, *workers = processes
    shares = [worker.share(endpoint) for worker in workers]
    live_call(web, endpoint, 0.005)
    with workers[0].bulk(endpoint, 100), workers[1].bulk(endpoint, 100):
        wait_for(lambda: sorted(share.calls for share in shares) == [0, 1], lambda: live_call(web, endpoint, 0.05))


def test_a_worker_that_may_make_no_call_is_told_when_the_live_calls_have_gone(
    processes: list[Pressure], endpoint: Endpoint
) -> None:
    web, *workers = processes
    for worker in workers:
        with worker.bulk(endpoint, 100):
            pass

    def work() -> None:
        live_call(web, endpoint, 0.05)
        for worker in workers:
            worker.allowance(endpoint)

    live_call(web, endpoint, 0.005)
    wait_for(lambda: min(worker.share(endpoint).calls for worker in workers) == 0, work)
    time.sleep(2.5)
    wait_for(lambda: all(worker.allowance(endpoint) > 1 for worker in workers))


def test_while_redis_is_away_queued_work_takes_its_fixed_share(
    processes: list[Pressure], endpoint: Endpoint, settings: Any
) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    settings.BULK_BLIND_CALLS = 3
    worker = Pressure()
    worker.start()
    share = worker.share(endpoint)
    with worker.bulk(endpoint, 100):
        wait_for(lambda: share.calls == 3)
    worker.stop()
