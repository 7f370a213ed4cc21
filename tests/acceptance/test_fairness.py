"""A real worker and a slow server: who has little does not wait for who has much."""

from collections.abc import Iterator

import pytest

from batches import queues, releasing, submission
from batches.models import BatchJob
from tests.made_batches import a_submission
from tests.processes import Stack, serve_model, wait_until
from tests.upstreams import Upstream

CHUNK = 10


@pytest.fixture
def upstream(stack: Stack) -> Iterator[Upstream]:
    """A model server that takes 50 ms a call and two calls at once: 400 texts a second."""
    with Upstream(delay=0.05) as server:
        serve_model(server, max_in_flight=2, fields={"batch_size": CHUNK})
        yield server


def submit(count: int, *, client: str, priority: int = 5) -> str:
    """Submit a batch and put it into the list behind the others."""
    texts = [f"{client} {n}" for n in range(count)]
    call = a_submission(texts, slug="m", batch_size=CHUNK, client=client, priority=priority)
    batch_id = submission.submit(call).batch_id
    releasing.release_batch(batch_id)
    assert queues.enqueue(batch_id)
    return batch_id


def wait_for(batch_id: str) -> None:
    wait_until(lambda: BatchJob.objects.get(batch_id=batch_id).state == "completed", 30)


@pytest.mark.usefixtures("upstream")
def test_a_clients_many_batches_do_not_starve_anothers_one(stack: Stack) -> None:
    theirs = [submit(200, client="many") for _ in range(20)]  # ten seconds of work
    mine = submit(20, client="few")
    stack.worker(BULK_SLICE="0.3")

    wait_for(mine)

    # A slice for each of theirs before it would have been 20 x 0.3 s at 400 texts a second.
    done = sum(BatchJob.objects.filter(batch_id__in=theirs).values_list("completed", flat=True))
    assert 0 < done <= 1000


@pytest.mark.usefixtures("upstream")
def test_a_large_batch_does_not_starve_a_small_one_and_priority_goes_before_both(stack: Stack) -> None:
    large = submit(4000, client="one")
    small = submit(20, client="one")
    urgent = submit(600, client="one", priority=9)
    stack.worker(BULK_SLICE="0.3")

    wait_for(urgent)
    behind = {job.batch_id: job.completed for job in BatchJob.objects.filter(priority=5)}
    wait_for(small)

    # The last calls of the urgent batch leave places free.
    assert sum(behind.values()) <= 6 * CHUNK
    assert BatchJob.objects.get(batch_id=large).completed < 2000
