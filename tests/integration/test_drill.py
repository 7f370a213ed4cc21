"""The drill: a failure of the first endpoint tried out for real, and unnoticed by live traffic."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.conf import LazySettings

from batches.models import BatchJob
from integrations import breakers, drill, operations, snapshot
from integrations.models import CallRecord, Endpoint, ModelConfig
from tests.made_api import Api, problem, serve
from tests.upstreams import Upstream

pytestmark = pytest.mark.usefixtures("records", "redis_db")


@pytest.fixture
def first() -> Iterator[Upstream]:
    with Upstream(protocol="ollama") as server:
        yield server


@pytest.fixture
def second() -> Iterator[Upstream]:
    with Upstream(protocol="tei") as server:
        yield server


def drilled(**fields: Any) -> Any:
    answer = Api("operate", name="ops").http.post(
        "/api/v1/external/test/failover", fields, content_type="application/json"
    )
    assert answer.status_code == 200, answer.content
    return answer.json()


def names(report: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(step["step"], step["passed"]) for step in report["steps"]]


ALL_STEPS = [(s, True) for s in ("failure", "breaker_opens", "takeover", "half_open", "closed")]


def test_the_next_endpoint_takes_over_and_live_traffic_notices_nothing(
    first: Upstream, second: Upstream, redis_db: redis.Redis
) -> None:
    serve("phi3", "real_time", first, second)

    report = drilled(model="phi3", simulate_failure=True)

    assert (report["passed"], report["failover"], names(report)) == (True, "endpoint", ALL_STEPS)
    assert second.url in report["steps"][2]["detail"]
    assert (second.calls, second.texts[drill.TEXT]) == (1, 1)
    assert (first.calls, first.texts[drill.TEXT]) == (1, 1)  # the trial that closes the breaker
    assert report["request_id"]
    for endpoint in snapshot.current().models["phi3"].endpoints:
        assert breakers.state_of(endpoint).status == "closed"
        assert breakers.state_of(endpoint).failure_count == 0
    assert not CallRecord.objects.exists()
    assert not list(redis_db.scan_iter("*drill*"))


def test_the_breaker_opens_at_the_models_own_threshold(first: Upstream, second: Upstream) -> None:
    serve("phi3", "real_time", first, second, breaker_threshold=7)

    report = drilled(model="phi3")

    assert report["passed"]
    assert "after 7 failures" in report["steps"][1]["detail"]


@pytest.mark.parametrize("pattern", ["hybrid", "bulk_only"])
def test_where_there_is_no_other_endpoint_the_queue_takes_over(first: Upstream, pattern: str) -> None:
    serve("hermes", pattern, first)

    report = drilled(model="hermes")

    assert (report["passed"], report["failover"], names(report)) == (True, "queue", ALL_STEPS)
    job = BatchJob.objects.get()
    assert job.batch_id in report["steps"][2]["detail"]
    assert (job.state, job.client, job.total) == ("cancelled", "ops", 1)


def test_a_fallback_of_the_same_space_takes_over(first: Upstream, second: Upstream) -> None:
    serve("phi3", "real_time", first)
    serve("phi3b", "real_time", second)
    ModelConfig.objects.update(embedding_space="s")
    ModelConfig.objects.get(slug="phi3").fallbacks.set(ModelConfig.objects.filter(slug="phi3b"))
    snapshot.load()

    report = drilled(model="phi3")

    assert (report["passed"], report["failover"]) == (True, "fallback")
    assert second.calls == 1


def test_a_model_with_nothing_to_fail_over_to_is_told_so(first: Upstream) -> None:
    serve("phi3", "real_time", first)

    report = drilled(model="phi3")

    assert report["failover"] == "none_configured"
    assert names(report) == [step for step in ALL_STEPS if step[0] != "takeover"]
    assert report["passed"]


def test_a_takeover_that_does_not_work_fails_the_drill_with_its_reason(first: Upstream, second: Upstream) -> None:
    serve("phi3", "real_time", first, second)
    second.status(500)

    report = drilled(model="phi3")

    assert not report["passed"]
    assert names(report) == [("failure", True), ("breaker_opens", True), ("takeover", False)]
    assert report["steps"][-1]["detail"].startswith("upstream_failed")


def test_a_first_endpoint_that_is_really_down_fails_the_last_step(first: Upstream, second: Upstream) -> None:
    serve("phi3", "real_time", first, second)
    first.status(500)

    assert names(drilled(model="phi3"))[-2:] == [("half_open", True), ("closed", False)]


def test_a_breaker_that_an_operator_holds_open_is_left_alone(first: Upstream, second: Upstream) -> None:
    serve("phi3", "real_time", first, second)
    operations.trip_breaker([Endpoint.objects.get(url=first.url).pk], actor="ann", reason="maintenance")
    snapshot.load()

    report = drilled(model="phi3")

    assert names(report) == [("failure", False)]
    assert "maintenance" in report["steps"][0]["detail"]
    assert first.calls == 0


def test_without_a_simulated_failure_every_endpoint_is_asked_for_its_health_and_a_vector(
    first: Upstream, second: Upstream
) -> None:
    serve("phi3", "real_time", first, second)

    report = drilled(model="phi3", simulate_failure=False)

    assert (report["passed"], names(report)) == (True, [("probe", True), ("probe", True)])
    assert (first.calls, first.health_calls, second.calls, second.health_calls) == (1, 1, 1, 1)
    second.status(500)
    report = drilled(model="phi3", simulate_failure=False)
    assert (report["passed"], names(report)) == (False, [("probe", True), ("probe", False)])


def test_a_drill_works_while_redis_is_away(first: Upstream, second: Upstream, settings: LazySettings) -> None:
    serve("phi3", "real_time", first, second)
    settings.REDIS_URL = "redis://127.0.0.1:1/0"

    assert drilled(model="phi3")["passed"]


def test_a_model_without_endpoints_fails_the_drill_with_that_reason() -> None:
    serve("phi3", "real_time")

    report = drilled(model="phi3")

    assert (report["passed"], names(report)) == (False, [("endpoints", False)])


def test_a_wrong_body_is_refused_with_its_field() -> None:
    http = Api("operate").http
    for body, field in (
        (b"{", "body"),
        (b"[]", "body"),
        (b"{}", "model"),
        (b'{"model": 1}', "model"),
        (b'{"model": "phi3", "simulate_failure": "yes"}', "simulate_failure"),
        (b'{"model": "phi3", "how": "hard"}', "how"),
    ):
        answer = http.post("/api/v1/external/test/failover", body, content_type="application/json")
        assert list(problem(answer)["errors"]) == [field]


def test_only_operators_may_drill_and_only_models_that_there_are() -> None:
    path, body = "/api/v1/external/test/failover", {"model": "phi3"}

    reader = Api("embed", "batch", "read").http.post(path, body, content_type="application/json")
    operator = Api("operate").http.post(path, body, content_type="application/json")
    assert problem(reader)["code"] == "not_permitted"
    assert problem(operator)["code"] == "model_not_found"
