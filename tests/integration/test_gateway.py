"""The gateway's attempts against real servers that fail on command."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from integrations import loop
from integrations.breakers import Breakers
from integrations.calls import Call
from integrations.errors import (
    CircuitOpen,
    CitadelError,
    Overloaded,
    TextRejected,
    UpstreamBusy,
    UpstreamFailed,
    UpstreamMalformed,
    UpstreamTimeout,
)
from integrations.gateway import Gateway
from integrations.patterns import Embeddings, Mode
from integrations.snapshot import _swap
from integrations.values import Model, Snapshot
from tests.made import a_model, an_assignment, an_endpoint
from tests.upstreams import Upstream, vector_of


class Caller:
    """A gateway of its own, and what it recorded."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.breakers = Breakers("test-gateway")
        self.gateway = Gateway(self.breakers, record=self.calls.append)

    def embed(self, model: Model, *texts: str, **changes: Any) -> Embeddings:
        return loop.run(self.embedding(model, *texts, **changes))

    async def embedding(self, model: Model, *texts: str, **changes: Any) -> Embeddings:
        assignment = changes.pop("assignment", model.assignments[0])
        values: dict[str, Any] = {
            "assignment": assignment,
            "pattern": assignment.pattern,
            "mode": Mode.LIVE,
            "request_id": "r1",
            "client": "tests",
            "deadline": assignment.deadline,
        }
        return await self.gateway.embed(model, texts or ("a text",), **(values | changes))

    def error(self, model: Model, *texts: str, **changes: Any) -> CitadelError:
        with pytest.raises(CitadelError) as caught:
            self.embed(model, *texts, **changes)
        return caught.value


@pytest.fixture
def caller(redis_db: Any) -> Iterator[Caller]:
    caller = Caller()
    yield caller
    caller.breakers.stop()


@pytest.fixture
def first() -> Iterator[Upstream]:
    with Upstream("ollama") as upstream:
        yield upstream


@pytest.fixture
def second() -> Iterator[Upstream]:
    with Upstream("tei") as upstream:
        yield upstream


def _until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 5
    while not true() and time.monotonic() < ends:
        time.sleep(0.01)


def same(answer: Embeddings, *texts: str) -> bool:
    return np.array_equal(answer.vectors, np.stack([vector_of(text, 8) for text in texts]))


def test_each_text_gets_its_own_vector_in_order(caller: Caller, first: Upstream) -> None:
    answer = caller.embed(a_model(an_endpoint(first)), "one", "two", "three")
    assert same(answer, "one", "two", "three")
    assert answer.endpoint == first.url
    assert [a.outcome for a in answer.attempts] == ["ok"]


def test_more_texts_than_the_endpoint_takes_go_in_parts(caller: Caller, first: Upstream) -> None:
    first.max_batch = 3
    texts = [f"text {i}" for i in range(20)]
    answer = caller.embed(a_model(an_endpoint(first, max_batch=3)), *texts)
    assert same(answer, *texts)
    assert first.calls == 7
    assert len(answer.attempts) == 1


def test_the_prefix_of_the_input_type_goes_before_each_text(caller: Caller, first: Upstream) -> None:
    model = a_model(an_endpoint(first), query_prefix="query: ", passage_prefix="passage: ")
    assert same(caller.embed(model, "x", input_type="query"), "query: x")
    assert same(caller.embed(model, "x", input_type="passage"), "passage: x")
    assert same(caller.embed(model, "x"), "x")


FAULTS: dict[str, tuple[Callable[[Upstream], None], type[CitadelError]]] = {
    "refused": (lambda u: u.refuse(), UpstreamFailed),
    "reset": (lambda u: u.reset(), UpstreamFailed),
    "500": (lambda u: u.status(500), UpstreamFailed),
    "html": (lambda u: u.html(), UpstreamMalformed),
    "truncated": (lambda u: u.truncated(), UpstreamMalformed),
    "wrong count": (lambda u: u.wrong_count(), UpstreamMalformed),
    "wrong dimension": (lambda u: u.wrong_dimension(), UpstreamMalformed),
    "NaN": (lambda u: u.nan(), UpstreamMalformed),
    "silence": (lambda u: u.hang(), UpstreamTimeout),
    "trickle": (lambda u: u.trickle(), UpstreamTimeout),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_servers_fault_ends_in_its_code_and_counts(caller: Caller, first: Upstream, fault: str) -> None:
    cause, error = FAULTS[fault]
    cause(first)
    endpoint = an_endpoint(first)
    model = a_model(endpoint, dimensions=8)
    quick = an_assignment(retry_attempts=1, attempt_timeout=0.3, deadline=0.6)
    assert isinstance(caller.error(model, assignment=quick), error)
    assert caller.breakers.state_of(endpoint).failure_count == len(caller.calls[0].attempts) >= 1
    assert caller.calls[0].code == error.code


@pytest.mark.parametrize("fault", FAULTS)
def test_a_servers_fault_fails_over_to_the_next_endpoint(
    caller: Caller, first: Upstream, second: Upstream, fault: str
) -> None:
    FAULTS[fault][0](first)
    model = a_model(an_endpoint(first), an_endpoint(second), dimensions=8)
    answer = caller.embed(model, "x", assignment=an_assignment(attempt_timeout=0.3))
    assert same(answer, "x")
    assert (answer.endpoint, answer.failover_from) == (second.url, first.url)
    assert [a.endpoint for a in answer.attempts] == [first.url, second.url]
    assert caller.calls[0].failovers == 1


def test_a_refused_text_is_the_callers_fault(caller: Caller, first: Upstream, second: Upstream) -> None:
    first.poison("bad")
    endpoint = an_endpoint(first)
    assert isinstance(caller.error(a_model(endpoint, an_endpoint(second)), "bad"), TextRejected)
    assert second.calls == 0
    assert caller.breakers.state_of(endpoint).failure_count == 0


def test_a_refused_text_does_not_forgive_the_failures_before_it(caller: Caller, first: Upstream) -> None:
    endpoint = an_endpoint(first)
    once = an_assignment(retry_attempts=0)
    first.status(500, times=2)
    for _ in range(2):
        caller.error(a_model(endpoint), assignment=once)
    first.poison("bad")
    caller.error(a_model(endpoint), "bad", assignment=once)
    assert caller.breakers.state_of(endpoint).failure_count == 2


def test_429_pauses_the_endpoint_and_does_not_count(caller: Caller, first: Upstream) -> None:
    first.status(429, headers={"Retry-After": "7"}, times=1)
    endpoint = an_endpoint(first)
    error = caller.error(a_model(endpoint))
    assert isinstance(error, UpstreamBusy)
    assert error.retry_after == 7
    paused = caller.error(a_model(endpoint))
    assert isinstance(paused, Overloaded)
    assert 0 < (paused.retry_after or 0) <= 7
    assert first.calls == 1
    assert caller.breakers.state_of(endpoint).failure_count == 0


def test_a_paused_endpoint_is_passed_over(caller: Caller, first: Upstream, second: Upstream) -> None:
    first.status(429, headers={"Retry-After": "60"}, times=1)
    model = a_model(an_endpoint(first), an_endpoint(second))
    assert [caller.embed(model).endpoint for _ in range(2)] == [second.url, second.url]
    assert first.calls == 1


def test_attempts_rotate_over_the_endpoints_before_any_is_asked_twice(
    caller: Caller, first: Upstream, second: Upstream
) -> None:
    first.status(500)
    second.status(500)
    caller.error(a_model(an_endpoint(first), an_endpoint(second)))
    asked = [a.endpoint for a in caller.calls[0].attempts]
    assert asked == [first.url, second.url, first.url, second.url]
    assert caller.calls[0].retries == 2


def test_retries_stop_when_the_endpoints_budget_is_spent(caller: Caller, first: Upstream, settings: Any) -> None:
    settings.RETRY_BUDGET_MINIMUM = 2
    settings.RETRY_BACKOFF = 0.001
    first.status(500)
    model = a_model(an_endpoint(first))
    assignment = an_assignment(breaker_threshold=1000)
    for _ in range(20):
        caller.error(model, assignment=assignment)
    # 20 calls, the 2 tokens at the start and a fifth of a token with each attempt.
    assert 22 <= first.calls <= 28


def test_the_deadline_ends_a_call_whatever_the_attempts(caller: Caller, first: Upstream) -> None:
    first.hang()
    started = time.monotonic()
    error = caller.error(a_model(an_endpoint(first)), assignment=an_assignment(deadline=0.5, attempt_timeout=0.2))
    assert isinstance(error, UpstreamTimeout)
    assert time.monotonic() - started < 5
    assert error.status == 504


def test_a_hung_server_opens_its_breaker_and_is_then_not_asked(caller: Caller, first: Upstream) -> None:
    first.hang()
    endpoint = an_endpoint(first)
    hasty = an_assignment(deadline=0.2, attempt_timeout=0.1, retry_attempts=0, breaker_threshold=3)
    for _ in range(3):
        caller.error(a_model(endpoint), assignment=hasty)
    error = caller.error(a_model(endpoint), assignment=hasty)
    assert isinstance(error, CircuitOpen)
    assert error.retry_after is not None
    assert first.calls == 3
    assert caller.calls[-1].attempts == ()


def test_the_bound_of_calls_in_flight_refuses_what_is_over_it(caller: Caller, first: Upstream) -> None:
    first.delay = 0.3
    model = a_model(an_endpoint(first, max_in_flight=4))

    async def many() -> list[Embeddings | BaseException]:
        return await asyncio.gather(*(caller.embedding(model, f"t{i}") for i in range(10)), return_exceptions=True)

    outcomes = loop.run(many())
    assert sum(isinstance(o, Embeddings) for o in outcomes) == 4
    assert sum(isinstance(o, Overloaded) for o in outcomes) == 6
    assert first.peak == 4


def test_a_client_that_goes_away_is_nobodys_fault(caller: Caller, first: Upstream) -> None:
    first.hang()
    endpoint = an_endpoint(first)

    async def leave() -> None:
        task = asyncio.ensure_future(caller.embedding(a_model(endpoint)))
        await asyncio.to_thread(_until, lambda: first.calls > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    loop.run(leave())
    assert caller.calls[0].code == "cancelled"
    assert caller.breakers.state_of(endpoint).failure_count == 0
    assert caller.gateway.in_flight() == {}


def test_no_vector_of_another_space_is_ever_the_answer(caller: Caller, first: Upstream, second: Upstream) -> None:
    first.status(500)
    other = a_model(an_endpoint(second), slug="other", embedding_space="b")
    model = a_model(an_endpoint(first), embedding_space="a", fallbacks=("other",))
    _swap(Snapshot(version=1, models={"m": model, "other": other}, keys={}))
    assert isinstance(caller.error(model), UpstreamFailed)
    assert second.calls == 0


def test_a_fallback_of_the_same_space_answers_when_the_model_cannot(
    caller: Caller, first: Upstream, second: Upstream
) -> None:
    first.status(500)
    other = a_model(an_endpoint(second, upstream_model="bigger"), slug="other", embedding_space="a")
    model = a_model(an_endpoint(first), embedding_space="a", fallbacks=("other",))
    _swap(Snapshot(version=1, models={"m": model, "other": other}, keys={}))
    answer = caller.embed(model, "x")
    assert same(answer, "x")
    assert (answer.upstream_model, answer.failover_from) == ("bigger", first.url)


def test_vectors_out_of_order_come_back_in_order(caller: Caller) -> None:
    with Upstream("openai") as upstream:
        upstream.shuffled()
        assert same(caller.embed(a_model(an_endpoint(upstream)), "one", "two", "three"), "one", "two", "three")


def test_credentials_come_from_the_named_environment_variable(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    with Upstream("tei", auth=("X-Secret", "open sesame")) as upstream:
        model = a_model(an_endpoint(upstream, auth_header="X-Secret", auth_env="TEST_UPSTREAM_SECRET"))
        assert isinstance(caller.error(model), UpstreamFailed)
        monkeypatch.setenv("TEST_UPSTREAM_SECRET", "open sesame")
        assert same(caller.embed(model, "x"), "x")
    assert "open sesame" not in repr(caller.calls)


def test_a_probe_tells_health_dimension_and_fault(caller: Caller, first: Upstream) -> None:
    endpoint = an_endpoint(first)
    model = a_model(endpoint)
    probe = loop.run(caller.gateway.probe(endpoint, model))
    assert (probe.health.ok, probe.ok, probe.dimensions) == (True, True, 8)
    first.status(500)
    probe = loop.run(caller.gateway.probe(endpoint, model))
    assert (probe.health.ok, probe.ok, probe.dimensions) == (True, False, None)
    assert probe.error
    assert caller.calls == []
