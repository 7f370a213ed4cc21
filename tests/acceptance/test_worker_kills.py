"""Workers that are killed, stopped, or left without Redis or PostgreSQL: every text gets its own vector, once."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest
from django.db import connection

from batches import releasing, submission
from batches.models import BatchChunk, BatchJob, WorkerHeartbeat
from tests.made_batches import a_submission
from tests.processes import Process, Stack, serve_model, wait_until
from tests.tcp_gate import Gate
from tests.upstreams import Upstream, vector_of

CHUNK = 10
IN_FLIGHT = 4  # of one worker
AHEAD = IN_FLIGHT // 2  # claimed, and not asked yet
AT_STAKE = 2 * IN_FLIGHT  # calls under way, and those that came back and are not stored yet
TEXTS = [f"text {number}" for number in range(600)]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A server that needs 0.15 s a call: a batch of TEXTS lasts some seconds."""
    with Upstream(delay=0.15) as server:
        yield server


def submit(texts: list[str], slug: str = "m") -> str:
    """Submit a batch in chunks of CHUNK texts and release it at once; the scheduler enqueues it."""
    batch_id = submission.submit(a_submission(texts, slug=slug, batch_size=CHUNK)).batch_id
    releasing.release_batch(batch_id)
    return batch_id


def chunks_done(batch_id: str) -> int:
    return BatchChunk.objects.filter(batch__batch_id=batch_id, state="done").count()


def wait_for_end(batch_id: str, *processes: Process, seconds: float = 30) -> None:
    try:
        wait_until(lambda: BatchJob.objects.get(batch_id=batch_id).state not in BatchJob.ACTIVE, seconds)
    except AssertionError:
        raise AssertionError("\n".join(process.tail() for process in processes)) from None


def assert_each_text_has_its_own_vector(batch_id: str, texts: list[str], upstream: Upstream) -> None:
    job = BatchJob.objects.get(batch_id=batch_id)
    assert (job.state, job.completed, job.failed) == ("completed", len(texts), 0)
    stored = list(BatchChunk.objects.filter(batch=job).order_by("number"))
    assert [text for chunk in stored for text in chunk.texts] == texts
    for chunk in stored:
        right = np.array([vector_of(text, upstream.dimensions) for text in chunk.texts], dtype="<f4")
        assert bytes(chunk.vectors or b"") == right.tobytes()


def asked_twice(upstream: Upstream) -> int:
    return sum(count - 1 for count in upstream.texts.values())


def test_a_second_worker_finishes_what_a_killed_one_began(stack: Stack, upstream: Upstream) -> None:
    serve_model(upstream, max_in_flight=IN_FLIGHT, fields={"batch_size": CHUNK})
    scheduler, first, second = stack.scheduler(), stack.worker(), stack.worker()
    batch_id = submit(TEXTS)
    # More calls at once than one worker makes: both take part.
    wait_until(lambda: upstream.peak > IN_FLIGHT and chunks_done(batch_id) >= 8, 20)

    first.kill()

    assert chunks_done(batch_id) < len(TEXTS) / CHUNK
    wait_for_end(batch_id, scheduler, second)
    assert_each_text_has_its_own_vector(batch_id, TEXTS, upstream)
    assert asked_twice(upstream) <= AT_STAKE * CHUNK


def test_a_new_worker_finishes_what_the_only_one_left_behind_when_it_was_killed(
    stack: Stack, upstream: Upstream
) -> None:
    serve_model(upstream, max_in_flight=IN_FLIGHT, fields={"batch_size": CHUNK})
    stack.common.update(CHUNK_LEASE="4", WORKER_HEARTBEAT_INTERVAL="1")
    batch_id = submit(TEXTS)
    scheduler, worker = stack.scheduler(), stack.worker()
    wait_until(lambda: chunks_done(batch_id) >= 5, 20)

    worker.kill()
    held = BatchChunk.objects.filter(batch__batch_id=batch_id, state="claimed").count()
    successor = stack.worker()

    assert 0 < held <= AT_STAKE + AHEAD
    wait_for_end(batch_id, scheduler, successor)
    assert_each_text_has_its_own_vector(batch_id, TEXTS, upstream)
    assert asked_twice(upstream) <= AT_STAKE * CHUNK


def test_a_batch_completes_although_redis_is_emptied_in_the_middle(stack: Stack, upstream: Upstream) -> None:
    serve_model(upstream, max_in_flight=IN_FLIGHT, fields={"batch_size": CHUNK})
    stack.common["BULK_SLICE"] = "0.5"
    scheduler, worker = stack.scheduler(), stack.worker()
    batch_id = submit(TEXTS)
    for done in (8, 20, 40):
        wait_until(lambda done=done: chunks_done(batch_id) >= done, 20)  # type: ignore[misc]
        stack.redis.flushdb()

    wait_for_end(batch_id, scheduler, worker)
    assert_each_text_has_its_own_vector(batch_id, TEXTS, upstream)
    assert asked_twice(upstream) == 0


def test_a_worker_outlives_redis_and_postgresql_being_away(stack: Stack, upstream: Upstream) -> None:
    serve_model(upstream, max_in_flight=IN_FLIGHT, fields={"batch_size": CHUNK})
    parts = urlsplit(stack.redis_url)
    stack.common["BULK_SLICE"] = "0.5"
    with Gate(parts.port or 6379, host=parts.hostname or "127.0.0.1") as redis_gate:
        worker = stack.worker(REDIS_URL=f"redis://127.0.0.1:{redis_gate.port}{parts.path}")
        scheduler = stack.scheduler()
        batch_id = submit(TEXTS)
        wait_until(lambda: chunks_done(batch_id) >= 5, 20)

        redis_gate.shut()
        wait_until(lambda: chunks_done(batch_id) >= 6, 20)
        redis_gate.open()
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

        wait_for_end(batch_id, scheduler, worker)
        assert worker.running
        assert scheduler.running
        assert_each_text_has_its_own_vector(batch_id, TEXTS, upstream)
        worker.stop()


def test_a_stopped_worker_hands_back_what_a_hung_server_keeps(stack: Stack) -> None:
    with Upstream() as upstream:
        upstream.hang()
        serve_model(upstream, max_in_flight=IN_FLIGHT, fields={"batch_size": CHUNK})
        batch_id = submit(TEXTS)
        scheduler, worker = stack.scheduler(), stack.worker()
        wait_until(lambda: upstream.in_flight == IN_FLIGHT, 20)
        scheduler.stop()

        worker.stop(within=10)

        chunks = BatchChunk.objects.filter(batch__batch_id=batch_id)
        assert set(chunks.values_list("state", "attempts", "lease_owner", "lease_token")) == {("waiting", 0, "", None)}
        assert BatchJob.objects.get(batch_id=batch_id).state == "processing"
        # Twice where the scheduler looked just as the slice ended: harmless, and rare.
        assert set(stack.redis.lrange("batch_queue", 0, -1)) == {batch_id.encode()}
        assert not WorkerHeartbeat.objects.exists()


def test_a_worker_that_is_stopped_lets_its_calls_finish(stack: Stack, upstream: Upstream) -> None:
    serve_model(upstream, max_in_flight=IN_FLIGHT, fields={"batch_size": CHUNK})
    upstream.delay = 1.0
    batch_id = submit(TEXTS)
    scheduler, worker = stack.scheduler(), stack.worker()
    wait_until(lambda: upstream.in_flight == IN_FLIGHT, 20)
    scheduler.stop()

    worker.stop(within=10)

    assert sum(upstream.embedded[text] for text in TEXTS) == chunks_done(batch_id) * CHUNK > 0
    assert not BatchChunk.objects.filter(state="claimed").exists()


def test_a_hung_server_keeps_nobody_but_itself_waiting(stack: Stack, upstream: Upstream) -> None:
    stack.common["WORKER_STOP_TIMEOUT"] = "0.5"
    with Upstream() as hung:
        hung.hang()
        serve_model(hung, slug="hung", fields={"batch_size": CHUNK})
        serve_model(upstream, max_in_flight=IN_FLIGHT, fields={"batch_size": CHUNK})
        waiting = [submit(TEXTS, slug="hung") for _ in range(3)]
        scheduler, worker = stack.scheduler(), stack.worker()
        wait_until(lambda: hung.in_flight == IN_FLIGHT, 20)

        batch_id = submit(TEXTS[:200])

        wait_for_end(batch_id, scheduler, worker, seconds=20)
        assert_each_text_has_its_own_vector(batch_id, TEXTS[:200], upstream)
        assert not BatchJob.objects.filter(batch_id__in=waiting).exclude(state__in=BatchJob.ACTIVE).exists()
        assert hung.in_flight == IN_FLIGHT
