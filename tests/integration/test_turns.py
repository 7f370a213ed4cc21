"""Whose slice it is, by what PostgreSQL holds."""

import pytest

from batches import claiming, turns
from batches.claiming import Target
from batches.models import BatchJob
from tests.integration.test_claiming import a_released_batch, claim

pytestmark = pytest.mark.usefixtures("stack")


def turn(job: BatchJob) -> str:
    target = claiming.find(job.batch_id)
    assert target is not None
    return turns.next_target(target).batch_id


def test_a_client_with_nothing_in_work_goes_before_the_hundred_batches_of_another() -> None:
    theirs = [a_released_batch(["a"] * 3, ["b"] * 3, client="many") for _ in range(5)]
    mine = a_released_batch(["a"], client="few")
    assert turn(theirs[0]) == theirs[0].batch_id  # nobody has anything in work: the list's order holds
    claim(theirs[0], call_size=3)
    assert turn(theirs[1]) == mine.batch_id
    claim(mine, call_size=1)
    assert turn(theirs[1]) == theirs[1].batch_id


def test_of_several_clients_the_one_with_the_fewest_texts_in_work_is_next_with_its_first_batch() -> None:
    batches = {
        client: [a_released_batch(*[["x"] * 4] * 3, client=client, priority=p) for p in (5, 7)] for client in "abcd"
    }
    for client, claims in (("a", 3), ("b", 2), ("c", 1)):
        for _ in range(claims):
            claim(batches[client][1], call_size=4)
    assert turn(batches["a"][0]) == batches["d"][1].batch_id
    assert turn(batches["d"][0]) == batches["d"][0].batch_id
    BatchJob.objects.filter(client="d").update(released_at=None)
    assert turn(batches["a"][0]) == batches["c"][1].batch_id


def test_nobody_gets_a_slice_for_a_batch_of_lower_priority() -> None:
    urgent = a_released_batch(["a"], ["b"], client="many", priority=6)
    a_released_batch(["a"], client="few", priority=5)
    claim(urgent, call_size=1)
    assert turn(urgent) == urgent.batch_id


@pytest.mark.parametrize("model", ["m", "other"])
def test_what_cannot_be_claimed_now_has_no_turn(model: str) -> None:
    theirs = a_released_batch(["a"], ["b"], client="many")
    mine = a_released_batch(["a"], client="few", model=model)
    claim(theirs, call_size=1)
    if model == "m":
        claim(mine, call_size=1)
    assert (
        turns.next_target(Target(batch_id=theirs.batch_id, model="m", priority=5, total=2)).batch_id == theirs.batch_id
    )
