"""GET patterns/metrics and /metrics, over real rollups."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from django.conf import LazySettings, settings
from django.db import connection
from django.test.utils import CaptureQueriesContext
from prometheus_client.parser import text_string_to_metric_families

from integrations import operations, snapshot
from integrations.models import Endpoint
from integrations.patterns import Attempt
from integrations.record_writer import Writer
from tests.fixtures_records import PHI3, REPLICA, a_call
from tests.made_api import Api, problem, serve
from tests.made_batches import a_batch
from tests.postgres_proxy import unreachable_database

pytestmark = pytest.mark.usefixtures("redis_db")

PATH = "/api/v1/external/patterns/metrics"
EMPTY_MODE = {
    "requests": 0,
    "errors": {},
    "success_rate": None,
    "mean_ms": None,
    "p50_ms": None,
    "p95_ms": None,
    "p99_ms": None,
    "retries": 0,
    "failovers": 0,
    "texts": 0,
}


@pytest.fixture
def api(settings: LazySettings, db: None) -> Api:
    settings.WHITENOISE_AUTOREFRESH = True  # no reading of every static file
    serve("phi3", "real_time", PHI3, REPLICA)
    serve("hermes", "hybrid", "http://127.0.0.1:11401")
    serve("mixtral", "bulk_only", "http://127.0.0.1:11400")
    return Api("read")


def write(count: int = 1, **fields: Any) -> None:
    Writer().write([a_call(**fields)] * count, dropped=0)


def metrics(api: Api, query: str = "") -> dict[str, Any]:
    answer = api.http.get(PATH + query)
    assert answer.status_code == 200, answer.content
    windows: dict[str, Any] = orjson.loads(answer.content)["windows"]
    return windows


def scraped(api: Api) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by name and labels, read by Prometheus's own parser."""
    answer = api.http.get("/metrics", headers={"Accept": "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"})
    assert answer.status_code == 200, answer.content
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = text_string_to_metric_families(answer.content.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def sample(found: Mapping[Any, float], name: str, **labels: str) -> float:
    return found[f"citadel_{name}", frozenset(labels.items())]


# --- patterns/metrics ------------------------------------------------------------------------------------------------


def test_figures_come_by_pattern_model_and_endpoint_in_three_windows(api: Api) -> None:
    moved = (
        Attempt(endpoint=PHI3, outcome="upstream_timeout", ms=100.0),
        Attempt(endpoint=REPLICA, outcome="ok", ms=20.0),
    )
    write(8, duration_ms=10.0, texts=2)
    write(1, duration_ms=120.0, texts=3, endpoint=REPLICA, failover_from=PHI3, attempts=moved, failovers=1, retries=2)
    write(1, duration_ms=50.0, code="upstream_failed")
    write(started_at=datetime.now(UTC) - timedelta(minutes=40))
    write(started_at=datetime.now(UTC) - timedelta(hours=20))

    found = metrics(api)

    assert [(name, w["seconds"]) for name, w in found.items()] == [("5m", 300), ("1h", 3600), ("24h", 86_400)]
    assert [w["models"]["phi3"]["requests"] for w in found.values()] == [10, 11, 12]
    phi3 = found["5m"]["models"]["phi3"]
    live = phi3.pop("modes").pop("live")
    assert phi3 == live | {"latency_of": "live", "batches": 0}
    assert found["5m"]["patterns"]["real_time"]["modes"]["live"] == live
    assert {k: v for k, v in live.items() if k not in ("p50_ms", "p95_ms", "p99_ms")} == {
        "requests": 10,
        "errors": {"upstream_failed": 1},
        "success_rate": 90.0,
        "mean_ms": 25.0,
        "retries": 2,
        "failovers": 1,
        "texts": 19,
    }
    assert [live[q] for q in ("p50_ms", "p95_ms", "p99_ms")] == pytest.approx([10, 120, 120], rel=0.13)
    first, replica = [e for e in found["5m"]["endpoints"] if e["model"] == "phi3"]
    assert (first["endpoint"], first["requests"], first["texts"]) == (PHI3, 10, 16)
    assert first["errors"] == {"upstream_failed": 1, "upstream_timeout": 1}
    assert first["success_rate"] == 80.0
    assert (replica["endpoint"], replica["requests"], replica["texts"]) == (REPLICA, 1, 3)
    assert (replica["mean_ms"], replica["failovers"], replica["retries"]) == (20.0, 1, 2)


def test_a_pattern_that_only_queues_has_the_latencies_of_its_calls_to_servers_and_counts_texts_once(api: Api) -> None:
    queue = {"model": "mixtral", "pattern": "bulk_only"}
    write(3, mode="queued", duration_ms=4.0, texts=100, endpoint="", **queue)
    write(1, mode="queued", duration_ms=4.0, texts=100, endpoint="", code="queue_full", **queue)
    write(5, mode="bulk", duration_ms=700.0, texts=60, endpoint="http://127.0.0.1:11400", retries=1, **queue)
    bulk_only = metrics(api, "?window=5m")["5m"]["patterns"]["bulk_only"]
    assert (bulk_only["requests"], bulk_only["batches"], bulk_only["texts"]) == (4, 3, 300)
    assert (bulk_only["success_rate"], bulk_only["errors"]) == (75.0, {"queue_full": 1})
    assert (bulk_only["mean_ms"], bulk_only["latency_of"], bulk_only["retries"]) == (700.0, "bulk", 5)
    assert (bulk_only["modes"]["queued"]["mean_ms"], bulk_only["modes"]["bulk"]["texts"]) == (4.0, 300)


def test_what_is_configured_is_listed_without_a_call_and_what_was_called_without_a_configuration(api: Api) -> None:
    write(model="gone", endpoint="http://127.0.0.1:11999")
    found = metrics(api)["1h"]
    assert list(found["models"]) == ["phi3", "hermes", "mixtral", "gone"]
    assert list(found["patterns"]) == ["real_time", "hybrid", "bulk_only"]
    assert found["models"]["hermes"]["modes"] == {"live": EMPTY_MODE, "queued": EMPTY_MODE, "bulk": EMPTY_MODE}
    assert [e["model"] for e in found["endpoints"]] == ["phi3", "phi3", "hermes", "mixtral", "gone"]


def test_three_queries_answer_one_window(api: Api) -> None:
    write(model="m1")
    with CaptureQueriesContext(connection) as queries:
        found = metrics(api, "?window=2h")
    assert list(found) == ["2h"]
    # Whether a mark is near, whether anything was before it, and the figures.
    assert len([q for q in queries if "configversion" not in q["sql"]]) == 3


def test_a_wrong_window_and_a_key_without_the_scope_are_refused(api: Api) -> None:
    assert problem(api.http.get(f"{PATH}?window=1d"))["code"] == "invalid_request"
    assert problem(Api("embed").http.get(PATH))["code"] == "not_permitted"
    assert problem(Api("embed").http.get("/metrics"))["code"] == "not_permitted"
    assert problem(Api().http.get("/metrics"))["code"] == "not_authenticated"


# --- /metrics --------------------------------------------------------------------------------------------------------


def test_prometheus_reads_counters_and_histograms_since_ever(api: Api) -> None:
    write(2, duration_ms=10.0, texts=3, retries=1, started_at=datetime.now(UTC) - timedelta(days=400))
    write(1, duration_ms=26.0, failovers=1)
    write(1, duration_ms=9_000_000.0, code="upstream_timeout")
    Writer().write([], dropped=4)

    found = scraped(api)

    mode = {"model": "phi3", "pattern": "real_time", "mode": "live"}
    assert sample(found, "calls_total", code="ok", **mode) == 3
    assert sample(found, "calls_total", code="upstream_timeout", **mode) == 1
    assert sample(found, "call_texts_total", code="ok", **mode) == 7
    assert sample(found, "call_retries_total", **mode) == 2
    assert sample(found, "call_failovers_total", **mode) == 1
    buckets = {le: sample(found, "call_duration_seconds_bucket", le=le, **mode) for le in ("0.005", "0.01", "0.025")}
    assert buckets == {"0.005": 0, "0.01": 2, "0.025": 2}
    assert sample(found, "call_duration_seconds_bucket", le="0.05", **mode) == 3
    assert sample(found, "call_duration_seconds_bucket", le="100.0", **mode) == 3
    assert sample(found, "call_duration_seconds_bucket", le="+Inf", **mode) == 4
    assert sample(found, "call_duration_seconds_count", **mode) == 4
    assert sample(found, "call_duration_seconds_sum", **mode) == pytest.approx(9000.046)
    assert sample(found, "attempts_total", model="phi3", endpoint=PHI3, code="ok") == 3
    assert sample(found, "attempt_duration_seconds_count", model="phi3", endpoint=PHI3) == 4
    assert sample(found, "records_dropped_total") == 4


def test_prometheus_reads_breakers_the_queue_and_what_answers(api: Api) -> None:
    operations.trip_breaker([Endpoint.objects.get(url=PHI3).pk], actor="olga", reason="new cable")
    snapshot.load()
    a_batch("mixtral")
    a_batch("mixtral", state="processing")
    a_batch("mixtral")
    found = scraped(api)
    of_phi3 = {"model": "phi3", "endpoint": PHI3}
    states = {"closed": 0, "half_open": 0, "open": 0, "forced_open": 1}
    assert {state: sample(found, "breaker_state", state=state, **of_phi3) for state in states} == states
    assert sample(found, "breaker_state", model="phi3", endpoint=REPLICA, state="closed") == 1
    assert sample(found, "breaker_failures", **of_phi3) == 0
    assert sample(found, "queue_batches", model="mixtral", state="queued") == 2
    assert sample(found, "queue_batches", model="mixtral", state="processing") == 1
    assert (sample(found, "up", part="database"), sample(found, "up", part="redis")) == (1, 1)
    assert sample(found, "config_version") == snapshot.current().version


@pytest.fixture
def watched(transactional_db: None, api: Api) -> Iterator[Api]:
    snapshot.start_watcher()
    yield api
    snapshot.stop_watcher()


def test_without_postgresql_prometheus_still_reads_breakers_and_the_figures_say_to_come_back(watched: Api) -> None:
    write()
    with unreachable_database():
        found = scraped(watched)
        body = problem(watched.http.get(PATH))
    assert sample(found, "up", part="database") == 0
    assert sample(found, "breaker_state", model="phi3", endpoint=PHI3, state="closed") == 1
    assert not [name for name, _ in found if name.startswith("citadel_calls_total")]
    assert (body["status"], body["code"]) == (503, "unavailable")


def test_without_redis_prometheus_reads_that_it_is_missing(api: Api, settings: LazySettings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert sample(scraped(api), "up", part="redis") == 0


# --- docs/metrics.md -------------------------------------------------------------------------------------------------


def names_in(document: Any) -> set[str]:
    """The fields of a document and of what is in it; keys that are data (models, codes, windows) are values here."""
    if isinstance(document, list):
        return set().union(*map(names_in, document))
    if not isinstance(document, dict):
        return set()
    return document.keys() | set().union(*map(names_in, document.values()))


def test_every_field_and_every_metric_is_documented(api: Api) -> None:
    write(mode="queued", pattern="hybrid", model="hermes")
    Writer().write([], dropped=1)
    documented = set(re.findall(r"\w+", (settings.BASE_DIR / "docs" / "metrics.md").read_text()))
    families = text_string_to_metric_families(api.http.get("/metrics").content.decode())
    counted = {f"{f.name}_total" if f.type == "counter" else f.name for f in families}
    assert len(counted) == 21
    assert counted <= documented
    documents = [orjson.loads(api.http.get(path).content) for path in (PATH, PATH.replace("metrics", "status"))]
    fields = names_in(documents) - {"phi3", "hermes", "mixtral"}
    assert {"latency_of", "opened_at", "avg_batch_processing_time_ms"} <= fields
    assert fields <= documented
