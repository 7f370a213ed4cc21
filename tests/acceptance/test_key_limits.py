"""The limits of API keys over two real web processes that share Redis, and without it."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from batches.models import BatchJob
from integrations import operations, snapshot
from integrations.models import ApiKey
from tests.made_api import serve
from tests.processes import Stack, wait_until
from tests.tcp_gate import Gate
from tests.upstreams import Upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        serve("m", "real_time", upstream)
        serve("q", "bulk_only", upstream)
        yield upstream


def a_key(**limits: Any) -> dict[str, str]:
    key = operations.create_key("team-a", ["embed", "batch", "read"], actor="tests", **limits)
    snapshot.bump()
    return {"Authorization": f"Bearer {key}"}


def embed(url: str, headers: dict[str, str], *, model: str = "m", texts: int = 1) -> requests.Response:
    body = {"texts": ["a"] * texts}
    return requests.post(f"{url}/api/v1/external/{model}/embed", json=body, headers=headers, timeout=30)


def hammer(urls: list[str], headers: dict[str, str], *, calls: int, threads: int = 8) -> "Counter[int]":
    """So many calls by turns to these processes; the answers by status."""
    statuses: Counter[int] = Counter()
    guard, sessions = threading.Lock(), threading.local()

    def call(number: int) -> None:
        if not hasattr(sessions, "http"):
            sessions.http = requests.Session()
        url = f"{urls[number % len(urls)]}/api/v1/external/m/embed"
        status = sessions.http.post(url, json={"text": "a"}, headers=headers, timeout=60).status_code
        with guard:
            statuses[status] += 1

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, range(calls)))
    return statuses


def early_in_a_minute(seconds_needed: float) -> None:
    """Wait for the next window where this one would end meanwhile."""
    left = 60 - time.time() % 60
    if left < seconds_needed:
        time.sleep(left + 0.1)


def test_two_processes_together_let_through_what_a_large_limit_says(stack: Stack, upstream: Upstream) -> None:
    headers = a_key(requests_per_minute=600)
    urls = [stack.web()[1] for _ in range(2)]
    early_in_a_minute(20)  # where it takes longer, both windows are counted
    began = int(time.time() // 60)
    asked = stack.redis.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
    statuses = hammer(urls, headers, calls=700)
    scripts = stack.redis.info("commandstats")["cmdstat_evalsha"]["calls"] - asked
    assert set(statuses) == {200, 429}
    windows = int(time.time() // 60) - began + 1
    assert 570 <= statuses[200] <= 600 * windows
    assert windows > 1 or statuses[200] <= 600
    # One script a dozen calls, besides what breakers and idle returns cost.
    assert scripts < 350


def test_a_small_limit_is_exact_and_says_when_to_come_back(stack: Stack, upstream: Upstream) -> None:
    headers = a_key(requests_per_minute=10)
    urls = [stack.web()[1] for _ in range(2)]
    early_in_a_minute(20)
    assert hammer(urls, headers, calls=40) == {200: 10, 429: 30}
    refused = embed(urls[0], headers)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60


def test_texts_are_counted_live_queued_and_as_lines_or_not_at_all(stack: Stack, upstream: Upstream) -> None:
    headers = a_key(texts_per_minute=100, texts_per_day=130)
    url = stack.web()[1]
    early_in_a_minute(20)
    lines = {**headers, "Content-Type": "application/x-ndjson"}

    def upload(count: int) -> requests.Response:
        body = b'{"text": "a"}\n' * count
        return requests.post(f"{url}/api/v1/external/q/embed", data=body, headers=lines, timeout=30)

    assert embed(url, headers, texts=40).status_code == 200
    assert embed(url, headers, model="q", texts=30).status_code == 202
    assert upload(31).status_code == 429  # 101
    assert upload(101).status_code == 429  # never, in one request
    assert BatchJob.objects.count() == 1
    assert upload(30).status_code == 202
    assert embed(url, headers).status_code == 429
    openai = requests.post(f"{url}/v1/embeddings", json={"model": "m", "input": "a"}, headers=headers, timeout=30)
    assert (openai.status_code, openai.json()["error"]["code"]) == (429, "rate_limited")


def test_another_model_is_refused_whether_there_is_one_or_not(stack: Stack, upstream: Upstream) -> None:
    headers = a_key(models=["m"])
    url = stack.web()[1]
    assert embed(url, headers).status_code == 200
    for model in ("q", "nobody"):
        answer = embed(url, headers, model=model)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_permitted")
    listed = requests.get(f"{url}/v1/models", headers=headers, timeout=30).json()["data"]
    assert [model["id"] for model in listed] == ["m"]


def test_a_revoked_key_is_worthless_in_every_process_within_a_second(stack: Stack, upstream: Upstream) -> None:
    headers = a_key(requests_per_minute=600)
    urls = [stack.web()[1] for _ in range(2)]
    assert [embed(url, headers).status_code for url in urls] == [200, 200]
    operations.revoke_keys([ApiKey.objects.get().pk], actor="ann")
    wait_until(lambda: {embed(url, headers).status_code for url in urls} == {401}, 1.0, every=0.02)


def test_without_redis_each_process_allows_its_share(stack: Stack, upstream: Upstream) -> None:
    headers = a_key(requests_per_minute=20)
    host, _, path = stack.redis_url.rpartition(":")
    port, _, number = path.partition("/")
    with Gate(int(port)) as gate:
        away = f"{host}:{gate.port}/{number}"
        urls = [stack.web(REDIS_URL=away, REDIS_TIMEOUT="0.5")[1] for _ in range(2)]
        early_in_a_minute(30)
        # The first hears of the second with its second call.
        assert [embed(url, headers).status_code for url in (*urls, urls[0])] == [200, 200, 200]
        gate.shut()
        assert hammer(urls[:1], headers, calls=30) == {200: 8, 429: 22}  # its half, with the two from before
        gate.open()
        # What it used alone is told to the others: 9 are left of 20.
        wait_until(lambda: _given(stack) >= 11, 10)
        assert hammer(urls[1:], headers, calls=20) == {200: 9, 429: 11}


def _given(stack: Stack) -> int:
    return max(int(stack.redis.get(name) or 0) for name in stack.redis.keys("citadel:limits:*:requests:*"))
