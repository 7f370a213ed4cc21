"""Redis or PostgreSQL gone under a running web process: what goes on, what is refused, and that nothing is feigned."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests

from batches.models import BatchChunk, BatchJob
from integrations import operations, snapshot
from integrations.models import CallRecord
from tests.load import Load
from tests.made_api import serve
from tests.processes import Stack, wait_until
from tests.tcp_gate import Gate
from tests.upstreams import Upstream

SCOPES = {"CITADEL_ANONYMOUS_SCOPES": "embed,batch,read,operate"}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@contextlib.contextmanager
def gated(url: str) -> Iterator[tuple[Gate, str]]:
    """A gate before the server of `url`, and the URL through it."""
    parts = urlsplit(url)
    with Gate(parts.port or 0, host=parts.hostname or "") as gate:
        yield gate, url.replace(f":{parts.port}/", f":{gate.port}/")


def embed(url: str, *, key: str = "") -> str:
    """The code of one live call, "ok" for an answer."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"text": "a", "urgent": True}
    answer = requests.post(f"{url}/api/v1/external/m/embed", json=body, headers=headers, timeout=20)
    return "ok" if answer.ok else str(answer.json()["code"])


def test_without_postgresql_keys_hold_and_records_wait_up_to_their_bound_and_what_is_over_it_is_counted(
    stack: Stack, upstream: Upstream
) -> None:
    serve("m", "real_time", upstream)
    key = operations.create_key("team", ["embed"], actor="ada")
    snapshot.bump()
    bound, calls = 50, 80
    with gated(stack.database_url) as (gate, through):
        _, url = stack.web(DATABASE_URL=through, RECORD_BUFFER_SIZE=str(bound), CITADEL_ANONYMOUS_SCOPES="read")
        wait_until(lambda: embed(url, key=key) == "ok", 10)
        wait_until(lambda: CallRecord.objects.count() == 1, 10)
        gate.shut()

        with ThreadPoolExecutor(8) as pool:
            answered = list(pool.map(lambda _: embed(url, key=key), range(calls)))
        strangers = {embed(url, key="ck_nobody"), embed(url)}

        assert set(answered) == {"ok"}
        assert strangers == {"not_authenticated"}
        gate.open()
        # A refused stranger leaves no record: what is missing is what the bound cut off, and it is counted.
        wait_until(lambda: CallRecord.objects.count() == 1 + bound, 30)
        status = f"{url}/api/v1/external/patterns/status"
        wait_until(lambda: requests.get(status, timeout=20).json()["records_dropped"] == calls - bound, 30)


def test_no_202_is_false_however_often_postgresql_goes_away(stack: Stack, upstream: Upstream) -> None:
    serve("m", "bulk_only", upstream)
    texts = [f"text {number}" for number in range(20)]
    accepted, refused = list[str](), Counter[str]()

    def submit(_: int) -> None:
        answer = requests.post(f"{url}/api/v1/external/m/embed", json={"texts": texts}, timeout=60)
        if answer.status_code == 202:
            accepted.append(answer.json()["batch_id"])
        else:
            refused[answer.json()["code"]] += 1
            assert int(answer.headers.get("Retry-After", 0)) >= 1, answer.text

    with gated(stack.database_url) as (gate, through), ThreadPoolExecutor(4) as pool:
        _, url = stack.web(DATABASE_URL=through, **SCOPES)
        for _ in range(4):
            running = [pool.submit(submit, number) for number in range(20)]
            before = len(accepted)
            wait_until(lambda before=before: len(accepted) > before + 4, 20)  # type: ignore[misc]
            gate.shut()
            for future in running:
                future.result(60)
            pool.submit(submit, 0).result(60)
            gate.open()
        stored = set(BatchJob.objects.values_list("batch_id", flat=True))
        assert set(accepted) <= stored
        assert set(refused) == {"queue_unavailable"}
        # Whole or not at all: a batch without its chunks would never end.
        assert BatchChunk.objects.count() == len(stored)


def test_without_redis_a_process_counts_by_itself_and_tells_the_others_when_it_is_back(
    stack: Stack, upstream: Upstream
) -> None:
    serve("m", "real_time", upstream, breaker_threshold=3, breaker_reset_timeout=60.0)
    status = "api/v1/external/patterns/status"
    with gated(stack.redis_url) as (gate, through):
        _, cut_off = stack.web(REDIS_URL=through, **SCOPES)
        _, other = stack.web(**SCOPES)
        assert (embed(cut_off), embed(other)) == ("ok", "ok")
        gate.shut()
        upstream.status(500)

        assert [embed(cut_off) for _ in range(4)] == ["upstream_failed"] * 3 + ["circuit_open"]

        upstream.clear()
        assert embed(other) == "ok"
        assert "redis" in requests.get(f"{cut_off}/{status}", timeout=20).json()["degraded"]
        stack.redis.flushdb()  # Redis comes back empty
        gate.open()
        wait_until(lambda: embed(other) == "circuit_open", 20)
        wait_until(lambda: requests.get(f"{cut_off}/{status}", timeout=20).json()["degraded"] == [], 20)


def test_live_traffic_notices_neither_redis_nor_postgresql_coming_and_going(stack: Stack, upstream: Upstream) -> None:
    serve("m", "real_time", upstream)
    with gated(stack.database_url) as (database, pg), gated(stack.redis_url) as (cache, redis_url):
        _, url = stack.web(DATABASE_URL=pg, REDIS_URL=redis_url, **SCOPES)
        with Load(f"{url}/api/v1/external/m/embed", clients=4) as load:
            for gate in (database, cache, database):
                load.wait_for(40)
                gate.shut()
                stack.redis.flushdb()
                load.wait_for(40)
                gate.open()
            load.wait_for(40)
    assert set(load.outcomes) == {"ok"}
