"""GET patterns/status: the promised document, from real rollups, batches, breakers and Redis."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from django.conf import LazySettings
from django.db import connections

from batches.models import BatchJob
from integrations import breakers, gateway, gauges, operations, recorder, snapshot
from integrations.models import Endpoint, ModelConfig
from tests.fixtures_records import a_call
from tests.made_api import Api, problem, serve
from tests.made_batches import a_batch
from tests.postgres_proxy import unreachable_database
from tests.spec_shape import SPEC, differences
from tests.upstreams import Upstream

pytestmark = pytest.mark.usefixtures("records", "redis_db")

PATH = "/api/v1/external/patterns/status"
ASSIGNED = {
    "phi3": "real_time",
    "hermes": "hybrid",
    "mixtral": "bulk_only",
    "yi34": "bulk_only",
    "openchat": "real_time hybrid",
    "deepcoder": "bulk_only",
    "imp": "bulk_only",
    "deepseek": "bulk_only",
    "general": "real_time",
}


@pytest.fixture
def api(settings: LazySettings) -> Iterator[Api]:
    settings.WHITENOISE_AUTOREFRESH = True  # no reading of every static file
    for number, (slug, patterns) in enumerate(ASSIGNED.items()):
        serve(slug, patterns, f"http://127.0.0.1:{11400 + number}", f"http://127.0.0.1:{11500 + number}")
    breakers.start()
    yield Api("read")
    breakers.stop()


def status(api: Api, query: str = "") -> dict[str, Any]:
    answer = api.http.get(PATH + query)
    assert answer.status_code == 200, answer.content
    document: dict[str, Any] = orjson.loads(answer.content)
    return document


@contextmanager
def calling(api: Api, model: str) -> Iterator[None]:
    """A live call is under way."""

    def call() -> None:
        try:
            api.embed(model, text="x")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(call)
        yield
        done.result()


def record(count: int = 1, **fields: Any) -> None:
    for _ in range(count):
        recorder.record(a_call(**fields))


def ended(model: str, state: str, *, completed: int, failed: int, seconds: float) -> None:
    job = a_batch(model, total=completed + failed, age=60, state=state, completed=completed, failed=failed)
    now = datetime.now(UTC)
    BatchJob.objects.filter(pk=job.pk).update(started_at=now - timedelta(seconds=seconds), finished_at=now)


def test_it_is_the_promised_document_with_every_figure_right(api: Api) -> None:
    record(3, model="phi3", duration_ms=80.0)
    record(1, model="general", duration_ms=100.0, code="upstream_timeout")
    record(2, model="openchat", duration_ms=90.0)
    record(12, model="hermes", pattern="hybrid", duration_ms=50.0)
    record(7, model="openchat", pattern="hybrid", mode="queued", duration_ms=4.0, endpoint="")
    record(1, model="openchat", pattern="hybrid", mode="queued", code="queue_full", endpoint="")
    record(5, model="hermes", pattern="hybrid", mode="bulk", duration_ms=9000.0)
    record(9, model="mixtral", pattern="bulk_only", mode="bulk", duration_ms=7000.0, code="upstream_failed")
    assert recorder.flush()
    a_batch("mixtral")
    a_batch("yi34", state="processing")
    a_batch("hermes")  # another pattern's
    ended("mixtral", "completed", completed=90, failed=10, seconds=2)
    ended("mixtral", "failed", completed=0, failed=20, seconds=4)
    ended("imp", "completed", completed=80, failed=0, seconds=6)

    found = status(api)

    assert differences(SPEC["patterns_status"], found) == []
    assert found["patterns"] == {
        "real_time": {
            "models": ["phi3", "openchat", "general"],
            "active_requests": 0,
            "success_rate": 83.33,
            "avg_response_time_ms": 86.7,
        },
        "hybrid": {
            "models": ["hermes", "openchat"],
            "real_time_requests": 12,
            "bulk_requests": 8,
            "success_rate": 95.0,
            "avg_response_time_ms": 50.0,
        },
        "bulk_only": {
            "models": ["mixtral", "yi34", "deepcoder", "imp", "deepseek"],
            "queued_batches": 1,
            "processing_batches": 1,
            "completed_batches": 2,
            "success_rate": 85.0,
            "avg_batch_processing_time_ms": 4000.0,
        },
    }
    assert found["window_seconds"] == 300
    assert (found["records_dropped"], found["degraded"]) == (0, [])


def test_without_a_call_or_a_batch_counts_are_zero_and_rates_and_times_null(api: Api) -> None:
    nullable = ("success_rate", "avg_response_time_ms", "avg_batch_processing_time_ms")
    found = status(api)
    assert differences(SPEC["patterns_status"], found, nullable=nullable) == []
    patterns = found["patterns"]
    assert patterns["hybrid"]["success_rate"] is patterns["bulk_only"]["avg_batch_processing_time_ms"] is None
    assert (patterns["hybrid"]["bulk_requests"], patterns["bulk_only"]["queued_batches"]) == (0, 0)


def test_a_window_is_as_long_as_it_is_asked_to_be(api: Api) -> None:
    record(started_at=datetime.now(UTC) - timedelta(minutes=30), model="hermes", pattern="hybrid")
    assert recorder.flush()
    assert status(api)["patterns"]["hybrid"]["real_time_requests"] == 0
    hour = status(api, "?window=1h")
    assert (hour["window_seconds"], hour["patterns"]["hybrid"]["real_time_requests"]) == (3600, 1)


def test_a_wrong_window_is_a_problem(api: Api) -> None:
    body = problem(api.http.get(f"{PATH}?window=soon"))
    assert (body["status"], body["code"], list(body["errors"])) == (400, "invalid_request", ["window"])


def test_a_models_breaker_is_its_best_endpoints_and_each_endpoint_says_why(api: Api) -> None:
    first, second = Endpoint.objects.filter(model__slug="phi3").values_list("pk", flat=True)
    until = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    operations.trip_breaker([first], actor="olga", reason="new cable", until=until)
    snapshot.load()
    phi3 = status(api)["circuit_breakers"]["phi3"]
    assert (phi3["status"], phi3["failure_count"]) == ("closed", 0)
    tripped, healthy = phi3["endpoints"]
    assert (tripped["url"], tripped["state"]) == ("http://127.0.0.1:11400", "forced_open")
    assert (tripped["reason"], tripped["by"]) == ("new cable", "olga")
    assert tripped["until"] == until.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert (healthy["state"], healthy["by"], healthy["until"]) == ("closed", "", None)

    operations.trip_breaker([second], actor="olga", reason="the other one, too")
    snapshot.load()
    assert status(api)["circuit_breakers"]["phi3"]["status"] == "forced_open"


def test_a_model_without_endpoints_has_no_breaker_and_one_that_is_switched_off_is_not_listed(api: Api) -> None:
    Endpoint.objects.filter(model__slug="phi3").delete()
    serve("off", "real_time", "http://127.0.0.1:11999")
    ModelConfig.objects.filter(slug="off").update(enabled=False)
    snapshot.load()
    found = status(api)
    assert found["circuit_breakers"]["phi3"] == {"status": None, "failure_count": 0, "endpoints": []}
    assert "off" not in found["circuit_breakers"]
    assert "off" not in found["patterns"]["real_time"]["models"]


def test_a_live_call_is_active_while_it_is_under_way_and_its_failure_counts(api: Api) -> None:
    with Upstream(protocol="ollama") as upstream:
        serve("slow", "real_time", upstream)
        upstream.hang()
        gauges.publish(gateway.in_flight)
        caller = Api("embed", "read")
        with calling(caller, "slow"):
            upstream.wait_in_flight(1)
            assert status(api)["patterns"]["real_time"]["active_requests"] == 1
        gauges.stop()
    assert recorder.flush()
    found = status(api)
    assert found["patterns"]["real_time"]["active_requests"] == 0
    assert found["patterns"]["real_time"]["success_rate"] == 0.0
    assert found["circuit_breakers"]["slow"]["failure_count"] == 1


def test_without_redis_breakers_and_active_requests_are_this_processs_own_and_it_says_so(
    api: Api, settings: LazySettings
) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert status(api)["degraded"] == ["redis"]


def test_without_postgresql_breakers_are_still_shown_and_figures_are_null(api: Api) -> None:
    snapshot.start_watcher()
    try:
        with unreachable_database():
            found = status(api)
    finally:
        snapshot.stop_watcher()
    assert found["degraded"] == ["database"]
    assert found["patterns"]["hybrid"] == {
        "models": ["hermes", "openchat"],
        "real_time_requests": None,
        "bulk_requests": None,
        "success_rate": None,
        "avg_response_time_ms": None,
    }
    assert found["patterns"]["bulk_only"]["queued_batches"] is None
    assert found["circuit_breakers"]["phi3"]["status"] == "closed"


def test_it_needs_the_scope_read(api: Api) -> None:
    assert problem(Api("embed", "batch").http.get(PATH))["code"] == "not_permitted"
    assert problem(Api().http.get(PATH))["code"] == "not_authenticated"
