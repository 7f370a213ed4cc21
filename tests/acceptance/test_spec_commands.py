"""The commands that users were promised, against the whole stack, their answers compared field by field."""

import signal
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.processes import Process, Stack, wait_until
from tests.spec_shape import SPEC, differences
from tests.upstreams import Upstream

MODELS = ("phi3", "general", "openchat", "hermes", "mixtral", "yi34", "deepcoder", "imp", "deepseek")
PROTOCOLS = ("ollama", "openai", "tei")
NO_DATA = ("success_rate", "avg_response_time_ms", "avg_batch_processing_time_ms", "avg_processing_time_seconds")


class Api:
    """Citadel as somebody with curl sees it."""

    def __init__(self, url: str, worker: Process) -> None:
        self.worker = worker
        self.base = f"{url}/api/v1/external"

    def post(self, path: str, body: Any) -> Any:
        answer = requests.post(f"{self.base}/{path}", json=body, timeout=30)
        assert answer.ok, answer.text
        return answer.json()

    def get(self, path: str, **more: Any) -> Any:
        answer = requests.get(f"{self.base}/{path}", timeout=30, **more)
        assert answer.ok, answer.text
        return answer.json()


@pytest.fixture
def api(stack: Stack) -> Iterator[Api]:
    upstreams = {slug: Upstream(PROTOCOLS[i % 3]) for i, slug in enumerate(MODELS)}
    replica = Upstream("tei")
    for upstream in (*upstreams.values(), replica):
        upstream.__enter__()
    stack.common |= {f"{slug.upper()}_ENDPOINT": u.url for slug, u in upstreams.items()}
    stack.common |= {f"{slug.upper()}_PROTOCOL": u.protocol for slug, u in upstreams.items()}
    stack.common["CITADEL_ANONYMOUS_SCOPES"] = "embed,batch,read,operate"
    done = stack.manage("sync_models")
    assert done.returncode == 0, done.stderr
    stack.scheduler()
    worker = stack.worker()
    yield Api(stack.web()[1], worker)
    stack.stop()
    for upstream in (*upstreams.values(), replica):
        upstream.__exit__()


def test_every_promised_command_answers_as_promised(api: Api, stack: Stack) -> None:
    for slug in ("phi3", "general"):
        live = api.post(f"{slug}/embed", {"text": "test embedding", "urgent": True})
        assert live["model"] == slug
        assert differences(SPEC["real_time"], live, same=("pattern", "pattern_type", "urgent")) == []
    live = api.post("hermes/embed", {"text": "test embedding", "urgent": True})
    assert differences(SPEC["hybrid_live"], live, same=("model", "pattern", "processing_mode", "urgent")) == []
    queued = api.post("hermes/embed", {"text": "test embedding", "urgent": False})
    assert differences(SPEC["hybrid_queued"], queued, same=("status", "model", "pattern", "processing_mode")) == []
    bulk = api.post("mixtral/embed", {"texts": ["text1", "text2", "text3"], "batch": True})
    assert differences(SPEC["bulk"], bulk, same=("status", "model", "pattern", "items_count", "batch_size")) == []
    two = api.post("yi34/embed", {"texts": ["text1", "text2"], "batch": True})
    for accepted in (queued, bulk, two):
        batch = f"batch/{accepted['batch_id']}"
        wait_until(lambda batch=batch: api.get(batch)["status"] == "completed", 30)  # type: ignore[misc]
    status = api.get("patterns/status")
    assert differences(SPEC["patterns_status"], status, same=("models", "status"), nullable=NO_DATA) == []
    assert status["patterns"]["hybrid"]["real_time_requests"] == 1
    assert status["patterns"]["hybrid"]["bulk_requests"] == 1
    assert status["patterns"]["bulk_only"]["completed_batches"] == 2
    queue = api.get("batch/queue/status")
    assert differences(SPEC["queue_status"], queue, nullable=NO_DATA) == []
    assert queue["queue_status"]["completed_jobs"] == 3
    assert {"limits", "oldest_pending_seconds"} <= queue.keys()
    metrics = api.get("patterns/metrics")
    assert "phi3" in str(metrics)
    drill = api.post("test/failover", {"model": "phi3", "simulate_failure": True})
    assert drill["failover"] == "none_configured"
    hybrid = api.post("test/failover", {"model": "hermes", "simulate_failure": True})
    assert hybrid["passed"] is True, hybrid


def test_redis_cli_shows_the_batches_that_wait_for_a_worker(api: Api, stack: Stack) -> None:
    api.worker.signal(signal.SIGSTOP)  # busy, as far as anybody can see
    ids = {
        api.post("imp/embed", {"texts": [f"{n} {i}" for i in range(100)], "batch": True})["batch_id"] for n in range(4)
    }
    # Redis may already have handed the first to the worker, which has not looked yet.
    wait_until(lambda: len(_waiting(stack) & ids) >= 3, 30)
    assert stack.redis.llen("batch_queue") >= 3
    api.worker.signal(signal.SIGCONT)
    wait_until(lambda: _all_completed(api, ids), 60)
    wait_until(lambda: stack.redis.llen("batch_queue") == 0, 30)


def _waiting(stack: Stack) -> set[str]:
    names: Any = stack.redis.lrange("batch_queue", 0, -1)
    return {name.decode() for name in names}


def _all_completed(api: Api, ids: set[str]) -> bool:
    return all(api.get(f"batch/{batch_id}")["status"] == "completed" for batch_id in ids)
