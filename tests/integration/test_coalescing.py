"""Live callers that share upstream calls, against real servers: nobody gets what is another's, whatever happens."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integrations import loop
from integrations.errors import CitadelError, Overloaded, TextRejected, UpstreamFailed, UpstreamTimeout
from integrations.patterns import Embeddings
from integrations.values import Endpoint, Model
from tests.integration.test_gateway import Caller, same
from tests.made import a_model, an_assignment, an_endpoint
from tests.upstreams import Upstream

Outcome = Embeddings | BaseException


@pytest.fixture
def caller(redis_db: Any) -> Iterator[Caller]:
    caller = Caller()
    yield caller
    caller.breakers.stop()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream("openai") as upstream:
        upstream.delay = 0.05
        yield upstream


def narrow(upstream: Upstream, **changes: Any) -> Endpoint:
    """An endpoint to which one call goes at a time: what arrives meanwhile waits together."""
    return an_endpoint(upstream, **({"max_target": 1} | changes))


def sharing(*endpoints: Endpoint, **changes: Any) -> Model:
    return a_model(*endpoints, coalesce=True, **changes)


def together(caller: Caller, model: Model, *texts: str, **changes: Any) -> list[Outcome]:
    """Each text by a caller of its own, all at once."""

    async def all_of_them() -> list[Outcome]:
        calls = (caller.embedding(model, text, request_id=text, **changes) for text in texts)
        return await asyncio.gather(*calls, return_exceptions=True)

    return loop.run(all_of_them())


def names(count: int) -> list[str]:
    return [f"text {i}" for i in range(count)]


def wait_for(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 5
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_an_endpoint_with_room_gets_each_text_at_once_and_alone(caller: Caller, upstream: Upstream) -> None:
    model = sharing(an_endpoint(upstream, min_target=8))
    outcomes = together(caller, model, *names(8))
    assert all(isinstance(o, Embeddings) and same(o, t) for o, t in zip(outcomes, names(8), strict=True))
    assert upstream.calls == upstream.peak == 8


def test_texts_that_arrive_while_the_endpoint_is_busy_leave_as_one_call(caller: Caller, upstream: Upstream) -> None:
    outcomes = together(caller, sharing(narrow(upstream)), *names(20))
    assert all(isinstance(o, Embeddings) and same(o, t) for o, t in zip(outcomes, names(20), strict=True))
    assert (upstream.calls, upstream.peak) == (2, 1)
    assert [(c.code, c.texts, len(c.attempts)) for c in caller.calls] == [("ok", 1, 1)] * 20
    assert {c.request_id for c in caller.calls} == set(names(20))


def test_the_texts_that_wait_are_divided_among_the_calls_that_may_leave(caller: Caller, upstream: Upstream) -> None:
    outcomes = together(caller, sharing(an_endpoint(upstream, min_target=4, max_target=4)), *names(24))
    assert all(isinstance(o, Embeddings) and same(o, t) for o, t in zip(outcomes, names(24), strict=True))
    sizes = [len(orjson.loads(request.body)["input"]) for request in upstream.requests]
    assert sizes[:4] == [1] * 4  # there was room
    assert max(sizes) <= 6  # a quarter of all, not the twenty that waited


def test_a_crowd_does_not_wait_for_the_few_of_it_that_found_room(caller: Caller, upstream: Upstream) -> None:
    upstream.delay = 0.3
    outcomes = together(caller, sharing(an_endpoint(upstream, min_target=2)), *names(16))
    assert all(isinstance(o, Embeddings) and same(o, t) for o, t in zip(outcomes, names(16), strict=True))
    sizes = sorted(len(orjson.loads(request.body)["input"]) for request in upstream.requests)
    assert upstream.peak == len(sizes)  # none came back before the last left
    assert sum(sizes) == 16
    assert sizes[0] < sizes[-1] <= 8


def test_a_crowd_keeps_to_the_bound_of_calls(caller: Caller, upstream: Upstream) -> None:
    outcomes = together(caller, sharing(an_endpoint(upstream, min_target=2, max_target=2)), *names(16))
    assert all(isinstance(o, Embeddings) for o in outcomes)
    assert upstream.peak == 2


def test_a_crowd_waits_its_turn_where_a_call_holds_less_than_its_share(caller: Caller, upstream: Upstream) -> None:
    upstream.delay, upstream.max_batch = 0.3, 4
    outcomes = together(caller, sharing(an_endpoint(upstream, max_batch=4)), *names(100))
    assert all(isinstance(o, Embeddings) for o in outcomes)
    assert 8 < upstream.peak < 20  # the target is 8; all that had come made 31


def test_a_shared_call_is_no_larger_than_the_server_takes(caller: Caller, upstream: Upstream) -> None:
    upstream.max_batch = 4
    outcomes = together(caller, sharing(narrow(upstream, max_batch=4)), *names(13))
    assert all(isinstance(o, Embeddings) for o in outcomes)
    assert upstream.calls == 4


def test_a_shared_call_holds_one_place_of_the_endpoints_bound(caller: Caller, upstream: Upstream) -> None:
    outcomes = together(caller, sharing(an_endpoint(upstream, max_in_flight=2)), *names(30))
    assert all(isinstance(o, Embeddings) for o in outcomes)
    assert upstream.peak == 2


def test_the_tokens_of_a_shared_call_are_divided_among_its_callers(caller: Caller, upstream: Upstream) -> None:
    outcomes = together(caller, sharing(narrow(upstream)), *names(7))
    told = [orjson.loads(request.body)["input"] for request in upstream.requests]
    per_text = {len(texts): sum(o.prompt_tokens for o in outcomes if isinstance(o, Embeddings)) for texts in told}
    assert len(told) == 2
    assert all(total > 0 for total in per_text.values())


def test_callers_share_only_where_all_that_changes_the_answer_is_equal(caller: Caller, upstream: Upstream) -> None:
    endpoint = narrow(upstream)
    plain = sharing(endpoint)
    kinds = [plain, sharing(endpoint, truncate="end"), sharing(endpoint, normalise=False)]
    kinds.append(sharing(replace(endpoint, upstream_model="other")))

    async def all_of_them() -> list[Embeddings]:
        calls = [caller.embedding(m, f"{n} {i}") for i in range(5) for n, m in enumerate(kinds)]
        calls += [caller.embedding(plain, f"short {i}", dimensions=8) for i in range(5)]
        return await asyncio.gather(*calls)

    answers = loop.run(all_of_them())
    assert len(answers) == 25
    for request in upstream.requests:
        assert len({text.split()[0] for text in orjson.loads(request.body)["input"]}) == 1
    assert len(upstream.requests) == 6  # the first alone, then one call for each kind


def test_a_refused_text_fails_its_own_caller_and_no_other(caller: Caller, upstream: Upstream) -> None:
    endpoint = narrow(upstream)
    upstream.poison("text 13")
    outcomes = together(caller, sharing(endpoint), *names(20))
    assert [i for i, o in enumerate(outcomes) if not isinstance(o, Embeddings)] == [13]
    assert isinstance(outcomes[13], TextRejected)
    assert caller.breakers.state_of(endpoint).failure_count == 0
    assert upstream.peak == 1


def test_a_text_that_the_server_cannot_bear_fails_its_own_caller_and_no_other(
    caller: Caller, upstream: Upstream
) -> None:
    upstream.crash_on("text 5")
    outcomes = together(caller, sharing(narrow(upstream)), *names(9), assignment=an_assignment(retry_attempts=1))
    assert [i for i, o in enumerate(outcomes) if not isinstance(o, Embeddings)] == [5]
    assert isinstance(outcomes[5], UpstreamFailed)


def test_a_failed_shared_call_is_one_failure_and_each_caller_fails_over_by_itself(
    caller: Caller, upstream: Upstream
) -> None:
    endpoint = narrow(upstream)
    upstream.status(500)
    with Upstream("tei") as second:
        outcomes = together(caller, sharing(endpoint, an_endpoint(second)), *names(20))
        assert all(isinstance(o, Embeddings) and o.endpoint == second.url for o in outcomes)
    assert caller.breakers.state_of(endpoint).failure_count == upstream.calls == 2
    assert {c.failovers for c in caller.calls} == {1}


def test_each_caller_leaves_at_its_own_deadline(caller: Caller, upstream: Upstream) -> None:
    upstream.delay = 0.4
    model = sharing(narrow(upstream))

    async def all_of_them() -> list[Outcome]:
        first = asyncio.ensure_future(caller.embedding(model, "first"))
        await asyncio.sleep(0.02)
        calls = [caller.embedding(model, f"t{i}", deadline=deadline) for i, deadline in enumerate((3.0, 0.5, 0.1, 3.0))]
        return list(await asyncio.gather(first, *calls, return_exceptions=True))

    outcomes = loop.run(all_of_them())
    assert [type(o) for o in outcomes] == [Embeddings, Embeddings, UpstreamTimeout, UpstreamTimeout, Embeddings]
    assert upstream.calls == 2
    assert upstream.texts["t2"] == 0  # gone before its call left
    assert upstream.texts["t1"] == 1  # gone while it was on its way


def test_a_call_is_given_up_when_all_its_callers_are_gone_and_not_before(caller: Caller, upstream: Upstream) -> None:
    endpoint = narrow(upstream)
    model = sharing(endpoint)

    async def story() -> None:
        first = asyncio.ensure_future(caller.embedding(model, "first"))
        await asyncio.sleep(0.02)
        two = [asyncio.ensure_future(caller.embedding(model, f"t{i}")) for i in range(2)]
        await first
        upstream.hang()
        await asyncio.to_thread(wait_for, lambda: upstream.texts["t1"] == 1)
        two[0].cancel()
        await asyncio.sleep(0.1)
        assert upstream.in_flight == 1
        two[1].cancel()
        await asyncio.to_thread(wait_for, lambda: upstream.in_flight == 0)
        await asyncio.gather(*two, return_exceptions=True)

    loop.run(story())
    assert [c.code for c in caller.calls] == ["ok", "cancelled", "cancelled"]
    assert caller.breakers.state_of(endpoint).failure_count == 0
    upstream.clear()
    assert same(caller.embed(model, "after"), "after")


def test_a_silent_server_is_judged_once_for_each_call(caller: Caller, upstream: Upstream) -> None:
    endpoint = narrow(upstream)
    upstream.hang()
    hasty = an_assignment(attempt_timeout=0.2, deadline=0.35, retry_attempts=0)
    outcomes = together(caller, sharing(endpoint), *names(6), assignment=hasty)
    assert all(isinstance(o, UpstreamTimeout) for o in outcomes)
    assert caller.breakers.state_of(endpoint).failure_count == upstream.calls == 2


def test_a_stuck_endpoint_holds_nobody_back_from_meeting_its_breaker(caller: Caller, upstream: Upstream) -> None:
    upstream.hang()
    model = sharing(narrow(upstream))
    quick = an_assignment(attempt_timeout=1.0, deadline=1.2, retry_attempts=0)

    async def one_after_the_other() -> None:
        calls = []
        for i in range(8):
            calls.append(asyncio.ensure_future(caller.embedding(model, f"t{i}", assignment=quick)))
            await asyncio.sleep(0.11)
        await asyncio.gather(*calls, return_exceptions=True)

    loop.run(one_after_the_other())
    assert upstream.calls >= 3


def test_more_texts_than_may_wait_are_refused(caller: Caller, upstream: Upstream, settings: Any) -> None:
    settings.COALESCE_MAX_WAITING = 5
    outcomes = together(caller, sharing(narrow(upstream)), *names(10))
    assert sum(isinstance(o, Embeddings) for o in outcomes) == 6
    assert sum(isinstance(o, Overloaded) for o in outcomes) == 4


# --- whatever happens ---

callers = st.lists(
    st.fixed_dictionaries(
        {
            "after": st.integers(0, 12),  # milliseconds
            "texts": st.integers(1, 4),
            "bad": st.booleans(),
            "leaves": st.none() | st.integers(0, 25),
        }
    ),
    min_size=2,
    max_size=14,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    callers=callers,
    target=st.integers(1, 3),
    speech=st.lists(st.none() | st.integers(0, 12), max_size=12),
    bad=st.integers(0, 3),
)
def test_no_result_ever_reaches_another_caller(
    caller: Caller, upstream: Upstream, callers: list[dict[str, Any]], target: int, speech: list[int | None], bad: int
) -> None:
    """Callers that come, leave and send refused texts at any moment; a server that answers late and out of order."""
    upstream.clear()
    upstream.delay = 0.002
    upstream.poison("bad")
    for word in speech:
        if word is None:
            upstream.shuffled(times=1)
        else:
            upstream.slow(word / 1000, times=1)
    model = sharing(narrow(upstream, max_target=target, max_batch=6))
    bad_ones = {i for i, c in enumerate(callers) if c["bad"] and i % 4 == bad}

    async def one(number: int, about: dict[str, Any]) -> Outcome:
        texts = [f"{number}/{i}" for i in range(about["texts"])]
        if number in bad_ones:
            texts[-1] = "bad"
        await asyncio.sleep(about["after"] / 1000)
        task = asyncio.ensure_future(caller.embedding(model, *texts))
        if about["leaves"] is not None:
            await asyncio.wait({task}, timeout=about["leaves"] / 1000)
            task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(outcome, Embeddings):
            assert same(outcome, *texts)
        return outcome

    async def everybody() -> list[Outcome]:
        return await asyncio.gather(*(one(n, c) for n, c in enumerate(callers)))

    outcomes = loop.run(everybody(), timeout=20)
    for number, (about, outcome) in enumerate(zip(callers, outcomes, strict=True)):
        if about["leaves"] is not None and isinstance(outcome, asyncio.CancelledError):
            continue
        # The scripted answers to "slow" and "shuffled" do not look at the texts: there a bad one gets a vector, too.
        assert isinstance(outcome, Embeddings | TextRejected)
        assert number in bad_ones or isinstance(outcome, Embeddings)
    assert caller.gateway.in_flight() == {}
    assert np.all([lane.in_flight == lane.waiting_texts == 0 for lane in caller.gateway.attempts.lanes.values()])


def test_errors_that_callers_share_are_each_ones_own(caller: Caller, upstream: Upstream) -> None:
    upstream.status(500)
    once = an_assignment(retry_attempts=0)
    outcomes = together(caller, sharing(narrow(upstream)), *names(6), assignment=once)
    assert all(isinstance(o, CitadelError) for o in outcomes)
    assert len({id(o) for o in outcomes}) == 6
