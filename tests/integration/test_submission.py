"""What a submission stores, and what it refuses, on a real PostgreSQL and a real Redis."""

import gc
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event, Thread
from typing import Any

import orjson
import pytest
from django.db import connection, transaction

from batches import bounds, clock, queues
from batches.models import BatchChunk, BatchJob
from batches.submission import BLOCK_CHUNKS, ID_DRAWS, insert_job, submit, submit_lines
from integrations import recorder
from integrations.errors import IdempotencyConflict, InvalidRequest, QueueFull, QueueUnavailable
from integrations.models import CallRecord
from integrations.patterns import Accepted
from tests.made_batches import State, a_submission, at_once, configure, finish, texts_of
from tests.postgres_proxy import PostgresProxy, connections_through

pytestmark = [pytest.mark.usefixtures("records", "redis_db")]


@pytest.fixture(autouse=True)
def model(transactional_db: None) -> None:
    configure()


def lines_of(count: int) -> Iterator[bytes]:
    return (orjson.dumps({"text": f"text {i}"}) + b"\n" for i in range(count))


def test_a_submission_stores_every_text_in_order_in_chunks_of_the_batch_size() -> None:
    texts = [f"text {i} é\n" for i in range(7)]
    call = a_submission(texts, batch_size=3, priority=7, input_type="query", client_metadata={"run": "12"})
    accepted = submit(call)
    job = BatchJob.objects.get(batch_id=accepted.batch_id)
    assert re.fullmatch(r"batch_m_\d{8}_\d{6}_[0-9a-f]{6}", job.batch_id)
    assert (job.state, job.total, job.completed, job.failed) == (State.QUEUED, 7, 0, 0)
    assert (job.client, job.pattern, job.priority, job.input_type) == ("team-a", "bulk_only", 7, "query")
    assert (job.client_metadata, job.request_id) == ({"run": "12"}, "req-1")
    assert job.expires_at - job.queued_at == timedelta(days=1)
    chunks = list(BatchChunk.objects.filter(batch=job).order_by("number"))
    assert [(c.number, c.first, c.size, c.pending) for c in chunks] == [
        (0, 0, 3, None),
        (1, 3, 3, None),
        (2, 6, 1, None),
    ]
    assert texts_of(job.batch_id) == texts
    assert accepted.items_count == 7


def test_a_small_batch_is_held_and_a_full_one_is_released_and_handed_to_the_workers() -> None:
    held = submit(a_submission(["a"]))
    assert BatchJob.objects.get(batch_id=held.batch_id).released_at is None
    assert queues.listed() == frozenset()
    full = submit(a_submission([str(i) for i in range(100)]))
    # The model's held texts have reached the size together: both go.
    assert not BatchJob.objects.filter(released_at=None).exists()
    assert queues.listed() == {held.batch_id, full.batch_id}


def test_the_queue_takes_a_submission_while_redis_is_away(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    accepted = submit(a_submission([str(i) for i in range(100)]))
    assert BatchJob.objects.get(batch_id=accepted.batch_id).released_at is not None


def test_the_answer_names_the_place_and_the_promised_time() -> None:
    first = submit(a_submission(processing_interval=60))
    second = submit(a_submission(processing_interval=60))
    urgent = submit(a_submission(processing_interval=60, priority=9))
    assert [a.queue_position for a in (first, second, urgent)] == [1, 2, 1]
    # Held until the oldest has waited its interval; three texts then take three hundredths of a second.
    job = BatchJob.objects.get(batch_id=first.batch_id)
    assert first.estimated_completion == job.queued_at + timedelta(seconds=60.03)
    assert second.estimated_completion == job.queued_at + timedelta(seconds=60.06)


def test_two_draws_of_one_id_do_not_meet() -> None:
    draws = iter(["abcdef", "abcdef", "012345"])
    now = datetime(2025, 7, 15, 14, 30, tzinfo=UTC)
    ids = [insert_job(a_submission(), now, draw=lambda: next(draws)).batch_id for _ in range(2)]
    assert ids == ["batch_m_20250715_143000_abcdef", "batch_m_20250715_143000_012345"]
    assert ID_DRAWS > 2


# --- Idempotency-Key -------------------------------------------------------------------------------------------------


def test_the_same_key_and_body_answer_the_first_batch_again() -> None:
    call = a_submission(idempotency_key="k")
    first, again = submit(call), submit(replace(call, request_id="req-2"))
    assert (again.batch_id, again.items_count, again.queued_at) == (first.batch_id, 3, first.queued_at)
    assert BatchJob.objects.count() == 1
    assert texts_of(first.batch_id) == ["one", "two", "three"]


def test_the_same_key_with_another_body_or_model_is_refused() -> None:
    submit(a_submission(idempotency_key="k"))
    for changes in ({"texts": ["one", "two"]}, {"texts": ["one", "two\nthree"]}, {"slug": "other"}, {"priority": 6}):
        with pytest.raises(IdempotencyConflict):
            submit(a_submission(**{"idempotency_key": "k", **changes}))
    assert BatchJob.objects.count() == 1


def test_a_key_belongs_to_its_client() -> None:
    mine, theirs = (submit(a_submission(idempotency_key="k", client=name)) for name in ("team-a", "team-b"))
    assert mine.batch_id != theirs.batch_id


def test_after_the_window_the_key_is_free_again(settings: Any) -> None:
    call = a_submission(idempotency_key="k")
    old = submit(call)
    window = timedelta(seconds=settings.IDEMPOTENCY_WINDOW + 1)
    BatchJob.objects.update(submitted_at=clock.now() - window)
    new = submit(call)
    assert new.batch_id != old.batch_id
    assert BatchJob.objects.get(batch_id=old.batch_id).idempotency_key is None
    assert submit(call).batch_id == new.batch_id


def test_an_ended_batch_still_answers_to_its_key() -> None:
    call = a_submission(idempotency_key="k")
    first = submit(call)
    finish(BatchChunk.objects.get())
    again = submit(call)
    assert (again.batch_id, again.queue_position) == (first.batch_id, 0)


@pytest.mark.parametrize("as_lines", [False, True])
def test_identical_submissions_at_one_moment_become_one_batch(as_lines: bool) -> None:
    call = a_submission([f"text {i}" for i in range(120)], idempotency_key="k", batch_size=50)
    submits = [
        partial(submit_lines, call, list(lines_of(120))) if as_lines else partial(submit, call) for _ in range(6)
    ]
    answers = at_once(*submits)
    assert len({a.batch_id for a in answers}) == 1
    assert (BatchJob.objects.count(), BatchChunk.objects.count()) == (1, 3)


def test_the_second_of_two_waits_until_the_first_has_committed() -> None:
    """A look for the key without its lock would find nothing here, and store a second batch."""
    call, stored, done = a_submission(idempotency_key="k"), Event(), Event()
    answers: list[Any] = []

    def slow() -> None:
        with transaction.atomic():
            answers.append(submit(call))
            stored.set()
            done.wait(10)
        connection.close()

    def quick() -> None:
        stored.wait(10)
        answers.append(submit(call))
        connection.close()

    threads = [Thread(target=slow), Thread(target=quick)]
    for thread in threads:
        thread.start()
    stored.wait(10)
    threads[1].join(0.3)
    assert threads[1].is_alive()
    done.set()
    for thread in threads:
        thread.join(10)
    assert answers[0].batch_id == answers[1].batch_id


def test_two_processes_with_one_key_get_one_batch() -> None:
    script = (
        "import django; django.setup()\n"
        "from batches.submission import submit\nfrom integrations import recorder\n"
        "from tests.made_batches import a_submission\n"
        "input()\nprint(submit(a_submission(idempotency_key='k')).batch_id)\nrecorder.stop()"
    )
    database = connection.settings_dict
    url = f"postgresql://{database['USER']}@{database['HOST']}:{database['PORT']}/{database['NAME']}"
    env = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "citadel.settings"}
    command = [sys.executable, "-c", script]
    pair = [
        subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in pair:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ids = [process.communicate(timeout=60)[0].strip() for process in pair]
    assert ids[0] == ids[1] == BatchJob.objects.get().batch_id


# --- Backpressure ----------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_stores_nothing() -> None:
    submit(a_submission(["a"] * 8, max_waiting_texts=10))
    with pytest.raises(QueueFull) as refused:
        submit(a_submission(["b"] * 3, max_waiting_texts=10))
    assert refused.value.retry_after == 1
    assert (BatchJob.objects.count(), BatchChunk.objects.count()) == (1, 1)
    submit(a_submission(["b"] * 2, max_waiting_texts=10))
    assert bounds.waiting_texts("m") == 10


def test_texts_with_an_outcome_make_room() -> None:
    accepted = submit(a_submission(["a"] * 10, batch_size=5, max_waiting_texts=10))
    finish(BatchChunk.objects.filter(batch__batch_id=accepted.batch_id)[0], failed=[1])
    submit(a_submission(["b"] * 5, max_waiting_texts=10))
    with pytest.raises(QueueFull):
        submit(a_submission(["c"], max_waiting_texts=10))


def test_a_stored_batch_answers_to_its_key_also_when_the_queue_is_full() -> None:
    call = a_submission(["a"] * 10, max_waiting_texts=10, idempotency_key="k")
    assert submit(call).batch_id == submit(call).batch_id
    upload = a_submission([], max_waiting_texts=20, idempotency_key="upload")
    first = submit_lines(upload, lines_of(10))
    assert submit_lines(upload, lines_of(10)).batch_id == first.batch_id


@pytest.mark.parametrize("as_lines", [False, True])
def test_the_bound_is_exact_for_submitters_at_one_moment(as_lines: bool) -> None:
    call = a_submission([f"text {i}" for i in range(10)], max_waiting_texts=45)
    calls = [partial(submit_lines, call, list(lines_of(10))) if as_lines else partial(submit, call) for _ in range(8)]
    answers = at_once(*calls)
    assert sum(isinstance(a, Accepted) for a in answers) == 4
    assert sum(isinstance(a, QueueFull) for a in answers) == 4
    assert bounds.waiting_texts("m") == BatchChunk.objects.count() * 10 == 40


def test_an_upload_in_progress_holds_no_other_submitter_up() -> None:
    uploading, go_on = Event(), Event()
    overtaken: list[bool] = []

    def slow_lines() -> Iterator[bytes]:
        yield from lines_of(10)
        uploading.set()
        overtaken.append(go_on.wait(5))
        yield from lines_of(10)

    def upload() -> Accepted:
        return submit_lines(a_submission([]), slow_lines())

    def meanwhile() -> int:
        uploading.wait(10)
        try:
            return submit(a_submission(["a"])).items_count
        finally:
            go_on.set()

    first, second = at_once(upload, meanwhile)
    assert (first.items_count, second) == (20, 1)
    assert overtaken == [True]


# --- NDJSON ----------------------------------------------------------------------------------------------------------


def test_lines_become_the_batch_that_the_same_texts_would_as_json() -> None:
    call = a_submission(["é", "two"], idempotency_key="k")
    accepted = submit_lines(call, [b'{"text": "\xc3\xa9"}\n', b"\n", b"  \r\n", b'{"text": "two"}'])
    assert (accepted.items_count, texts_of(accepted.batch_id)) == (2, ["é", "two"])
    assert submit(call).batch_id == accepted.batch_id


def test_a_bad_line_is_named_and_nothing_is_stored() -> None:
    bad_lines = {
        b"nonsense\n": "JSON",
        b'{"text": ""}\n': "empty",
        b'{"text": 3}\n': "string",
        b'{"text": "a\\u0000b"}\n': "NUL",
        b'{"text": "\\ud800"}\n': "",
        b'{"txt": "a"}\n': "text",
    }
    for bad, why in bad_lines.items():
        # Bad only after a block of chunks has gone to PostgreSQL.
        lines = [*lines_of(BLOCK_CHUNKS + 1), bad, *lines_of(1)]
        with pytest.raises(InvalidRequest) as refused:
            submit_lines(a_submission([], batch_size=1), lines)
        assert refused.value.errors is not None
        ((field, messages),) = refused.value.errors.items()
        assert field == f"lines.{BLOCK_CHUNKS + 2}"
        assert why in messages[0]
        assert (BatchJob.objects.count(), BatchChunk.objects.count()) == (0, 0)


def test_an_upload_without_texts_is_refused() -> None:
    for lines in ([], [b"\n", b"\n"]):
        with pytest.raises(InvalidRequest):
            submit_lines(a_submission([]), lines)
    assert not BatchJob.objects.exists()


def test_more_lines_than_a_batch_may_have_are_refused(settings: Any) -> None:
    settings.MAX_BATCH_TEXTS = 5
    with pytest.raises(InvalidRequest):
        submit_lines(a_submission([]), lines_of(6))
    assert not BatchJob.objects.exists()
    assert submit_lines(a_submission([]), lines_of(5)).items_count == 5


def test_an_upload_takes_no_memory_of_its_own_size() -> None:
    size, count = 2_000, 20_000
    lines = (orjson.dumps({"text": f"{i:{size}}"}) + b"\n" for i in range(count))
    gc.collect()
    tracemalloc.start()
    try:
        accepted = submit_lines(a_submission([]), lines)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert accepted.items_count == count
    # 40 MB of texts went through. One block of chunks and its INSERT stand in memory: 25 MB, for any number of lines.
    assert peak < 32 * 2**20 < size * count


def test_long_texts_make_short_chunks() -> None:
    texts = ["x" * 3 * 2**20, "y" * 2 * 2**20, "z"]
    accepted = submit(a_submission(texts))
    assert [c.size for c in BatchChunk.objects.order_by("number")] == [1, 2]
    assert texts_of(accepted.batch_id) == texts


# --- PostgreSQL away -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [b"batches_batchchunk", b"COMMIT"])
def test_a_database_that_goes_away_is_never_a_202(words: bytes) -> None:
    call = a_submission()
    with PostgresProxy(connection.settings_dict) as proxy, connections_through(proxy):
        proxy.swallow_before(words)
        (answer,) = at_once(partial(submit, call))
    assert proxy.swallowed == 1
    assert isinstance(answer, QueueUnavailable)
    assert answer.retry_after == 5
    assert not BatchJob.objects.exists()


def test_a_lost_answer_to_the_commit_is_found_again_by_its_key() -> None:
    call = a_submission(idempotency_key="k")
    with PostgresProxy(connection.settings_dict) as proxy, connections_through(proxy):
        proxy.swallow_answer_to(b"COMMIT")
        (answer,) = at_once(partial(submit, call))
    assert isinstance(answer, QueueUnavailable)
    assert submit(call).batch_id == BatchJob.objects.get().batch_id


# --- The record ------------------------------------------------------------------------------------------------------


def test_each_submission_leaves_a_record_also_a_refused_one() -> None:
    accepted = submit(a_submission())
    with pytest.raises(QueueFull):
        submit(a_submission(max_waiting_texts=4, request_id="req-2"))
    recorder.flush()
    ok, refused = CallRecord.objects.order_by("id")
    assert (ok.mode, ok.code, ok.texts, ok.batch_id, ok.client) == ("queued", "ok", 3, accepted.batch_id, "team-a")
    assert (refused.mode, refused.code, refused.request_id, refused.batch_id) == ("queued", "queue_full", "req-2", "")
