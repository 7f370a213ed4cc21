"""The scheduler's duties, its lock, and what it does when one of them fails."""

from datetime import timedelta
from typing import Any

import psycopg2
import pytest
import redis
from django.core.management import call_command
from django.db import connection

from batches import clock
from batches.models import BatchChunk, BatchJob, WorkerHeartbeat
from batches.scheduling import LOCK, Duty, Scheduler
from integrations.models import CallRecord
from tests.made_batches import a_batch, a_chunk, configure
from tests.processes import Stack, wait_until

pytestmark = pytest.mark.usefixtures("redis_db")


def a_held_batch(**fields: Any) -> BatchJob:
    job = a_batch(total=1, age=600, **fields)
    a_chunk(job, number=0, first=0, texts=["a"])
    return job


@pytest.fixture
def model(stack: Stack) -> None:
    configure()


@pytest.mark.usefixtures("model")
def test_one_tick_releases_what_is_due_and_hands_it_to_the_workers(redis_db: "redis.Redis") -> None:
    job = a_held_batch()
    assert Scheduler().tick() is True
    job.refresh_from_db()
    assert job.released_at is not None
    assert redis_db.lrange("batch_queue", 0, -1) == [job.batch_id.encode()]


@pytest.mark.usefixtures("model")
def test_one_tick_expires_purges_and_removes_what_is_old(redis_db: "redis.Redis") -> None:
    late = a_held_batch(expires_at=clock.now())
    old = a_held_batch(state="completed", finished_at=clock.now() - timedelta(days=31))
    WorkerHeartbeat.objects.create(
        name="gone", kind="worker", host="h", pid=1, started_at=clock.now(), seen_at=clock.now() - timedelta(hours=1)
    )
    long_ago = clock.now() - timedelta(days=100)
    CallRecord.objects.create(started_at=long_ago, request_id="r", model="m", duration_ms=1, texts=1)
    Scheduler().tick()
    late.refresh_from_db()
    assert late.state == "expired"
    assert redis_db.lrange("batch_queue", 0, -1) == []
    assert not BatchChunk.objects.filter(batch=old).exists()
    assert not WorkerHeartbeat.objects.filter(name="gone").exists()
    assert not CallRecord.objects.exists()


@pytest.mark.usefixtures("model")
def test_two_schedulers_take_turns() -> None:
    job = a_held_batch()
    other = psycopg2.connect(**connection.get_connection_params())
    with other, other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        assert Scheduler().tick() is False
        # By hand: what a closed connection held is let go of only when the server has noticed.
        cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
    other.close()
    job.refresh_from_db()
    assert job.released_at is None
    assert Scheduler().tick() is True
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
            "WHERE locktype = 'advisory' AND datname = current_database()"
        )
        assert cursor.fetchone() == (0,)


@pytest.mark.usefixtures("model")
def test_a_scheduler_goes_on_after_its_connection_was_cut() -> None:
    scheduler = Scheduler()
    scheduler.tick()
    job = a_held_batch()
    pid = connection.connection.info.backend_pid
    other = psycopg2.connect(**connection.get_connection_params())
    with other, other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    other.close()
    assert scheduler.tick() is False
    assert scheduler.tick() is True
    job.refresh_from_db()
    assert job.released_at is not None


@pytest.mark.usefixtures("model")
def test_a_duty_that_fails_keeps_no_other_from_its_turn(caplog: pytest.LogCaptureFixture) -> None:
    scheduler, done = Scheduler(), []
    failing = [True]

    def fails() -> None:
        done.append("first")
        if failing[0]:
            raise ValueError("broken")

    scheduler._shared = [Duty(name="first", do=fails), Duty(name="second", do=lambda: done.append("second"))]
    scheduler.tick()
    scheduler.tick()
    failing[0] = False
    scheduler.tick()
    assert done == ["first", "second"] * 3
    messages = [(record.message, getattr(record, "duty", "")) for record in caplog.records]
    assert messages.count(("duty failed", "first")) == 1  # told once, not at every tick
    assert ("duty works again", "first") in messages


@pytest.mark.usefixtures("model")
def test_a_duty_has_its_interval_unless_it_has_more_to_do() -> None:
    scheduler, done = Scheduler(), []

    def often() -> bool:
        done.append("often")
        return len(done) < 3

    scheduler._shared = [Duty(name="often", do=often, interval=3600)]
    for _ in range(6):
        scheduler.tick()
    assert len(done) == 3


@pytest.mark.usefixtures("model")
def test_the_command_does_all_that_is_due_once() -> None:
    job = a_held_batch()
    call_command("scheduler", "--once")
    job.refresh_from_db()
    assert job.released_at is not None
    assert not WorkerHeartbeat.objects.exists()


def test_a_scheduler_process_beats_and_stops_at_once(stack: Stack) -> None:
    process = stack.scheduler()
    assert WorkerHeartbeat.objects.get(kind="scheduler").pid == process.pid
    process.stop(within=5)
    assert not WorkerHeartbeat.objects.exists()
    assert '"message": "scheduler stopped"' in process.tail()
    wait_until(lambda: not process.running, 1)
