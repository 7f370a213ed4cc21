"""The states of a batch as one table."""

from batches.lifecycle import RETRYABLE
from batches.models import BatchChunk, BatchJob

State = BatchJob.State


def test_each_state_is_active_or_ended_and_each_has_its_row_in_the_table() -> None:
    assert {*BatchJob.ACTIVE, *BatchJob.ENDED} == set(State) == set(BatchJob.TRANSITIONS)
    assert not {*BatchJob.ACTIVE} & {*BatchJob.ENDED}


def test_only_a_retry_leads_out_of_an_ended_state() -> None:
    for state in BatchJob.ENDED:
        assert BatchJob.TRANSITIONS[state] == ((State.QUEUED,) if state in RETRYABLE else ())


def test_every_active_batch_can_be_cancelled_and_expire() -> None:
    for state in BatchJob.ACTIVE:
        assert {State.CANCELLED, State.EXPIRED} <= set(BatchJob.TRANSITIONS[state])


def test_pending_positions_are_all_before_the_first_run_and_none_once_done() -> None:
    chunk = BatchChunk(size=3, state=BatchChunk.State.WAITING)
    assert list(chunk.pending_positions()) == [0, 1, 2]
    chunk.pending = [2]
    assert list(chunk.pending_positions()) == [2]
    chunk.state = BatchChunk.State.DONE
    assert list(chunk.pending_positions()) == []
