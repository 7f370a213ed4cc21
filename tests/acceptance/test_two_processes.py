"""Two web processes, one configuration, one view of the breakers."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests

from integrations import operations, snapshot
from integrations.models import ApiKey, BreakerEvent, Endpoint
from tests.made_api import serve
from tests.processes import Stack, wait_until
from tests.tcp_gate import Gate
from tests.upstreams import Upstream

SCOPES = {"CITADEL_ANONYMOUS_SCOPES": "embed,batch,read,operate"}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def embed(url: str, model: str = "m") -> tuple[int, str]:
    """Status and code ("ok") of one live call."""
    answer = requests.post(f"{url}/api/v1/external/{model}/embed", json={"text": "a", "urgent": True}, timeout=20)
    return answer.status_code, "ok" if answer.ok else answer.json()["code"]


def within_a_second(condition: Callable[[], bool]) -> None:
    wait_until(condition, 1.0, every=0.02)


@contextlib.contextmanager
def gated(url: str) -> Iterator[tuple[Gate, str]]:
    """A gate before the server of `url`, and the URL through it."""
    parts = urlsplit(url)
    with Gate(parts.port or 0, host=parts.hostname or "") as gate:
        yield gate, url.replace(f":{parts.port}/", f":{gate.port}/")


def two_webs(stack: Stack, **env: str) -> list[str]:
    return [stack.web(**SCOPES, **env)[1] for _ in range(2)]


def test_a_trip_and_a_reset_by_hand_reach_both_within_a_second(stack: Stack, upstream: Upstream) -> None:
    serve("m", "real_time", upstream)
    urls = two_webs(stack)
    assert [embed(u) for u in urls] == [(200, "ok")] * 2
    endpoint = Endpoint.objects.get()
    operations.trip_breaker([endpoint.pk], actor="ada", reason="new disk")
    for url in urls:
        within_a_second(lambda url=url: embed(url) == (503, "circuit_open"))  # type: ignore[misc]
    status = requests.get(f"{urls[1]}/api/v1/external/patterns/status", timeout=5).json()
    shown = status["circuit_breakers"]["m"]["endpoints"][0]
    assert (shown["state"], shown["reason"], shown["by"]) == ("forced_open", "new disk", "ada")
    operations.reset_breaker([endpoint.pk], actor="ada")
    for url in urls:
        within_a_second(lambda url=url: embed(url) == (200, "ok"))  # type: ignore[misc]


def test_failures_seen_by_one_open_the_breaker_of_both(stack: Stack, upstream: Upstream) -> None:
    serve("m", "real_time", upstream, breaker_threshold=3, breaker_reset_timeout=60.0)
    one, two = two_webs(stack)
    upstream.status(500)
    assert [embed(one)[1] for _ in range(3)] == ["upstream_failed"] * 3
    upstream.clear()
    within_a_second(lambda: embed(two) == (503, "circuit_open"))
    wait_until(lambda: BreakerEvent.objects.exists(), 5)
    assert list(BreakerEvent.objects.values_list("from_state", "to_state")) == [("closed", "open")]


def test_fifty_calls_at_once_over_both_make_exactly_one_trial(stack: Stack, upstream: Upstream) -> None:
    serve("m", "real_time", upstream, breaker_threshold=3, breaker_reset_timeout=1.0)
    urls = two_webs(stack)
    upstream.status(500)
    for _ in range(3):
        embed(urls[0])
    within_a_second(lambda: embed(urls[1])[1] == "circuit_open")
    upstream.clear()
    upstream.delay = 1.5  # the trial is still under way when the last of the fifty arrives
    upstream.reset_counters()
    time.sleep(1.2)
    start = threading.Barrier(50)

    def call(number: int) -> str:
        start.wait()
        return embed(urls[number % 2])[1]

    with ThreadPoolExecutor(50) as pool:
        outcomes = Counter(pool.map(call, range(50)))
    assert outcomes == {"ok": 1, "circuit_open": 49}
    assert upstream.calls == 1
    upstream.delay = 0
    for url in urls:
        within_a_second(lambda url=url: embed(url) == (200, "ok"))  # type: ignore[misc]


def test_a_new_model_a_key_and_its_end_reach_both_without_a_restart(stack: Stack, upstream: Upstream) -> None:
    urls = [stack.web()[1] for _ in range(2)]
    key = operations.create_key("team", ["embed"], actor="ada")
    serve("late", "real_time", upstream)
    snapshot.bump()
    headers = {"Authorization": f"Bearer {key}"}

    def status(url: str) -> int:
        path = f"{url}/api/v1/external/late/embed"
        return requests.post(path, json={"text": "a"}, headers=headers, timeout=5).status_code

    for url in urls:
        within_a_second(lambda url=url: status(url) == 200)  # type: ignore[misc]
    operations.revoke_keys([ApiKey.objects.get().pk], actor="ada")
    for url in urls:
        within_a_second(lambda url=url: status(url) == 401)  # type: ignore[misc]


def test_live_calls_outlive_postgresql_also_over_a_restart(stack: Stack, upstream: Upstream) -> None:
    serve("m", "real_time", upstream)
    serve("q", "bulk_only", upstream)
    snapshot.bump()
    with gated(stack.database_url) as (gate, through):
        web, url = stack.web(DATABASE_URL=through, **SCOPES)
        assert embed(url) == (200, "ok")
        gate.shut()
        assert embed(url) == (200, "ok")
        ready = requests.get(f"{url}/health/ready", timeout=10)
        assert (ready.status_code, "database" in ready.json()["degraded"]) == (200, True)
        queued = requests.post(f"{url}/api/v1/external/q/embed", json={"text": "a"}, timeout=20)
        assert (queued.status_code, queued.json()["code"]) == (503, "queue_unavailable")
        assert int(queued.headers["Retry-After"]) >= 1
        web.stop()
        _, again = stack.web(DATABASE_URL=through, **SCOPES)
        assert embed(again) == (200, "ok")
        gate.open()
        wait_until(
            lambda: (
                requests.post(f"{again}/api/v1/external/q/embed", json={"text": "a"}, timeout=20).status_code == 202
            ),
            20,
        )


def test_live_calls_outlive_redis(stack: Stack, upstream: Upstream) -> None:
    serve("m", "real_time", upstream)
    with gated(stack.redis_url) as (gate, through):
        _, url = stack.web(REDIS_URL=through, **SCOPES)
        assert embed(url) == (200, "ok")
        gate.shut()
        assert embed(url) == (200, "ok")
        assert "redis" in requests.get(f"{url}/health/ready", timeout=10).json()["degraded"]
