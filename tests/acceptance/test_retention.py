"""Deleting old records while Citadel works: nobody who writes waits for it, and nothing that is young is touched."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import requests
from django.db import connection, transaction
from django.utils import timezone

from batches import clock, lifecycle
from batches.models import BatchChunk, BatchJob
from integrations import pruning, rollups
from integrations.models import BreakerEvent, CallRecord, CallStats
from integrations.record_writer import Writer
from tests.acceptance.test_worker_kills import assert_each_text_has_its_own_vector
from tests.fixtures_records import a_call
from tests.made_api import serve
from tests.made_batches import a_batch, a_chunk
from tests.processes import Stack, wait_until
from tests.upstreams import Upstream

SCOPES = {"CITADEL_ANONYMOUS_SCOPES": "embed,batch"}
OLD = timedelta(days=100)
CALLS = 12_000


def old_rows() -> None:
    """Calls with their rollups, transitions and a batch, all of long ago."""
    then = timezone.now() - OLD
    Writer().write([a_call(started_at=then, request_id=f"old-{n}") for n in range(CALLS)], dropped=0)
    event = {"model": "m", "url": "http://x", "from_state": "closed", "to_state": "open"}
    BreakerEvent.objects.bulk_create([BreakerEvent(at=then, **event) for _ in range(100)])
    job = a_batch("old", total=1, completed=1, state="completed", finished_at=then)
    a_chunk(job, number=0, first=0, texts=["a"], state="done")


def left() -> tuple[int, int, int, int]:
    """Old calls, their minutes, transitions and chunks that are still there."""
    return (
        CallRecord.objects.filter(request_id__startswith="old-").count(),
        CallStats.objects.filter(width="minute", bucket__lt=timezone.now() - timedelta(days=3)).count(),
        BreakerEvent.objects.count(),
        BatchChunk.objects.filter(batch__model="old").count(),
    )


@contextmanager
def deleting() -> Iterator[None]:
    """A scheduler that has deleted and folded all of it, and whose transaction hangs until the block ends."""
    deleted, let_go = threading.Event(), threading.Event()

    def run() -> None:
        with transaction.atomic():
            assert pruning.prune(seconds=60) == pruning.Pruned(rows=CALLS + 100, more=False)
            assert rollups.fold(seconds=60).minutes > 0
            assert lifecycle.purge_due(clock.now()) == 1
            assert left() == (0, 0, 0, 0)
            deleted.set()
            let_go.wait(60)
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert deleted.wait(60)
    try:
        yield
    finally:
        let_go.set()
        thread.join()


def test_live_calls_records_and_batches_go_on_while_a_deletion_hangs_in_its_transaction(stack: Stack) -> None:
    old_rows()
    texts = [f"text {n}" for n in range(40)]
    with Upstream() as upstream:
        # A full batch is released by its submission: no scheduler is needed, and none may delete beside ours.
        serve("m", "real_time hybrid", upstream, batch_size=10)
        _, url = stack.web(**SCOPES)
        stack.worker()
        path = f"{url}/api/v1/external/m/embed"
        with deleting():
            assert left()[0] == CALLS  # what it has done is not committed: all its locks are held
            assert [requests.post(path, json={"text": "a"}, timeout=30).status_code for _ in range(5)] == [200] * 5
            batch_id = requests.post(path, json={"texts": texts, "batch": True}, timeout=30).json()["batch_id"]
            wait_until(lambda: BatchJob.objects.get(batch_id=batch_id).state == "completed", 30)
            wait_until(lambda: CallRecord.objects.filter(model="m", mode="live").count() == 5, 10)
            wait_until(lambda: CallRecord.objects.filter(model="m", mode="bulk").exists(), 10)
            BreakerEvent.objects.create(
                at=timezone.now(), model="m", url=upstream.url, from_state="closed", to_state="open"
            )
        assert left() == (0, 0, 1, 0)
        assert_each_text_has_its_own_vector(batch_id, texts, upstream)
        assert CallStats.objects.get(width="day", kind="call").count == CALLS


def test_a_scheduler_deletes_for_a_moment_at_a_time_and_leaves_what_is_young(stack: Stack) -> None:
    old_rows()
    young = timezone.now() - timedelta(days=29)
    Writer().write([a_call(started_at=young, request_id="young")], dropped=0)
    BreakerEvent.objects.create(at=young, model="m", url="http://y", from_state="closed", to_state="open")
    # Its time is over with the first slice; there is more, so the next tick goes on.
    assert pruning.prune(a_slice=10, seconds=0) == pruning.Pruned(rows=10, more=True)
    assert left()[0] == CALLS - 10
    stack.scheduler()
    wait_until(lambda: left() == (0, 0, 1, 0), 30)
    assert CallRecord.objects.filter(request_id="young").count() == 1
