"""One worker's engine against real model servers that fail on command."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
from django.db import connection
from pytest_django import Settings

from batches import claiming, heartbeats, lifecycle, processing, releasing, submission
from batches.models import BatchChunk, BatchJob
from batches.processing import Engine
from integrations import loop, recorder, snapshot
from integrations.models import CallRecord, Endpoint, ModelConfig
from tests.made_batches import a_submission
from tests.postgres_proxy import PostgresProxy, connections_through
from tests.processes import Stack, serve_model, wait_until
from tests.upstreams import Upstream, vector_of

pytestmark = pytest.mark.usefixtures("stack")


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def engine(stack: Stack, settings: Settings) -> Iterator[Engine]:
    """A worker's engine without the worker: tests give it the slices."""
    settings.CHUNK_BACKOFF, settings.CHUNK_BACKOFF_MAX = 0.02, 0.05
    started = Engine("test-engine")
    started.start()
    yield started
    started.shutdown(0.2)
    loop.stop()


def submit(texts: list[str], *, slug: str = "m", batch_size: int = 100, input_type: str = "") -> str:
    call = a_submission(texts, slug=slug, batch_size=batch_size, input_type=input_type)
    batch_id = submission.submit(call).batch_id
    releasing.release_batch(batch_id)
    return batch_id


def job_of(batch_id: str) -> BatchJob:
    return BatchJob.objects.get(batch_id=batch_id)


def postponed_by(job: BatchJob) -> float:
    """Seconds from its start until it may go on."""
    assert job.started_at is not None
    return (job.available_at - job.started_at).total_seconds()


def chunk_of(batch_id: str) -> BatchChunk:
    return BatchChunk.objects.get(batch__batch_id=batch_id)


def work(engine: Engine, batch_id: str) -> None:
    """One slice, and what it has begun."""
    begin(engine, batch_id)
    assert engine.drain(20)


def begin(engine: Engine, batch_id: str) -> None:
    """One slice; its calls may be under way afterwards."""
    if target := claiming.find(batch_id):
        engine.work(target)


def work_to_the_end(engine: Engine, batch_id: str, *, seconds: float = 20) -> BatchJob:
    def ended() -> bool:
        work(engine, batch_id)
        return job_of(batch_id).state not in BatchJob.ACTIVE

    wait_until(ended, seconds)
    return job_of(batch_id)


def outcomes(batch_id: str, upstream: Upstream) -> dict[str, str]:
    """For each text: "right" when exactly its own vector is stored, or the code of its error."""
    found = {}
    for chunk in BatchChunk.objects.filter(batch__batch_id=batch_id):
        rows = np.frombuffer(bytes(chunk.vectors or b""), dtype="<f4").reshape(chunk.size, -1)
        for position, text in enumerate(chunk.texts):
            if error := chunk.errors.get(str(position)):
                assert not rows.size or not rows[position].any()
                found[text] = error["code"]
            else:
                right = vector_of(text, upstream.dimensions)
                found[text] = "right" if (rows[position] == right).all() else "wrong"
    return found


def test_of_500_texts_only_the_one_that_the_server_refuses_fails(engine: Engine, upstream: Upstream) -> None:
    texts = [f"text {n}" for n in range(500)]
    upstream.poison("text 321")
    serve_model(upstream)
    batch_id = submit(texts)
    job = work_to_the_end(engine, batch_id)
    assert (job.state, job.completed, job.failed) == ("completed", 499, 1)
    assert outcomes(batch_id, upstream) == {t: "text_rejected" if t == "text 321" else "right" for t in texts}
    assert upstream.calls < 5 + 2 * 7 + 1


def test_a_call_that_is_too_large_for_the_server_is_divided_until_only_what_is_too_large_by_itself_fails(
    engine: Engine, upstream: Upstream
) -> None:
    upstream.max_body = 2_000
    serve_model(upstream)
    fine = [f"text {n} " + "x" * 400 for n in range(20)]
    batch_id = submit(fine)
    job = work_to_the_end(engine, batch_id)
    assert (job.state, job.completed, job.failed) == ("completed", 20, 0)
    assert set(outcomes(batch_id, upstream).values()) == {"right"}
    assert chunk_of(batch_id).attempts == 0
    assert upstream.calls > upstream.answered > 1

    huge = "y" * 3_000
    batch_id = submit([*fine, huge])
    job = work_to_the_end(engine, batch_id)
    assert (job.state, job.completed, job.failed) == ("completed", 20, 1)
    assert outcomes(batch_id, upstream) == {t: "text_rejected" if t == huge else "right" for t in [*fine, huge]}
    assert chunk_of(batch_id).errors["20"]["detail"] == "The model server takes no request of this size (HTTP 413)."
    assert upstream.embedded[huge] == 0


def test_a_text_that_crashes_the_server_does_not_take_its_neighbours_along(
    engine: Engine, upstream: Upstream, settings: Settings
) -> None:
    settings.CHUNK_MAX_ATTEMPTS = 3
    texts = [f"text {n}" for n in range(100)]
    upstream.crash_on("text 42")
    serve_model(upstream)
    batch_id = submit(texts)
    job = work_to_the_end(engine, batch_id)
    assert (job.state, job.completed, job.failed) == ("completed", 99, 1)
    assert outcomes(batch_id, upstream) == {t: "upstream_failed" if t == "text 42" else "right" for t in texts}


def test_a_text_that_crashes_the_server_is_found_although_the_breaker_opens_on_the_way(
    engine: Engine, upstream: Upstream, settings: Settings
) -> None:
    settings.CHUNK_MAX_ATTEMPTS = 2
    upstream.crash_on("text 3")
    upstream.crash_on("text 6")
    serve_model(upstream, fields={"breaker_threshold": 2, "breaker_reset_timeout": 0.1})
    texts = [f"text {n}" for n in range(8)]
    batch_id = submit(texts)
    job = work_to_the_end(engine, batch_id, seconds=60)
    assert (job.completed, job.failed) == (6, 2)
    assert outcomes(batch_id, upstream) == {
        t: "upstream_failed" if t in ("text 3", "text 6") else "right" for t in texts
    }


def test_a_single_text_that_always_fails_ends_with_its_error_after_the_last_attempt(
    engine: Engine, upstream: Upstream, settings: Settings
) -> None:
    settings.CHUNK_MAX_ATTEMPTS = 3
    upstream.status(500)
    serve_model(upstream)
    batch_id = submit(["a"])
    job = work_to_the_end(engine, batch_id)
    assert (job.state, job.completed, job.failed) == ("failed", 0, 1)
    assert outcomes(batch_id, upstream) == {"a": "upstream_failed"}
    assert upstream.calls == 3


def test_work_waits_for_a_server_that_is_down_and_goes_on_when_it_is_up(engine: Engine, upstream: Upstream) -> None:
    serve_model(upstream, fields={"breaker_threshold": 2, "breaker_reset_timeout": 0.2})
    texts = [f"text {n}" for n in range(40)]
    upstream.refuse()
    batch_id = submit(texts, batch_size=10)
    for _ in range(4):
        work(engine, batch_id)
        time.sleep(0.05)
    job = job_of(batch_id)
    assert (job.state, job.completed, job.failed) == ("processing", 0, 0)
    assert postponed_by(job) > 0  # the breaker opened: the whole batch is postponed
    upstream.listen()
    assert work_to_the_end(engine, batch_id).completed == 40
    assert set(outcomes(batch_id, upstream).values()) == {"right"}


def test_an_answer_of_429_postpones_the_batch_and_burns_no_attempt(engine: Engine, upstream: Upstream) -> None:
    serve_model(upstream)
    upstream.status(429, headers={"Retry-After": "30"}, times=1)
    batch_id = submit(["a"])
    work(engine, batch_id)
    chunk, job = chunk_of(batch_id), job_of(batch_id)
    assert (chunk.state, chunk.attempts, chunk.lease_token) == ("waiting", 0, None)
    assert 29 < postponed_by(job) < 40
    work(engine, batch_id)
    assert upstream.calls == 1


def test_a_breaker_that_an_operator_opened_postpones_and_burns_no_attempt(engine: Engine, upstream: Upstream) -> None:
    serve_model(upstream)
    Endpoint.objects.update(forced_open=True, forced_reason="moving")
    snapshot.bump()
    batch_id = submit(["a"])
    work(engine, batch_id)
    assert chunk_of(batch_id).attempts == 0
    assert job_of(batch_id).available_at > job_of(batch_id).queued_at
    assert upstream.calls == 0


@pytest.mark.parametrize("change", [{"draining": True}, {"enabled": False}])
def test_nothing_is_claimed_for_a_model_that_is_drained_or_disabled(
    engine: Engine, upstream: Upstream, change: dict[str, bool]
) -> None:
    serve_model(upstream)
    batch_id = submit(["a"])
    ModelConfig.objects.update(**change)
    snapshot.bump()
    work(engine, batch_id)
    assert chunk_of(batch_id).state == "waiting"
    ModelConfig.objects.update(draining=False, enabled=True)
    snapshot.bump()
    assert work_to_the_end(engine, batch_id).state == "completed"


@pytest.mark.parametrize("failure", ["truncated", "wrong_count", "nan", "html", "reset", "short"])
def test_a_wrong_answer_is_asked_for_again_and_never_stored(engine: Engine, upstream: Upstream, failure: str) -> None:
    serve_model(upstream)
    upstream.fail(failure, times=2)
    batch_id = submit(["a", "b", "c"])
    job = work_to_the_end(engine, batch_id)
    assert (job.completed, job.failed) == (3, 0)
    assert set(outcomes(batch_id, upstream).values()) == {"right"}
    assert chunk_of(batch_id).attempts == 2


def test_small_batches_share_one_call_and_each_gets_its_own_vectors(engine: Engine, upstream: Upstream) -> None:
    serve_model(upstream, fields={"batch_size": 100})
    ids = [submit([f"{n}: one", f"{n}: two"]) for n in range(20)]
    begin(engine, ids[0])
    assert engine.drain(10)
    assert upstream.calls == 1
    for batch_id in ids:
        assert job_of(batch_id).state == "completed"
        assert set(outcomes(batch_id, upstream).values()) == {"right"}


def test_a_refused_text_fails_only_its_own_batch_of_those_that_shared_its_call(
    engine: Engine, upstream: Upstream
) -> None:
    serve_model(upstream)
    upstream.poison("bad")
    good, bad = submit(["good"]), submit(["bad"])
    work(engine, good)
    assert (job_of(good).state, job_of(bad).state) == ("completed", "failed")


def test_a_shared_call_that_fails_is_made_again_apart(engine: Engine, upstream: Upstream, settings: Settings) -> None:
    settings.CHUNK_MAX_ATTEMPTS = 3
    serve_model(upstream)
    upstream.crash_on("bad")
    good, bad = submit(["good"]), submit(["bad"])
    work_to_the_end(engine, bad)
    assert work_to_the_end(engine, good).state == "completed"
    assert upstream.texts["good"] == 2


def test_cancelling_in_the_middle_keeps_what_is_stored_and_discards_what_comes_late(
    engine: Engine, upstream: Upstream
) -> None:
    serve_model(upstream)
    batch_id = submit([f"text {n}" for n in range(20)], batch_size=5)
    upstream.slow(0.4, times=3)  # one of the four calls in flight comes back before the others
    begin(engine, batch_id)
    wait_until(lambda: job_of(batch_id).completed == 5, 10)
    lifecycle.cancel(batch_id)
    assert engine.drain(10)
    job = job_of(batch_id)
    assert (job.state, job.completed, job.failed) == ("cancelled", 5, 0)
    states = sorted(BatchChunk.objects.values_list("state", flat=True))
    assert states == ["done", "dropped", "dropped", "dropped"]
    work(engine, batch_id)
    assert upstream.calls == 4


def test_a_retry_asks_only_for_the_texts_that_failed(engine: Engine, upstream: Upstream) -> None:
    serve_model(upstream)
    upstream.poison("c")
    batch_id = submit(["a", "b", "c", "d"])
    assert work_to_the_end(engine, batch_id).failed == 1
    upstream.clear()
    upstream.reset_counters()
    lifecycle.retry(batch_id)
    job = work_to_the_end(engine, batch_id)
    assert (job.state, job.completed, job.failed) == ("completed", 4, 0)
    assert dict(upstream.texts) == {"c": 1}
    assert set(outcomes(batch_id, upstream).values()) == {"right"}


def test_an_unexpected_error_ends_in_an_error_of_ours_and_loses_no_chunk(
    engine: Engine, upstream: Upstream, settings: Settings
) -> None:
    settings.CHUNK_MAX_ATTEMPTS = 2
    serve_model(upstream)
    Endpoint.objects.update(protocol="gone")  # no such protocol: nothing in the gateway expects it
    snapshot.bump()
    batch_id = submit(["a", "b"])
    job = work_to_the_end(engine, batch_id)
    assert (job.state, job.failed) == ("failed", 2)
    assert set(outcomes(batch_id, upstream).values()) == {"internal_error"}


def test_each_upstream_call_is_recorded_with_its_batch(engine: Engine, upstream: Upstream) -> None:
    serve_model(upstream)
    batch_id = submit(["a", "b"], input_type="passage")
    work_to_the_end(engine, batch_id)
    assert recorder.flush()
    record = CallRecord.objects.get(mode="bulk")
    assert (record.batch_id, record.model, record.pattern, record.client) == (batch_id, "m", "bulk_only", "team-a")
    assert (record.code, record.texts, record.request_id, record.endpoint) == ("ok", 2, "req-1", upstream.url)


def test_the_prefix_of_the_input_type_goes_before_each_text(engine: Engine, upstream: Upstream) -> None:
    serve_model(upstream)
    ModelConfig.objects.update(passage_prefix="passage: ")
    snapshot.bump()
    work_to_the_end(engine, submit(["a"], input_type="passage"))
    assert dict(upstream.texts) == {"passage: a": 1}


def test_a_worker_makes_no_more_calls_at_once_than_it_may(
    engine: Engine, upstream: Upstream, settings: Settings
) -> None:
    settings.BULK_CALLS_IN_FLIGHT = 3
    serve_model(upstream)
    upstream.hang()
    begin(engine, submit([f"text {n}" for n in range(30)], batch_size=2))
    upstream.wait_in_flight(3)
    assert upstream.peak == 3
    assert BatchChunk.objects.filter(state="claimed").count() == 3 + 2  # two are claimed ahead, and wait for a place


def test_the_leases_of_slow_calls_are_renewed(engine: Engine, upstream: Upstream, settings: Settings) -> None:
    serve_model(upstream)
    upstream.hang()
    batch_id = submit(["a"])
    begin(engine, batch_id)
    before = chunk_of(batch_id).lease_until
    time.sleep(0.05)
    engine.pulse.beat_now()
    chunk = chunk_of(batch_id)
    assert before is not None
    assert chunk.lease_until is not None
    assert chunk.lease_until > before
    assert chunk.lease_owner == "test-engine"
    assert heartbeats.workers_alive() == 1


def test_a_result_is_stored_although_postgresql_goes_away_while_it_is(engine: Engine, upstream: Upstream) -> None:
    serve_model(upstream)
    batch_id = submit(["a", "b"])
    with PostgresProxy(connection.settings_dict) as proxy, connections_through(proxy):
        proxy.swallow_answer_to(b"JOIN batches_arriving")  # the storing thread connects only now
        work(engine, batch_id)
        assert proxy.swallowed == 1
        assert job_of(batch_id).completed == 2
        assert set(outcomes(batch_id, upstream).values()) == {"right"}
        assert dict(upstream.texts) == {"a": 1, "b": 1}
        engine.shutdown(1)
        recorder.stop()


def test_a_result_that_postgresql_refuses_keeps_the_engine_from_nothing_else(
    engine: Engine, upstream: Upstream, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.CHUNK_MAX_ATTEMPTS = 1
    serve_model(upstream)
    broken = submit(["a"])
    BatchJob.objects.filter(batch_id=broken).update(total=0)  # its counts can no longer fit
    work(engine, broken)
    assert "result not stored" in [record.message for record in caplog.records]
    assert chunk_of(broken).state == "claimed"  # until its lease runs out
    assert work_to_the_end(engine, submit(["b"])).state == "completed"


def test_without_an_engine_a_job_says_how_to_start_workers() -> None:
    processing.install(None)
    with pytest.raises(RuntimeError, match=r"manage\.py worker"):
        processing.current()
