"""Claims, leases and the storing of results, by several workers at once on a real PostgreSQL."""

import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from django.db import connection, transaction

from batches import claiming, clock, lifecycle, storing
from batches.bisection import Outcome, refusal
from batches.claiming import Claim, Target
from batches.models import BatchChunk, BatchJob
from tests.made_batches import a_batch, a_chunk, at_once

pytestmark = pytest.mark.usefixtures("stack")


def a_released_batch(*chunks: Sequence[str], **fields: Any) -> BatchJob:
    """Store a released batch of these chunks."""
    job = a_batch(total=sum(map(len, chunks)), age=60, released_at=clock.now(), **fields)
    first = 0
    for number, texts in enumerate(chunks):
        a_chunk(job, number=number, first=first, texts=texts)
        first += len(texts)
    return job


def claim(job: BatchJob, *, owner: str = "w1", call_size: int = 100) -> list[Claim]:
    target = Target(batch_id=job.batch_id, model=job.model, priority=job.priority, total=job.total)
    return claiming.claim(target, owner=owner, call_size=call_size)


def vectors_for(claim: Claim, *, value: float = 1.0) -> Outcome:
    count = len(claim.texts)
    return Outcome(
        vectors=np.full((count, 2), value, dtype=np.float32),
        done=frozenset(range(count)),
        errors={},
        endpoint="http://127.0.0.1:1",
        upstream_model="u",
    )


def set_lease(claimed: Claim, seconds: float) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE batches_batchchunk SET lease_until = now() + %s * interval '1 second' WHERE id = %s",
            [seconds, claimed.chunk],
        )


def lease_left(claimed: Claim) -> float:
    until = BatchChunk.objects.get(pk=claimed.chunk).lease_until
    assert until is not None
    return (until - clock.now()).total_seconds()


def test_workers_that_claim_at_once_never_get_the_same_chunk() -> None:
    job = a_released_batch(*[[f"text {n}"] * 3 for n in range(40)])

    def take_all(owner: str) -> list[int]:
        mine = []
        while claims := claim(job, owner=owner, call_size=3):
            mine += [c.chunk for c in claims]
        return mine

    taken = Counter(chunk for mine in at_once(*(partial(take_all, f"w{n}") for n in range(6))) for chunk in mine)
    # A worker may leave early, while another just holds the last rows; nobody gets what another has.
    assert set(taken.values()) == {1}
    assert len(taken) + len(take_all("late")) == 40
    job.refresh_from_db()
    assert job.state == "processing"
    assert job.started_at is not None


def test_a_chunk_is_nobody_elses_until_its_lease_has_run_out() -> None:
    job = a_released_batch(["a"])
    (first,) = claim(job)
    assert claim(job, owner="w2") == []
    set_lease(first, -0.001)
    (second,) = claim(job, owner="w2")
    assert second.chunk == first.chunk
    assert second.token != first.token


def test_a_lease_that_ends_further_ahead_than_a_lease_is_long_has_run_out() -> None:
    job = a_released_batch(["a"])
    (first,) = claim(job)
    set_lease(first, 3600)  # the clock has stepped back by an hour
    assert len(claim(job, owner="w2")) == 1


def test_nobody_takes_what_it_holds_itself_although_the_lease_has_run_out() -> None:
    job = a_released_batch(["a"], ["b"])
    target = claiming.find(job.batch_id)
    assert target is not None
    held = claim(job)
    set_lease(held[0], -1)
    ((other,),) = claiming.claim_calls(target, owner="w1", call_size=1, most=5, held=held)
    assert other.chunk != held[0].chunk
    ((taken,),) = claiming.claim_calls(target, owner="w2", call_size=1, most=5)
    assert taken.chunk == held[0].chunk


def test_several_calls_are_claimed_at_once_in_order_and_a_rest_comes_later() -> None:
    job = a_released_batch(*[[f"{n}a", f"{n}b"] for n in range(4)], ["rest"])
    a_released_batch(["stranger"])
    target = claiming.find(job.batch_id)
    assert target is not None
    found = [claiming.claim_calls(target, owner="w1", call_size=2, most=3) for _ in range(3)]
    texts = [[[text for claim in call for text in claim.texts] for call in calls] for calls in found]
    assert texts == [[["0a", "0b"], ["1a", "1b"], ["2a", "2b"]], [["3a", "3b"]], [["rest", "stranger"]]]


def test_a_claim_that_began_before_another_one_does_not_take_its_lease_for_one_that_has_run_out() -> None:
    job = a_released_batch(["a"])
    with transaction.atomic():
        connection.cursor().execute("SELECT now()")  # this transaction's time stands still from here on
        time.sleep(1.5)
        (taken,) = at_once(partial(claim, job, owner="w2"))
        assert len(taken) == 1
        assert claim(job) == []


def test_renewing_keeps_a_chunk_and_a_lost_one_stays_lost() -> None:
    job = a_released_batch(["a"], ["b"])
    mine, lost = claim(job)[0], claim(job)[0]
    set_lease(mine, 0.001)
    set_lease(lost, -1)
    (taken,) = [c for c in claim(job, owner="w2") if c.chunk == lost.chunk] or claim(job, owner="w2")
    set_lease(taken, 1)
    claiming.renew([mine, lost])
    assert lease_left(mine) > 5
    assert lease_left(lost) < 2


@pytest.mark.parametrize(
    "fields",
    [
        {"released_at": None},
        {"state": "cancelled"},
        {"state": "completed"},
        {"available_at": "later"},
    ],
    ids=["held", "cancelled", "completed", "postponed"],
)
def test_nothing_is_claimed_of_a_batch_that_is(fields: dict[str, Any]) -> None:
    job = a_released_batch(["a"])
    if fields.get("available_at") == "later":
        storing.postpone(job.pk, 60)
    else:
        BatchJob.objects.filter(pk=job.pk).update(**fields)
    assert claim(job) == []
    assert claiming.claimable(job.batch_id) == 0


def test_small_batches_share_a_call_up_to_its_size_in_the_order_of_the_queue() -> None:
    own = a_released_batch(["own"])
    late = a_released_batch(["late"] * 2)
    urgent = a_released_batch(["urgent"] * 2, priority=5)
    big = a_released_batch(["big"] * 6)
    other_type = a_released_batch(["query"], input_type="query")
    other_pattern = a_released_batch(["hybrid"], pattern="hybrid")
    other_model = a_released_batch(["else"], model="n")
    BatchJob.objects.filter(pk=urgent.pk).update(priority=9)
    own.priority = 9  # asked for by a job of its own, whatever goes first
    claims = claim(own, call_size=4)
    assert [c.batch_id for c in claims] == [own.batch_id, urgent.batch_id]
    BatchJob.objects.filter(pk=urgent.pk).update(priority=5)
    assert [c.batch_id for c in claim(late, call_size=4)] == [late.batch_id]
    for job in (big, other_type, other_pattern, other_model):
        assert BatchChunk.objects.get(batch=job).state == "waiting"


def test_a_chunk_that_failed_before_is_asked_for_alone() -> None:
    own = a_released_batch(["own"])
    other = a_released_batch(["other"])
    (first, second) = claim(own)
    storing.try_later(first, 0)
    storing.try_later(second, 0)
    assert [c.batch_id for c in claim(own)] == [own.batch_id]
    assert [c.batch_id for c in claim(other)] == [other.batch_id]


def test_a_batch_of_higher_priority_goes_first_whichever_batch_a_job_names() -> None:
    own = a_released_batch(["own"], ["own"])
    urgent = a_released_batch(["urgent"], priority=9)
    low = a_released_batch(["low"], priority=1)
    assert [claim(own, call_size=1)[0].batch_id for _ in range(3)] == [urgent.batch_id, own.batch_id, own.batch_id]
    assert claim(own, call_size=1) == []
    assert BatchChunk.objects.get(batch=low).state == "waiting"


def test_a_result_counts_only_under_the_token_it_was_claimed_with() -> None:
    job = a_released_batch(["a", "b"], ["c"])
    (slow,) = claim(job, call_size=2)
    set_lease(slow, -1)
    (quick,) = claim(job, owner="w2", call_size=2)
    assert storing.store(quick, vectors_for(quick, value=2.0)) is True
    assert storing.store(slow, vectors_for(slow, value=1.0)) is False
    assert storing.store(replace(quick, token=uuid.uuid4()), vectors_for(quick)) is False
    chunk = BatchChunk.objects.get(pk=slow.chunk)
    assert bytes(chunk.vectors or b"") == np.full((2, 2), 2.0, dtype="<f4").tobytes()
    job.refresh_from_db()
    assert (job.state, job.completed, job.failed) == ("processing", 2, 0)


def test_the_last_two_chunks_stored_at_once_close_the_batch() -> None:
    for _ in range(20):
        job = a_released_batch(["a"], ["b"])
        first, second = claim(job, call_size=1)[0], claim(job, call_size=1)[0]
        stored = at_once(*(partial(storing.store, held, vectors_for(held)) for held in (first, second)))
        assert stored == [True, True]
        job.refresh_from_db()
        assert (job.state, job.completed) == ("completed", 2)
        assert job.finished_at is not None


def test_a_batch_without_a_single_vector_has_failed() -> None:
    job = a_released_batch(["a"])
    (claimed,) = claim(job)
    outcome = replace(vectors_for(claimed), done=frozenset(), errors={0: refusal(RuntimeError())})
    storing.store(claimed, outcome)
    job.refresh_from_db()
    assert (job.state, job.completed, job.failed) == ("failed", 0, 1)


def test_what_comes_back_after_a_cancel_is_discarded() -> None:
    job = a_released_batch(["a"], ["b"])
    done, late = claim(job, call_size=1)[0], claim(job, call_size=1)[0]
    storing.store(done, vectors_for(done))
    lifecycle.cancel(job.batch_id)
    assert storing.store(late, vectors_for(late)) is False
    claiming.hand_back([late])
    storing.try_later(late, 0)
    job.refresh_from_db()
    assert (job.state, job.completed, job.failed) == ("cancelled", 1, 0)
    states = BatchChunk.objects.filter(batch=job).order_by("number").values_list("state", "attempts")
    assert list(states) == [("done", 0), ("dropped", 0)]


def test_cancelling_while_workers_claim_renew_and_store_leads_to_no_deadlock() -> None:
    for _ in range(10):
        job = a_released_batch(*[[f"text {n}"] for n in range(12)])
        held = [claim(job, call_size=1)[0] for _ in range(6)]

        def store_all(claims: list[Claim] = held) -> list[bool]:
            return [storing.store(c, vectors_for(c)) for c in claims]

        def claim_all(job: BatchJob = job) -> int:
            return sum(len(claim(job, owner="w2", call_size=1)) for _ in range(6))

        results = at_once(
            store_all,
            claim_all,
            partial(lifecycle.cancel, job.batch_id),
            partial(claiming.renew, held),
            partial(claiming.renew, held[::-1]),
        )
        assert not [result for result in results if isinstance(result, Exception)]
        job.refresh_from_db()
        assert job.state == "cancelled"
        assert job.completed == BatchChunk.objects.filter(batch=job, state="done").count()


def test_what_is_known_of_a_chunk_is_stored_and_only_the_rest_claimed_again() -> None:
    job = a_released_batch(["a", "b", "c"])
    (first,) = claim(job)
    some = replace(vectors_for(first, value=3.0), done=frozenset({1}), errors={2: refusal(RuntimeError())})
    assert storing.store(first, some) is True
    job.refresh_from_db()
    assert (job.state, job.completed, job.failed) == ("processing", 1, 1)
    (rest,) = claim(job)
    assert (rest.texts, rest.positions) == (("a",), (0,))
    storing.store(rest, vectors_for(rest, value=4.0))
    chunk = BatchChunk.objects.get(pk=first.chunk)
    rows = np.frombuffer(bytes(chunk.vectors or b""), dtype="<f4").reshape(3, 2)
    assert rows.tolist() == [[4.0, 4.0], [3.0, 3.0], [0.0, 0.0]]
    assert list(chunk.errors) == ["2"]
    job.refresh_from_db()
    assert (job.state, job.completed, job.failed) == ("completed", 2, 1)


def test_results_of_several_batches_are_stored_at_once_and_a_late_one_stops_no_other() -> None:
    first, second = a_released_batch(["a"], ["b"]), a_released_batch(["c"])
    (a, b, c) = (claim(job, call_size=1)[0] for job in (first, first, second))
    late = replace(b, token=uuid.uuid4())
    stored = storing.store_all([(claim_, vectors_for(claim_)) for claim_ in (c, late, a)])
    assert stored == [True, False, True]
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.state, first.completed) == ("processing", 1)
    assert (second.state, second.completed) == ("completed", 1)
    assert storing.store_all([(late, vectors_for(late)), (b, vectors_for(b))]) == [False, True]
    first.refresh_from_db()
    assert (first.state, first.completed, first.failed) == ("completed", 2, 0)


def test_results_are_stored_with_the_cursors_that_django_has_while_debug_is_on() -> None:
    """They take fewer keywords than psycopg2's."""
    (held,) = claim(a_released_batch(["a"]))
    connection.force_debug_cursor = True
    try:
        assert storing.store(held, vectors_for(held)) is True
    finally:
        connection.force_debug_cursor = False


def test_claiming_stays_quick_to_look_for_work_among_many_ended_batches() -> None:
    """Not a matter of the clock: the plan must use the index of active batches."""
    job = a_released_batch(["a"])
    template = {"client": "", "model": "m", "pattern": "bulk_only", "request_id": "", "total": 1, "state": "completed"}
    times = dict.fromkeys(("submitted_at", "queued_at", "released_at", "available_at", "expires_at"), clock.now())
    BatchJob.objects.bulk_create(BatchJob(batch_id=f"old-{n}", **template, **times) for n in range(5000))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE batches_batchjob")
        values: dict[str, Any] = {
            "model": "m",
            "batch_id": job.batch_id,
            "priority": 5,
            "lease": 10,
            "most": 8,
            "held": [],
        }
        cursor.execute("EXPLAIN " + claiming._FIRST.removeprefix(claiming.UNSYNCED), values)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Seq Scan on batches_batchjob" not in plan
