"""Which batches go into the list again: those that have work to do and nobody who does it."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.db import connection
from pytest_django import Settings

from batches import claiming, clock, heartbeats, queues, rescue, storing
from batches.claiming import Claim, Target
from batches.models import BatchChunk, BatchJob, WorkerHeartbeat
from integrations import snapshot
from integrations.models import ModelConfig
from tests.made_batches import a_batch, a_chunk, configure
from tests.processes import Stack
from tests.tcp_gate import Gate

pytestmark = pytest.mark.usefixtures("stack")


@pytest.fixture(autouse=True)
def model(stack: Stack) -> None:
    configure()


@pytest.fixture
def away(settings: Settings) -> Iterator[None]:
    with Gate(1) as gate:
        gate.shut()
        settings.REDIS_URL = f"redis://127.0.0.1:{gate.port}/0"
        yield


def a_released_batch(**fields: Any) -> BatchJob:
    job = a_batch(total=2, age=60, **({"released_at": clock.now()} | fields))
    a_chunk(job, number=0, first=0, texts=["a"])
    a_chunk(job, number=1, first=1, texts=["b"])
    return job


def claim_all(job: BatchJob) -> list[Claim]:
    target = Target(batch_id=job.batch_id, model=job.model, priority=job.priority, total=job.total)
    return [claim for _ in range(2) for claim in claiming.claim(target, owner="w", call_size=1)]


def age_worker(name: str, seconds: float) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE batches_workerheartbeat SET seen_at = now() - %s * interval '1 second' WHERE name = %s",
            [seconds, name],
        )


def idle() -> list[str]:
    return rescue.idle_batches(queues.listed() or frozenset())


def test_a_released_batch_that_stands_nowhere_is_enqueued_once(redis_db: "redis.Redis") -> None:
    job = a_released_batch()
    assert rescue.dispatch() == 1
    assert rescue.dispatch() == 0
    assert redis_db.lrange("batch_queue", 0, -1) == [job.batch_id.encode()]


def test_after_redis_was_emptied_every_batch_comes_back_in_the_order_of_the_queue(redis_db: "redis.Redis") -> None:
    low, first, second = a_released_batch(priority=1), a_released_batch(), a_released_batch()
    rescue.dispatch()
    redis_db.flushdb()
    assert rescue.dispatch() == 3
    expected = [job.batch_id.encode() for job in (first, second, low)]
    assert redis_db.lrange("batch_queue", 0, -1) == expected


def test_held_ended_and_postponed_batches_are_left_alone_until_their_time() -> None:
    a_released_batch(released_at=None)
    a_released_batch(state="completed")
    postponed = a_released_batch()
    storing.postpone(postponed.pk, 60)
    assert idle() == []
    BatchJob.objects.filter(pk=postponed.pk).update(available_at=clock.now())
    assert idle() == [postponed.batch_id]


def test_a_batch_whose_chunks_are_all_held_is_enqueued_when_their_leases_have_run_out() -> None:
    job = a_released_batch()
    claims = claim_all(job)
    assert len(claims) == 2
    assert idle() == []
    BatchChunk.objects.filter(pk=claims[0].chunk).update(lease_until=clock.now())
    assert idle() == [job.batch_id]


def test_a_live_workers_present_batch_is_left_to_it_and_a_silent_workers_is_not() -> None:
    job = a_released_batch()
    heartbeats.beat("w", heartbeats.WORKER, batch_id=job.batch_id)
    assert idle() == []
    age_worker("w", heartbeats.alive_within() + 1)
    assert idle() == [job.batch_id]


def test_a_batch_that_helpers_still_hold_parts_of_is_enqueued_all_the_same() -> None:
    job = a_released_batch()
    target = Target(batch_id=job.batch_id, model=job.model, priority=job.priority, total=job.total)
    assert len(claiming.claim(target, owner="helper", call_size=1)) == 1
    assert idle() == [job.batch_id]


@pytest.mark.parametrize("change", [{"draining": True}, {"enabled": False}])
def test_batches_of_a_drained_or_disabled_model_wait(change: dict[str, bool]) -> None:
    job = a_released_batch()
    a_released_batch(model="unknown")
    ModelConfig.objects.update(**change)
    snapshot.bump()
    assert idle() == []
    ModelConfig.objects.update(draining=False, enabled=True)
    snapshot.bump()
    assert idle() == [job.batch_id]


@pytest.mark.usefixtures("away")
def test_without_redis_nothing_is_tried() -> None:
    a_released_batch()
    assert rescue.dispatch() == 0


def test_only_workers_that_spoke_lately_count_as_alive() -> None:
    heartbeats.beat("w1", heartbeats.WORKER)
    heartbeats.beat("w2", heartbeats.WORKER)
    heartbeats.beat("s", heartbeats.SCHEDULER)
    assert (heartbeats.workers_alive(), heartbeats.schedulers_alive()) == (2, 1)
    age_worker("w1", heartbeats.alive_within() + 1)
    assert heartbeats.workers_alive() == 1
    assert heartbeats.remove_stale() == 0
    age_worker("w1", heartbeats.KEEP + 1)
    assert heartbeats.remove_stale() == 1
    heartbeats.sign_off("w2")
    assert list(WorkerHeartbeat.objects.values_list("name", flat=True)) == ["s"]


def many_released(count: int) -> list[BatchJob]:
    """Released batches of one text, with priorities and ages that do not follow their ids."""
    now = clock.now()
    jobs = BatchJob.objects.bulk_create(
        BatchJob(
            batch_id=f"many-{n}",
            model="m",
            pattern="bulk_only",
            request_id="",
            total=1,
            priority=n * 7 % 10,
            state=BatchJob.State.PROCESSING if n % 3 else BatchJob.State.QUEUED,
            queued_at=now - timedelta(seconds=n * 31 % 17),
            **dict.fromkeys(("submitted_at", "released_at", "available_at", "expires_at"), now),
        )
        for n in range(count)
    )
    BatchChunk.objects.bulk_create(
        BatchChunk(batch=job, number=0, first=0, size=1, texts=["a"], available_at=now) for job in jobs
    )
    return sorted(jobs, key=lambda job: (-job.priority, job.queued_at, job.pk))


def test_of_more_than_are_enqueued_at_once_the_first_go_first_and_the_others_follow() -> None:
    ordered = [job.batch_id for job in many_released(rescue.AT_ONCE + 60)]
    assert idle() == ordered[: rescue.AT_ONCE]
    first = rescue.idle_batches(frozenset())
    assert rescue.idle_batches(frozenset(first)) == ordered[rescue.AT_ONCE :]
    assert rescue.idle_batches(frozenset(ordered)) == []


def test_of_many_that_wait_no_more_are_looked_at_than_are_enqueued() -> None:
    many_released(2000)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE batches_batchjob, batches_batchchunk")
        values: dict[str, Any] = {"models": ["m"], "listed": [""], "alive": 10, "lease": 10, "limit": 10}
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + rescue._IDLE, values)
        plan = json.dumps(cursor.fetchone()[0])
    assert '"Index Name": "batch_order"' in plan
    assert '"Node Type": "Sort"' not in plan


def test_looking_for_idle_batches_does_not_read_the_ended_ones() -> None:
    job = a_released_batch()
    template = {"client": "", "model": "m", "pattern": "bulk_only", "request_id": "", "total": 1, "state": "completed"}
    times = dict.fromkeys(("submitted_at", "queued_at", "released_at", "available_at", "expires_at"), clock.now())
    BatchJob.objects.bulk_create(BatchJob(batch_id=f"old-{n}", **template, **times) for n in range(5000))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE batches_batchjob")
        values: dict[str, Any] = {"models": ["m"], "listed": [""], "alive": 10, "lease": 10, "limit": 10}
        cursor.execute("EXPLAIN " + rescue._IDLE, values)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Seq Scan on batches_batchjob" not in plan
    assert idle() == [job.batch_id]
