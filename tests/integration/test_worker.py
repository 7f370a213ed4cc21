"""RQ's side of a worker: jobs from the lists, back into them, and signals."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import psycopg2
import pytest
import redis
from django.db import connection
from pytest_django import Settings

from batches import clock, jobs, processing, queues, releasing, rescue, submission
from batches.models import BatchChunk, BatchJob, WorkerHeartbeat
from batches.processing import Engine
from batches.queues import Station
from integrations import loop
from tests.made_batches import a_submission
from tests.processes import Stack, serve_model, wait_until
from tests.tcp_gate import Gate
from tests.upstreams import Upstream

pytestmark = pytest.mark.usefixtures("redis_db")


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def engine(stack: Stack) -> Iterator[Engine]:
    started = Engine("test-worker")
    started.start()
    processing.install(started)
    yield started
    started.shutdown(0.2)
    processing.install(None)
    loop.stop()


@pytest.fixture
def station(engine: Engine) -> Iterator[Station]:
    """RQ's loop in this thread; the signal handlers are put back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    made = Station("test-worker", after_job=jobs.after, on_stop=engine.request_stop)
    made.install_signal_handlers()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def submit(count: int, *, batch_size: int = 100) -> str:
    call = a_submission([f"text {n}" for n in range(count)], slug="m", batch_size=batch_size)
    batch_id = submission.submit(call).batch_id
    releasing.release_batch(batch_id)
    queues.enqueue(batch_id)
    return batch_id


def state(batch_id: str) -> str:
    return BatchJob.objects.get(batch_id=batch_id).state


def names(client: "redis.Redis", key: str = "batch_queue") -> list[bytes]:
    found: list[bytes] = client.lrange(key, 0, -1)  # type: ignore[assignment]
    return found


def test_a_worker_takes_batches_from_the_list_and_leaves_nothing_of_its_jobs(
    station: Station, engine: Engine, upstream: Upstream, redis_db: "redis.Redis"
) -> None:
    serve_model(upstream)
    ids = [submit(3) for _ in range(3)]
    station.run(burst=True)
    assert engine.drain(10)
    assert {state(batch_id) for batch_id in ids} == {"completed"}
    assert names(redis_db) == []
    assert list(redis_db.scan_iter("rq:job:*")) == []
    assert WorkerHeartbeat.objects.get().batch_id == ""


def test_after_its_slice_an_unfinished_batch_stands_behind_the_others(
    engine: Engine, upstream: Upstream, settings: Settings, redis_db: "redis.Redis"
) -> None:
    settings.BULK_SLICE = 0.2
    upstream.delay = 0.05
    serve_model(upstream)
    large = submit(200, batch_size=2)
    queues.enqueue("batch_other")
    redis_db.lpop("batch_queue")
    jobs.work(large)
    assert WorkerHeartbeat.objects.get().batch_id == large
    jobs.after("batch_queue", large)
    assert names(redis_db) == [b"batch_other", large.encode()]
    assert WorkerHeartbeat.objects.get().batch_id == ""
    assert 0 < BatchChunk.objects.filter(state="waiting").count() < 100


def test_a_helper_does_not_put_the_batch_back(engine: Engine, upstream: Upstream, redis_db: "redis.Redis") -> None:
    serve_model(upstream)
    large = submit(20, batch_size=2)
    redis_db.delete("batch_queue")
    engine.request_stop()  # so that the slice leaves something over
    jobs.assist(large)
    jobs.after("batch_helpers", large)
    assert names(redis_db) == []


def test_a_large_batch_asks_as_many_helpers_as_it_has_work_for_and_there_are_workers(
    engine: Engine, upstream: Upstream, settings: Settings, redis_db: "redis.Redis"
) -> None:
    settings.BULK_CALLS_IN_FLIGHT = 4
    serve_model(upstream, fields={"batch_size": 2})
    engine.request_stop()
    batch_id = submit(18, batch_size=2)  # nine chunks: work for three workers
    jobs.work(batch_id)
    assert names(redis_db, "batch_helpers") == []
    for number in range(5):
        WorkerHeartbeat.objects.create(
            name=f"w{number}", kind="worker", host="h", pid=1, started_at=clock.now(), seen_at=clock.now()
        )
    jobs.work(batch_id)
    assert names(redis_db, "batch_helpers") == [f"{batch_id}-1".encode(), f"{batch_id}-2".encode()]
    assert names(redis_db) == [batch_id.encode()]


def test_an_idle_worker_stops_at_a_signal_and_a_second_one_changes_nothing(station: Station) -> None:
    def send() -> None:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    station.run()
    sender.join()
    assert station.stopping


def test_a_worker_waits_for_redis_and_goes_on_when_it_is_there(
    station: Station, upstream: Upstream, settings: Settings, redis_db: "redis.Redis"
) -> None:
    serve_model(upstream)
    batch_id = submit(3)
    parts = urlsplit(settings.REDIS_URL)
    with Gate(parts.port or 6379) as gate:
        gate.shut()
        settings.REDIS_URL = f"redis://127.0.0.1:{gate.port}{parts.path}"

        def watch() -> None:
            time.sleep(1.5)
            gate.open()
            try:
                wait_until(lambda: state(batch_id) == "completed", 15)
            finally:
                connection.close()
                os.kill(os.getpid(), signal.SIGTERM)

        watcher = threading.Thread(target=watch)
        watcher.start()
        station.run()
        watcher.join()
    assert state(batch_id) == "completed"


def test_a_burst_worker_does_all_there_is_to_do_and_ends(stack: Stack, upstream: Upstream) -> None:
    serve_model(upstream, fields={"batch_size": 5})
    submitted = submission.submit(a_submission([f"text {n}" for n in range(50)], slug="m", batch_size=5))
    done = stack.manage("worker", "--burst")
    assert done.returncode == 0, done.stderr
    assert state(submitted.batch_id) == "completed"
    assert "worker stopped" in done.stderr


def test_a_slice_during_which_redis_went_away_leaves_its_batch_to_whoever_finds_it(
    station: Station, engine: Engine, upstream: Upstream, settings: Settings
) -> None:
    settings.BULK_SLICE = 1.0
    upstream.delay = 0.3
    serve_model(upstream)
    batch_id = submit(100, batch_size=2)
    parts = urlsplit(settings.REDIS_URL)
    with Gate(parts.port or 6379) as gate:
        settings.REDIS_URL = f"redis://127.0.0.1:{gate.port}{parts.path}"
        cutter = threading.Timer(0.5, gate.shut)
        cutter.start()
        station.run(burst=True)
        cutter.join()
    assert BatchChunk.objects.filter(state="waiting").exists()
    assert WorkerHeartbeat.objects.get().batch_id == ""
    assert rescue.idle_batches(frozenset()) == [batch_id]


@contextmanager
def chunks_elsewhere() -> Iterator[None]:
    """Every statement that names the chunks fails."""
    with closing(psycopg2.connect(**connection.get_connection_params())) as other:
        other.autocommit = True
        other.cursor().execute("ALTER TABLE batches_batchchunk RENAME TO elsewhere")
        try:
            yield
        finally:
            other.cursor().execute("ALTER TABLE elsewhere RENAME TO batches_batchchunk")


def test_a_slice_that_breaks_is_logged_and_the_worker_lives_on(
    engine: Engine, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    serve_model(upstream)
    batch_id = submit(3)
    with chunks_elsewhere():
        jobs.work(batch_id)
    assert "slice failed" in [record.message for record in caplog.records]
    jobs.work(batch_id)
    assert engine.drain(10)
    assert state(batch_id) == "completed"


def test_a_worker_started_before_postgresql_waits_for_it(stack: Stack) -> None:
    parts = urlsplit(stack.database_url)
    with Gate(parts.port or 5432, host=parts.hostname or "127.0.0.1") as gate:
        gate.shut()
        through = parts._replace(netloc=f"{parts.username}@127.0.0.1:{gate.port}").geturl()
        process = stack.start("early", [sys.executable, "manage.py", "worker"], DATABASE_URL=through)
        wait_until(lambda: "worker waits: PostgreSQL" in process.tail(), 30)
        gate.open()
        wait_until(lambda: WorkerHeartbeat.objects.filter(pid=process.pid).exists(), 15)
        process.stop()


def test_a_worker_that_is_stopped_before_postgresql_is_there_ends(stack: Stack) -> None:
    nowhere = stack.start("early", [sys.executable, "manage.py", "worker"], DATABASE_URL="postgresql://u@127.0.0.1:1/n")
    wait_until(lambda: "worker waits: PostgreSQL" in nowhere.tail(), 30)
    nowhere.stop()
