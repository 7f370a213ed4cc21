"""The exact cache on a real Redis: the right vector at each place, or a miss, and nobody waits for it."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from django.core.exceptions import ValidationError
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pytest_django import Settings

from integrations import cache, cache_store, loop, operations, recorder, snapshot, statistics
from integrations.errors import UpstreamFailed
from integrations.models import AuditEntry, CallRecord, ModelConfig
from integrations.patterns import EmbedCall, Embeddings, EmbedRequest, Mode
from integrations.values import Model
from tests.made import a_model, an_assignment, an_endpoint
from tests.processes import Stack, serve_model
from tests.running import wait_until
from tests.tcp_gate import Gate
from tests.upstreams import Upstream, vector_of

pytestmark = pytest.mark.usefixtures("stack")

SERVER = an_endpoint("http://127.0.0.1:1")
SPACES = (
    {},
    {"slug": "other"},
    {"cache_epoch": 1},
    {"embedding_space": "b"},
    {"upstream_model": "b"},
    {"truncate": "end"},
    {"normalise": False},
    {"dimensions": 8},
    {"passage_prefix": "passage: "},
    {"endpoints": (replace(SERVER, upstream_model="b"),)},
    {"endpoints": (replace(SERVER, protocol="tei"),)},
)


def a_call(model: Model, texts: Sequence[str], *, dimensions: int | None = None) -> EmbedCall:
    request = EmbedRequest(texts=list(texts), single=False, input_type="passage", dimensions=dimensions)
    return EmbedCall(
        request_id="r",
        client="team-a",
        model=model,
        assignment=an_assignment(),
        mode=Mode.LIVE,
        request=request,
        received_at=datetime.now(UTC),
    )


@dataclass
class Server:
    """Whoever is asked when the cache does not know: in each space a text has a vector of its own."""

    dimensions: int = 4
    fails: bool = False
    url: str = SERVER.url
    asked: Counter[str] = field(default_factory=Counter)

    def of(self, model: Model) -> Callable[[Sequence[str]], Coroutine[Any, Any, Embeddings]]:
        async def ask(texts: Sequence[str]) -> Embeddings:
            self.asked.update(texts)
            await asyncio.sleep(0.001 * (len(texts[0]) % 3))
            if self.fails:
                raise UpstreamFailed
            rows = np.stack([self.vector(model, text) for text in texts])
            made_by = {"endpoint": self.url, "upstream_model": model.endpoints[0].upstream_model}
            return Embeddings(vectors=rows, attempts=(), duration_ms=1.0, **made_by)

        return ask

    def vector(self, model: Model, text: str) -> Any:
        whole = cache.space(model, input_type="passage", dimensions=None).decode()
        return vector_of(text, self.dimensions, whole)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return loop.run(work, timeout=60)


async def answers() -> None:
    """Wait until Redis is known to answer."""
    for _ in range(200):
        await cache_store.get(["citadel:cache:0"])
        if cache_store.ready():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("Redis does not answer")


async def written() -> None:
    """Wait until nothing is being written."""
    for _ in range(10_000):
        if not cache_store.writing():
            return
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def own_loop(settings: Settings) -> Iterator[None]:
    """Each test has connections of its own, and time enough for Redis on a busy machine."""
    settings.CACHE_TIMEOUT = 5.0
    loop.stop()
    cache.forget()
    yield
    loop.stop()
    recorder.stop()


TEXTS = st.lists(st.sampled_from([f"text {n}" for n in range(12)]), min_size=1, max_size=8)
CALLS = st.lists(st.tuples(TEXTS, st.sampled_from(range(len(SPACES))), st.booleans()), min_size=1, max_size=12)


@given(
    rounds=st.lists(CALLS, min_size=1, max_size=3), slots=st.sampled_from([1, 3, 1000]), local=st.sampled_from([0, 2])
)
@profile(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_nobody_ever_gets_another_texts_vector(
    settings: Settings, rounds: list[list[tuple[list[str], int, bool]]], slots: int, local: int
) -> None:
    settings.CACHE_MAX_TEXTS, settings.CACHE_LOCAL_TEXTS = slots, local
    models = [a_model(**{"endpoints": (SERVER,), **changes}) for changes in SPACES]

    async def one(texts: list[str], model: Model, fails: bool) -> None:
        server = Server(fails=fails)
        try:
            answer = await cache.answer(a_call(model, texts), server.of(model))
        except UpstreamFailed:
            assert fails
            return
        right = np.stack([server.vector(model, text) for text in texts])
        assert answer.vectors.tobytes() == right.tobytes()
        assert answer.cached == (not server.asked)
        assert all(count == 1 for count in server.asked.values())

    async def all_of_them() -> None:
        await answers()
        for calls in rounds:
            await asyncio.gather(*(one(texts, models[space], fails) for texts, space, fails in calls))
            await written()

    run(all_of_them())


def test_what_was_embedded_before_is_not_asked_for_again_and_the_rest_is() -> None:
    model, server = a_model(SERVER), Server()

    async def ask(*texts: str) -> Embeddings:
        answer = await cache.answer(a_call(model, texts), server.of(model))
        await written()
        return answer

    async def scenario() -> None:
        await answers()
        assert not (await ask("a", "b", "a")).cached
        cache.forget()  # what this process remembers: Redis must do
        again = await ask("b", "a")
        assert again.cached
        assert (again.endpoint, again.upstream_model) == (SERVER.url, "test-model")
        partly = await ask("c", "a")
        assert not partly.cached
        assert partly.vectors.tobytes() == np.stack([server.vector(model, t) for t in ("c", "a")]).tobytes()
        assert server.asked == {"a": 1, "b": 1, "c": 1}

    run(scenario())
    assert recorder.flush()
    cells = {(c.kind, c.endpoint, c.code): (c.count, c.texts) for c in statistics.window(60).cells}
    assert cells == {("cache", "", "hit"): (3, 0), ("cache", "", "miss"): (4, 0), ("call", "cache", "ok"): (1, 2)}
    assert CallRecord.objects.get().endpoint == "cache"


def test_every_part_of_what_decides_a_vector_tells_spaces_apart() -> None:
    spaces = {
        cache.space(a_model(**{"endpoints": (SERVER,), **c}), input_type="passage", dimensions=None) for c in SPACES
    }
    model = a_model(SERVER, query_prefix="query: ")
    further = {cache.space(model, input_type=kind, dimensions=size) for kind in ("query", "passage") for size in (4, 8)}
    assert len(spaces | further) == len(SPACES) + 4


def test_a_server_that_has_changed_its_length_is_asked_for_everything() -> None:
    model = a_model(SERVER)

    async def scenario() -> None:
        await answers()
        before, after = Server(dimensions=4), Server(dimensions=6)
        await cache.answer(a_call(model, ["a"]), before.of(model))
        answer = await cache.answer(a_call(model, ["b", "a"]), after.of(model))
        assert answer.vectors.tobytes() == np.stack([after.vector(model, t) for t in ("b", "a")]).tobytes()
        await cache.answer(a_call(model, ["c"]), before.of(model))
        mixed = await cache.answer(a_call(model, ["a", "c"]), after.of(model))
        assert mixed.vectors.shape == (2, 6)

    run(scenario())


def test_a_fallbacks_vectors_are_not_kept() -> None:
    model, fallback = a_model(SERVER), Server(url="http://elsewhere")

    async def scenario() -> None:
        await answers()
        for _ in range(2):
            assert not (await cache.answer(a_call(model, ["a"]), fallback.of(model))).cached
        assert fallback.asked == {"a": 2}

    run(scenario())


def test_a_stalled_redis_costs_one_call_the_time_limit_and_then_none(settings: Settings) -> None:
    parts = urlsplit(settings.REDIS_URL)
    model, server = a_model(SERVER), Server()
    with Gate(parts.port or 6379, host=parts.hostname or "127.0.0.1") as gate:
        settings.REDIS_URL = parts._replace(netloc=f"127.0.0.1:{gate.port}").geturl()

        async def took(text: str) -> float:
            began = time.perf_counter()
            await cache.answer(a_call(model, [text]), server.of(model))
            return time.perf_counter() - began

        async def scenario() -> None:
            await answers()
            await took("a")
            await written()
            cache.forget()
            settings.CACHE_TIMEOUT = 0.005
            gate.stall()
            # REDIS_TIMEOUT, and the default of redis-py, would be seconds.
            assert await took("a") < 0.4
            assert not cache_store.ready()
            settings.CACHE_TIMEOUT = 60.0
            assert max([await took(f"b{n}") for n in range(20)]) < 0.4
            assert server.asked["a"] == 2
            gate.flow()
            await answers()
            cache.forget()
            answer = await cache.answer(a_call(model, ["a"]), server.of(model))
            assert answer.vectors.tobytes() == server.vector(model, "a").tobytes()

        run(scenario())
        loop.stop()


def test_a_redis_that_is_away_is_a_miss(settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    settings.CACHE_LOCAL_TEXTS = 1
    model, server = a_model(SERVER), Server()

    async def scenario() -> None:
        for text in ("a", "b", "a", "a"):
            await cache.answer(a_call(model, [text]), server.of(model))

    run(scenario())
    assert server.asked == {"a": 2, "b": 1}  # the last one stands in this process's own memory


def test_emptying_is_audited_asks_why_and_reaches_every_web_process(stack: Stack) -> None:
    with Upstream() as upstream:
        serve_model(upstream, pattern="real_time")
        ModelConfig.objects.update(cache=True)
        snapshot.bump()
        stack.common.update(CITADEL_ANONYMOUS_SCOPES="embed,read", CACHE_TIMEOUT="1")
        _, url = stack.web(processes=2)

        def ask() -> bool:
            body = {"text": "a", "urgent": True}
            # A connection for each call: both processes are asked.
            answer = requests.post(
                f"{url}/api/v1/external/m/embed", json=body, headers={"Connection": "close"}, timeout=10
            )
            assert np.array(answer.json()["embedding"], np.float32).tobytes() == vector_of("a", 8).tobytes()
            return bool(answer.json()["metadata"]["cached"])

        wait_until(lambda: all(ask() for _ in range(12)), 20)
        asked = upstream.calls
        with pytest.raises(ValidationError):
            operations.purge_cache("m", actor="ann", reason="")
        operations.purge_cache("m", actor="ann", reason="the server has new weights")
        time.sleep(1.0)
        assert not ask()
        assert upstream.calls == asked + 1
        found = requests.get(f"{url}/api/v1/external/patterns/metrics", timeout=10).json()
        assert found["windows"]["5m"]["cache"]["m"]["hits"] >= 12
    entry = AuditEntry.objects.get(action="purge_cache")
    assert (entry.actor, entry.model, entry.before, entry.after) == ("ann", "m", {"cache_epoch": 0}, {"cache_epoch": 1})
