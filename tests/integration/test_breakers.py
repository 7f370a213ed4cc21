"""Breakers over real Redis; two instances stand for two processes, which share nothing else."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from integrations.breaker_machine import Transition
from integrations.breakers import Breakers
from integrations.errors import CircuitOpen, CitadelError, TextRejected, UpstreamBusy, UpstreamFailed
from integrations.values import Endpoint, Forced
from tests.made import an_assignment, an_endpoint

THREE = an_assignment(breaker_threshold=3, breaker_reset_timeout=60)
# For tests that wait for the half-open state.
SOON = replace(THREE, breaker_reset_timeout=0.2)


class Process:
    """One process's breakers."""

    def __init__(self) -> None:
        self.seen: list[Transition] = []
        self.breakers = Breakers("test", on_transition=self.seen.append)

    def call(self, endpoint: Endpoint, error: BaseException | None = None, *, assignment: Any = THREE) -> str:
        return asyncio.run(self.calling(endpoint, error, assignment=assignment))

    async def calling(
        self, endpoint: Endpoint, error: BaseException | None = None, *, assignment: Any = THREE, takes: float = 0
    ) -> str:
        try:
            async with self.breakers.guard(endpoint, assignment):
                await asyncio.sleep(takes)
                if error is not None:
                    raise error
        except CitadelError as raised:
            return raised.code
        except asyncio.CancelledError:
            return "cancelled"
        return "ok"

    def status(self, endpoint: Endpoint) -> str:
        return self.breakers.state_of(endpoint).status

    def fail(self, endpoint: Endpoint, times: int = 3, *, assignment: Any = THREE) -> None:
        for _ in range(times):
            self.call(endpoint, UpstreamFailed("down"), assignment=assignment)


@pytest.fixture
def processes(redis_db: "redis.Redis") -> Iterator[tuple[Process, Process]]:
    one, two = Process(), Process()
    yield one, two
    one.breakers.stop()
    two.breakers.stop()


Pair = tuple[Process, Process]


def test_failures_in_a_row_open_it(processes: Pair) -> None:
    one, _ = processes
    endpoint = an_endpoint("http://a")
    one.fail(endpoint)
    view = one.breakers.state_of(endpoint)
    assert (view.status, view.failure_count, view.reason) == ("open", 3, "upstream_failed: down")
    assert view.until is not None
    assert one.call(endpoint) == "circuit_open"


def test_a_success_in_between_starts_the_count_anew(processes: Pair) -> None:
    one, _ = processes
    endpoint = an_endpoint("http://a")
    one.fail(endpoint, 2)
    one.call(endpoint)
    one.fail(endpoint, 2)
    assert one.status(endpoint) == "closed"
    assert one.breakers.state_of(endpoint).failure_count == 2


@pytest.mark.parametrize(
    "error", [TextRejected(), UpstreamBusy(), asyncio.CancelledError()], ids=lambda e: type(e).__name__
)
def test_what_is_not_the_servers_fault_changes_nothing(processes: Pair, error: BaseException) -> None:
    one, _ = processes
    endpoint = an_endpoint("http://a")
    one.fail(endpoint, 2)
    one.call(endpoint, error)
    assert one.breakers.state_of(endpoint).failure_count == 2
    one.fail(endpoint, 1)
    assert one.status(endpoint) == "open"


def test_two_processes_count_together(processes: Pair) -> None:
    one, two = processes
    endpoint = an_endpoint("http://a")
    one.fail(endpoint, 2)
    one.breakers.exchange()
    two.breakers.exchange()
    two.fail(endpoint, 1)
    assert two.status(endpoint) == "open"
    two.breakers.exchange()
    one.breakers.exchange()
    assert one.status(endpoint) == "open"
    assert one.call(endpoint) == "circuit_open"


def test_a_process_that_never_called_the_endpoint_knows_that_it_is_open(processes: Pair) -> None:
    one, two = processes
    endpoint = an_endpoint("http://a")
    one.fail(endpoint)
    one.breakers.exchange()
    two.breakers.exchange()
    assert two.call(endpoint) == "circuit_open"


def test_exactly_one_process_tells_of_the_trip(processes: Pair) -> None:
    one, two = processes
    endpoint = an_endpoint("http://a")
    one.fail(endpoint)
    two.fail(endpoint)
    one.breakers.exchange()
    two.breakers.exchange()
    told = [(t.from_state, t.to_state) for p in processes for t in p.seen]
    assert told == [("closed", "open")]


def test_fifty_calls_over_two_processes_make_one_trial(processes: Pair) -> None:
    one, two = processes
    endpoint = an_endpoint("http://a")
    one.fail(endpoint, assignment=SOON)
    one.breakers.exchange()
    two.breakers.exchange()
    time.sleep(0.25)

    async def all_at_once() -> list[str]:
        return await asyncio.gather(
            *(p.calling(endpoint, assignment=SOON, takes=0.2) for p in processes for _ in range(25))
        )

    outcomes = asyncio.run(all_at_once())
    assert sorted(set(outcomes)) == ["circuit_open", "ok"]
    assert outcomes.count("ok") == 1
    one.breakers.exchange()
    two.breakers.exchange()
    assert (one.status(endpoint), two.status(endpoint)) == ("closed", "closed")


def test_a_trial_that_fails_opens_it_for_twice_as_long(processes: Pair) -> None:
    one, _ = processes
    endpoint = an_endpoint("http://a")
    one.fail(endpoint, assignment=SOON)
    one.breakers.exchange()
    time.sleep(0.25)
    assert one.status(endpoint) == "half_open"
    one.call(endpoint, UpstreamFailed("still down"), assignment=SOON)
    one.breakers.exchange()
    view = one.breakers.state_of(endpoint)
    until, opened = view.until, view.opened_at
    assert until is not None
    assert opened is not None
    assert (until - opened).total_seconds() == pytest.approx(0.4, abs=0.02)


def test_reopening_never_exceeds_the_bound(processes: Pair, settings: Any) -> None:
    settings.BREAKER_RESET_TIMEOUT_MAX = 0.3
    one, _ = processes
    endpoint = an_endpoint("http://a")
    one.fail(endpoint, assignment=SOON)
    one.breakers.exchange()
    for _ in range(3):
        time.sleep(0.35)
        one.call(endpoint, UpstreamFailed("still down"), assignment=SOON)
        one.breakers.exchange()
    until = one.breakers.state_of(endpoint).until
    assert until is not None
    assert (until - datetime.now(UTC)).total_seconds() <= 0.3


def test_a_trial_that_the_client_gave_up_decides_nothing(processes: Pair) -> None:
    one, two = processes
    endpoint = an_endpoint("http://a")
    one.fail(endpoint, assignment=SOON)
    one.breakers.exchange()
    two.breakers.exchange()
    time.sleep(0.25)
    one.call(endpoint, asyncio.CancelledError(), assignment=SOON)
    assert one.status(endpoint) == "half_open"
    one.breakers.exchange()
    assert two.call(endpoint) == "ok"


def test_a_trial_that_hangs_is_handed_to_another_after_its_time(processes: Pair) -> None:
    one, two = processes
    endpoint = an_endpoint("http://a")
    hasty = replace(SOON, connect_timeout=0.05, attempt_timeout=0.1)  # a trial's limit is then 2.05 s
    one.fail(endpoint, assignment=SOON)
    one.breakers.exchange()
    two.breakers.exchange()
    time.sleep(0.25)

    async def hang_and_take_over() -> tuple[str, str, str]:
        hung = asyncio.ensure_future(one.calling(endpoint, assignment=hasty, takes=2.5))
        await asyncio.sleep(0.1)
        early = await two.calling(endpoint, assignment=hasty)
        await asyncio.sleep(2.1)
        late = await two.calling(endpoint, assignment=hasty)
        return early, late, await hung

    assert asyncio.run(hang_and_take_over()) == ("circuit_open", "ok", "ok")


def test_an_operators_trip_stands_above_everything_until_it_expires(processes: Pair) -> None:
    one, _ = processes
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    forced = Forced(reason="new disk", by="ada", at=datetime.now(UTC), until=soon)
    endpoint = replace(an_endpoint("http://a"), forced=forced)
    view = one.breakers.state_of(endpoint)
    assert (view.status, view.reason, view.by, view.until) == ("forced_open", "new disk", "ada", soon)
    with pytest.raises(CircuitOpen, match="new disk"):
        asyncio.run(_enter(one, endpoint))
    time.sleep(0.35)
    assert one.call(endpoint) == "ok"


async def _enter(process: Process, endpoint: Endpoint) -> None:
    async with process.breakers.guard(endpoint, THREE):
        pass


def test_a_reset_by_hand_closes_it_everywhere_without_redis_in_between(processes: Pair) -> None:
    one, two = processes
    endpoint = an_endpoint("http://a")
    one.fail(endpoint)
    one.breakers.exchange()
    two.breakers.exchange()
    again = replace(endpoint, breaker_epoch=1)
    for process in processes:
        process.breakers.apply_epochs([again])
        process.breakers.exchange()
    assert [p.call(again) for p in processes] == ["ok", "ok"]
    assert two.breakers.state_of(again).failure_count == 0


def test_a_late_failure_from_before_the_reset_does_not_count(processes: Pair) -> None:
    one, two = processes
    endpoint = an_endpoint("http://a")
    again = replace(endpoint, breaker_epoch=1)
    two.breakers.apply_epochs([again])
    two.call(again, UpstreamFailed("new"))
    two.breakers.exchange()
    one.fail(endpoint, 2)  # has not seen the reset yet
    one.breakers.exchange()
    two.breakers.exchange()
    assert two.breakers.state_of(again).failure_count == 1


def test_calls_from_before_the_reset_that_fail_after_it_do_not_open_it_again(processes: Pair) -> None:
    one, two = processes
    endpoint = an_endpoint("http://a")
    again = replace(endpoint, breaker_epoch=1)

    async def reset_while_calls_hang() -> list[str]:
        hung = [asyncio.ensure_future(one.calling(endpoint, UpstreamFailed("old"), takes=0.2)) for _ in range(3)]
        await asyncio.sleep(0.05)
        one.breakers.apply_epochs([again])
        return await asyncio.gather(*hung)

    assert asyncio.run(reset_while_calls_hang()) == ["upstream_failed"] * 3
    one.breakers.exchange()
    two.breakers.exchange()
    assert [(p.status(again), p.call(again)) for p in processes] == [("closed", "ok")] * 2


def test_an_emptied_redis_is_told_again_what_is_open(processes: Pair, redis_db: "redis.Redis") -> None:
    one, two = processes
    endpoint = an_endpoint("http://a")
    one.fail(endpoint)
    one.breakers.exchange()
    redis_db.flushdb()
    one.breakers.exchange()  # finds it missing
    one.breakers.exchange()  # tells
    two.breakers.exchange()
    assert two.status(endpoint) == "open"


def test_without_redis_each_process_counts_for_itself_and_says_so(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    alone = Process()
    endpoint = an_endpoint("http://a")
    alone.fail(endpoint, assignment=SOON)
    assert alone.breakers.exchange() is False
    view = alone.breakers.state_of(endpoint)
    assert (view.status, view.shared) == ("open", False)
    assert [(t.from_state, t.to_state) for t in alone.seen] == [("closed", "open")]
    time.sleep(0.25)
    assert alone.call(endpoint) == "ok"
    assert alone.status(endpoint) == "closed"
    alone.breakers.stop()


def test_the_thread_shares_within_a_second(processes: Pair) -> None:
    one, two = processes
    endpoint = an_endpoint("http://a")
    for process in processes:
        process.breakers.start()
    one.fail(endpoint)
    ends = time.monotonic() + 1
    while two.call(endpoint) != "circuit_open" and time.monotonic() < ends:
        time.sleep(0.05)
    assert two.call(endpoint) == "circuit_open"
