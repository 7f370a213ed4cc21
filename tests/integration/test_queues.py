"""The lists in a real Redis: what stands in them, and what happens without Redis."""

import zlib
from collections.abc import Iterator

import orjson
import pytest
import redis
from pytest_django import Settings

from batches import queues
from tests.tcp_gate import Gate


@pytest.fixture
def away(settings: Settings) -> Iterator[None]:
    """A Redis that refuses every connection."""
    with Gate(1) as gate:
        gate.shut()
        settings.REDIS_URL = f"redis://127.0.0.1:{gate.port}/0"
        yield


def names(client: "redis.Redis", key: str = "batch_queue") -> list[bytes]:
    found: list[bytes] = client.lrange(key, 0, -1)  # type: ignore[assignment]
    return found


def test_operators_find_the_waiting_batches_in_order_under_the_bare_name(redis_db: "redis.Redis") -> None:
    assert queues.enqueue("batch_m_1")
    assert queues.enqueue("batch_m_2")
    assert redis_db.llen("batch_queue") == 2
    assert names(redis_db) == [b"batch_m_1", b"batch_m_2"]
    assert queues.listed() == frozenset({"batch_m_1", "batch_m_2"})


def test_a_batch_stands_in_the_list_once(redis_db: "redis.Redis") -> None:
    for _ in range(3):
        assert queues.enqueue("batch_m_1")
        assert queues.enqueue("batch_m_1", replace=True)
    assert names(redis_db) == [b"batch_m_1"]


def test_a_job_holds_the_id_as_json_and_nothing_pickled(redis_db: "redis.Redis") -> None:
    queues.enqueue("batch_m_1")
    data: bytes = redis_db.hget("rq:job:batch_m_1", "data")  # type: ignore[assignment]
    assert orjson.loads(zlib.decompress(data)) == ["batches.jobs.work", None, ["batch_m_1"], {}]


@pytest.mark.parametrize("left", [{"status": "started", "origin": "batch_queue"}, {"last_heartbeat": "x"}])
def test_what_a_killed_worker_left_of_a_job_gives_way(redis_db: "redis.Redis", left: dict[str, str]) -> None:
    redis_db.hset("rq:job:batch_m_1", mapping=left)  # type: ignore[arg-type]
    assert queues.enqueue("batch_m_1")
    assert names(redis_db) == []  # taken for one that runs
    assert queues.enqueue("batch_m_1", replace=True)
    assert names(redis_db) == [b"batch_m_1"]


def test_helpers_stand_in_a_list_of_their_own(redis_db: "redis.Redis") -> None:
    queues.enqueue_helpers("batch_m_1", 2)
    queues.enqueue_helpers("batch_m_1", 2)
    assert names(redis_db, "batch_helpers") == [b"batch_m_1-1", b"batch_m_1-2"]
    assert names(redis_db) == []


def test_a_batch_can_be_taken_out_of_the_list(redis_db: "redis.Redis") -> None:
    queues.enqueue("batch_m_1")
    queues.enqueue("batch_m_2")
    queues.remove("batch_m_1")
    queues.remove("batch_m_1")
    assert names(redis_db) == [b"batch_m_2"]
    assert not redis_db.exists("rq:job:batch_m_1")


@pytest.mark.usefixtures("away")
def test_without_redis_nothing_raises_and_each_function_says_that_it_did_nothing() -> None:
    assert queues.enqueue("batch_m_1") is False
    assert queues.listed() is None
    assert queues.answers() is False
    queues.enqueue_helpers("batch_m_1", 2)
    queues.remove("batch_m_1")


def test_redis_answers(redis_db: "redis.Redis") -> None:
    assert queues.answers() is True
