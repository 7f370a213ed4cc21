"""How batches of files end, and what a retry makes of them."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from batches import clock, file_batches, file_clerk, lifecycle
from batches.models import BatchChunk, BatchJob, FileBatch
from tests.fixtures_files import LINES, content, create, error, get, post, released, work
from tests.made_batches import finish


def test_retry_asks_for_the_failed_texts_alone_and_the_output_is_whole_afterwards(file_api: Client) -> None:
    batch = create(file_api, *LINES)
    file_clerk.do_one()
    work(batch, "three", "five")
    file_clerk.do_one()
    first = get(file_api, batch)
    assert first["request_counts"] == {"total": 4, "completed": 2, "failed": 2}
    n = next(job for job in released(batch) if job.model == "n")
    with pytest.raises(lifecycle.BatchNotRetryable, match="retry the batch of that file"):
        lifecycle.retry(n.batch_id)

    again = post(file_api, batch, "retry").json()
    assert (again["status"], again["completed_at"]) == ("in_progress", None)
    waiting = BatchChunk.objects.filter(batch__file_batch__batch_id=batch["id"], state="waiting")
    assert sorted(chunk.texts[p] for chunk in waiting for p in chunk.pending_positions()) == ["five", "three"]
    work(batch)
    file_clerk.do_one()

    found = get(file_api, batch)
    assert (found["status"], found["request_counts"]["completed"], found["error_file_id"]) == ("completed", 4, None)
    assert list(content(file_api, found["output_file_id"])) == ["a", "b", "c", "d"]
    assert list(content(file_api, first["output_file_id"])) == ["a", "c"]  # what was given out once stays as it was
    assert error(post(file_api, batch, "retry"))[:2] == (409, "batch_not_retryable")


def test_vectors_are_kept_until_the_whole_file_has_ended(file_api: Client, settings: Any) -> None:
    settings.RESULT_RETENTION = 0.0
    batch = create(file_api, *LINES)
    file_clerk.do_one()
    finish(BatchChunk.objects.get(batch=released(batch)[0]))
    assert lifecycle.purge_due(clock.now()) == 0
    work(batch)
    file_clerk.do_one()
    found = get(file_api, batch)
    assert found["request_counts"]["completed"] == 4
    while lifecycle.purge_due(clock.now()):
        pass
    assert not BatchChunk.objects.exists()
    assert list(content(file_api, found["output_file_id"])) == ["a", "b", "c", "d"]
    assert error(post(file_api, batch, "retry"))[:2] == (409, "batch_not_retryable")


def test_an_expired_batch_keeps_what_is_finished_and_can_be_retried(file_api: Client) -> None:
    batch = create(file_api, *LINES, completion_window="30m")
    file_clerk.do_one()
    finish(BatchChunk.objects.get(batch=released(batch)[0]))
    BatchJob.objects.update(expires_at=clock.now() - timedelta(seconds=1))
    lifecycle.expire_due(clock.now())
    file_clerk.do_one()

    found = get(file_api, batch)
    assert found["status"] == "expired"
    assert found["expired_at"]
    assert list(content(file_api, found["output_file_id"])) == ["a", "d"]
    left = content(file_api, found["error_file_id"])
    assert {name: line["error"]["code"] for name, line in left.items()} == {"b": "batch_expired", "c": "batch_expired"}
    assert {line["response"] for line in left.values()} == {None}

    again = post(file_api, batch, "retry").json()
    assert again["expires_at"] - again["in_progress_at"] == 30 * 60
    work(batch)
    file_clerk.do_one()
    assert get(file_api, batch)["request_counts"] == {"total": 4, "completed": 4, "failed": 0}


def test_a_window_that_passes_before_the_lines_are_read_ends_the_batch(file_api: Client) -> None:
    batch = create(file_api, *LINES, completion_window="1m")
    FileBatch.objects.update(expires_at=clock.now() - timedelta(seconds=1))

    file_batches.expire_due(clock.now())

    assert not file_clerk.do_one()
    assert get(file_api, batch)["status"] == "expired"
    assert error(post(file_api, batch, "retry"))[:2] == (409, "batch_not_retryable")


def test_cancelled_in_work_it_gives_out_what_is_finished_and_before_it_nothing(file_api: Client) -> None:
    early = create(file_api, *LINES)
    assert post(file_api, early, "cancel").json()["status"] == "cancelling"
    file_clerk.do_one()
    assert get(file_api, early)["status"] == "cancelled"
    assert get(file_api, early)["output_file_id"] is None
    batch = create(file_api, *LINES)
    file_clerk.do_one()
    finish(BatchChunk.objects.get(batch=released(batch)[1]))

    found = post(file_api, batch, "cancel").json()
    assert found["status"] == post(file_api, batch, "cancel").json()["status"] == "cancelling"
    assert [job.state for job in released(batch)] == ["cancelled", "completed", "cancelled"]
    file_clerk.do_one()

    found = get(file_api, batch)
    assert found["status"] == "cancelled"
    assert found["cancelled_at"] >= found["cancelling_at"]
    assert list(content(file_api, found["output_file_id"])) == ["b"]
    assert {line["error"]["code"] for line in content(file_api, found["error_file_id"]).values()} == {"batch_cancelled"}
    assert error(post(file_api, batch, "cancel"))[:2] == (409, "batch_not_cancellable")
    assert error(post(file_api, batch, "retry"))[:2] == (409, "batch_not_retryable")
