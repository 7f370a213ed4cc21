"""Batches and chunks against a simple model: any order of operations, and processes that die between any two steps.

Whatever happens, PostgreSQL holds what the model says, its counts are those of its rows, each text has one outcome, and
every change of state is one that the tables allow. A process that dies does so after some statement of its operation:
its connection is closed then, for good, and PostgreSQL rolls back what was not committed.
"""

import contextlib
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from django.conf import settings
from django.db import InterfaceError, connection
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from batches import claiming, clock, lifecycle, rescue, storing, submission
from batches import releasing as product_releasing
from batches.bisection import Outcome, Refusal
from batches.claiming import Claim
from batches.models import BatchChunk, BatchJob
from integrations.errors import BatchNotCancellable, BatchNotRetryable
from tests import ledger, queue_model
from tests.made_batches import a_submission, a_vector, configure
from tests.queue_model import CALL, ERROR, PENDING, VECTOR, Batch, Model, Step

# Longer than a test: leases and waits end by `lapse` and `time_passes` alone.
LONG = 300.0
PLACES = st.integers(0, 10**6)
# After which statement of an operation the process dies.
DEATHS = st.one_of(st.none(), st.none(), st.integers(1, 16))
OUTCOMES = st.sampled_from((VECTOR, VECTOR, VECTOR, ERROR, PENDING))
# What ends a batch comes so many steps after the last end: else there would be little to claim.
PEACE = 6


class Death:
    """Closes the connection after so many statements; none is made after that."""

    def __init__(self, after: int | None) -> None:
        self._left = after
        self.came = False

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if self.came:
            raise InterfaceError("this process is dead")
        result = execute(sql, params, many, context)
        if self._left is not None:
            self._left -= 1
            self.came = self._left == 0
        if self.came:
            connection.connection.close()
        return result


@contextlib.contextmanager
def a_process(dies_after: int | None) -> Iterator[Death]:
    """A process with a connection of its own that lives until the end of the block, or dies in it."""
    connection.ensure_connection()
    pid, death = connection.connection.info.backend_pid, Death(dies_after)
    try:
        with connection.execute_wrapper(death):
            yield death
    except Exception:
        if not death.came:
            raise
    if death.came:
        connection.close()
        _await_rollback(pid)


def _await_rollback(pid: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


def update(statement: str, *values: object) -> None:
    """Let time pass for some rows."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)


class Queue(RuleBasedStateMachine):
    """One model's queue, workers that hold claims, and everybody who changes a batch from outside."""

    def __init__(self) -> None:
        super().__init__()
        BatchJob.objects.all().delete()
        with connection.cursor() as cursor:
            ledger.close_ledger(cursor)
            ledger.open_ledger(cursor)
        self.model: Model = []
        self.claims: list[Claim] = []
        self.numbers: dict[int, int] = {}  # of each chunk that was claimed, as it may be deleted since
        self.texts = 0
        self.peace = 0

    # --- what is compared after each step ---

    def check(self, steps: list[Step], death: Death | None = None) -> None:
        """PostgreSQL holds what the steps make of the model; after a death, what some first ones of them make."""
        self.peace += 1
        found = queue_model.observe()
        reached = [deepcopy(self.model)]
        for step in steps:
            reached.append(deepcopy(reached[-1]))
            step(reached[-1])
        allowed = reached if death is not None and death.came else reached[-1:]
        assert found in allowed, f"{found} is none of {allowed}"
        self.model = found
        with connection.cursor() as cursor:
            assert not ledger.forbidden(ledger.read(cursor))

    def batch(self, place: int, *, of: list[Batch] | None = None) -> tuple[int, Batch]:
        """One batch: of these, but now and then of all."""
        among = self.model if not of or place % 8 == 0 else of
        batch = among[place % len(among)]
        return self.index(batch), batch

    def index(self, batch: Batch) -> int:
        """Its place; two purged batches are equal."""
        return next(index for index, other in enumerate(self.model) if other is batch)

    def held(self, place: int) -> Claim:
        """One of the claims: one that counts, but now and then any."""
        good = [claim for claim in self.claims if self.counts(claim)]
        among = self.claims if not good or place % 8 == 0 else good
        return among[place % len(among)]

    def counts(self, claim: Claim) -> bool:
        """Whether its chunk is still held under it."""
        index, number = self.place_of(claim)
        chunks = self.model[index].chunks
        return bool(chunks) and chunks[number].token == claim.token

    def place_of(self, claim: Claim) -> tuple[int, int]:
        index = next(i for i, batch in enumerate(self.model) if batch.pk == claim.batch)
        return index, self.numbers[claim.chunk]

    # --- clients and scheduler ---

    @initialize(counts=st.lists(st.integers(1, 9), min_size=1, max_size=3), size=st.integers(1, CALL))
    def begin(self, counts: list[int], size: int) -> None:
        for count in counts:
            self.submit(count, size, None)
        for index in range(len(counts)):
            self.release(index, None)

    @precondition(lambda self: len(self.model) < 5)
    @rule(count=st.integers(1, 7), size=st.integers(1, CALL), dies=DEATHS)
    def submit(self, count: int, size: int, dies: int | None) -> None:
        texts = [f"text {self.texts + n}" for n in range(count)]
        self.texts += count
        with a_process(dies) as death:
            submission.submit(a_submission(texts, batch_size=size))
        self.check(queue_model.submit(texts, size), death)

    @precondition(lambda self: any(not batch.released for batch in self.model))
    @rule(place=PLACES, dies=DEATHS)
    def release(self, place: int, dies: int | None) -> None:
        index, batch = self.batch(place)
        with a_process(dies) as death:
            assert product_releasing.release_batch(batch.batch_id) == (batch.state == "queued" and not batch.released)
        self.check(queue_model.release(index), death)

    @precondition(lambda self: self.model and self.peace >= PEACE)
    @rule(place=PLACES, dies=DEATHS)
    def cancel(self, place: int, dies: int | None) -> None:
        index, batch = self.batch(place)
        self.peace = 0
        refused = contextlib.nullcontext() if batch.state in queue_model.ACTIVE else pytest.raises(BatchNotCancellable)
        with a_process(dies) as death, refused:
            lifecycle.cancel(batch.batch_id)
        self.check(queue_model.end(index, "cancelled"), death)

    @precondition(lambda self: self.model and self.peace >= PEACE)
    @rule(place=PLACES, dies=DEATHS)
    def expire(self, place: int, dies: int | None) -> None:
        index, batch = self.batch(place)
        self.peace = 0
        update("UPDATE batches_batchjob SET expires_at = now() - interval '1 second' WHERE id = %s", batch.pk)
        batch.overdue = True
        with a_process(dies) as death:
            lifecycle.expire_due(clock.now())
        due = [i for i, batch in enumerate(self.model) if batch.overdue and i != index]
        self.check([step for i in (*due, index) for step in queue_model.end(i, "expired")], death)

    @precondition(lambda self: any(batch.retryable for batch in self.model))
    @rule(place=PLACES, dies=DEATHS)
    def retry(self, place: int, dies: int | None) -> None:
        index, batch = self.batch(place, of=[batch for batch in self.model if batch.retryable])
        refused = contextlib.nullcontext() if batch.retryable else pytest.raises(BatchNotRetryable)
        with a_process(dies) as death, refused:
            lifecycle.retry(batch.batch_id)
        self.check(queue_model.retry(index) if batch.retryable else [], death)

    @precondition(lambda self: self.model and self.peace >= 2 * PEACE)
    @rule(place=PLACES, dies=DEATHS)
    def purge(self, place: int, dies: int | None) -> None:
        index, batch = self.batch(place)
        self.peace = 0
        with a_process(dies) as death:
            lifecycle.purge(batch.batch_id)
        self.check(queue_model.purge(index), death)

    @precondition(lambda self: any(batch.purged and batch.stored for batch in self.model))
    @rule()
    def purge_what_a_dead_process_left(self) -> None:
        lifecycle.purge_due(clock.now())
        begun = [i for i, batch in enumerate(self.model) if batch.purged and batch.stored]
        self.check([step for index in begun for step in queue_model.purge(index)])

    @rule()
    def rescue_names_every_batch_that_has_work_and_no_other(self) -> None:
        idle = rescue.idle_batches(frozenset())
        assert sorted(idle) == sorted(batch.batch_id for batch in self.model if batch.idle)

    # --- workers ---

    @precondition(lambda self: self.model)
    @rule(place=PLACES, dies=DEATHS, forgotten=st.sampled_from((False, False, False, True)))
    def claim(self, place: int, dies: int | None, forgotten: bool) -> None:
        _, batch = self.batch(place, of=[batch for batch in self.model if batch.idle])
        claims: list[Claim] = []
        with a_process(dies) as death:
            target = claiming.find(batch.batch_id)
            assert (target is not None) == (batch.state in queue_model.ACTIVE and batch.released)
            if target is not None:
                claims = claiming.claim(target, owner="worker", call_size=CALL)
        taken = self.taken()
        assert death.came or {claim.token for claim in claims} == set(taken.values())
        assert death.came or bool(claims) == batch.idle
        self.check_choice(batch, list(taken))
        self.check(queue_model.claim(taken), death)
        self.numbers.update(BatchChunk.objects.values_list("pk", "number"))
        self.claims += [] if death.came else claims
        if forgotten and claims:
            self.forget_the_beginning(claims)

    def taken(self) -> dict[tuple[int, int], Any]:
        """The chunks that have another token than before."""
        return {
            (i, n): chunk.token
            for i, batch in enumerate(queue_model.observe())
            for n, chunk in enumerate(batch.chunks)
            if chunk.token and chunk.token != self.model[i].chunks[n].token
        }

    def check_choice(self, batch: Batch, taken: list[tuple[int, int]]) -> None:
        """The batch's own next chunk, and as company at most one fresh chunk each of others, within a call's size."""
        if not taken:
            return
        index = self.index(batch)
        first = next(number for number, chunk in enumerate(batch.chunks) if chunk.claimable)
        company = [place for place in taken if place != (index, first)]
        assert (index, first) in taken
        assert len({i for i, _ in taken}) == len(taken)
        assert all(self.model[i].chunks[n].attempts == 0 for i, n in company)
        if company:
            assert batch.chunks[first].attempts == 0
            assert sum(len(self.model[i].chunks[n].texts) for i, n in taken) <= CALL

    def forget_the_beginning(self, claims: list[Claim]) -> None:
        """PostgreSQL crashes just then: nobody has waited for the disk to hold that work on these batches began."""
        for claim in claims:
            index, _ = self.place_of(claim)
            if all(chunk.state != "done" for chunk in self.model[index].chunks):
                update("UPDATE batches_batchjob SET state = 'queued', started_at = NULL WHERE id = %s", claim.batch)
                self.model[index].state = "queued"
        update("DELETE FROM ledger_move WHERE (what, old, new) = ('batch', 'processing', 'queued')")

    @precondition(lambda self: any(batch.idle for batch in self.model))
    @rule(place=PLACES, data=st.data(), later=st.booleans(), forgotten=st.sampled_from((False, False, False, True)))
    def work(self, place: int, data: st.DataObject, later: bool, forgotten: bool) -> None:
        """A worker that lives: it claims a call's worth and stores what came of it."""
        before = len(self.claims)
        self.claim(place, None, forgotten)
        for number in range(before, len(self.claims)):
            self.settle(self.claims[number], None, data, later)

    @precondition(lambda self: self.claims)
    @rule(place=PLACES, dies=DEATHS, data=st.data(), later=st.booleans())
    def store(self, place: int, dies: int | None, data: st.DataObject, later: bool) -> None:
        self.settle(self.held(place), dies, data, later)

    def settle(self, claim: Claim, dies: int | None, data: st.DataObject, later: bool) -> None:
        counts, (index, number) = self.counts(claim), self.place_of(claim)
        drawn = [data.draw(OUTCOMES) for _ in claim.texts]
        if set(drawn) == {PENDING}:
            drawn[0] = VECTOR
        with a_process(dies) as death:
            assert storing.store(claim, outcome_of(claim, drawn), delay=LONG if later else 0.0) == counts
        outcomes = {p: kind for p, kind in zip(claim.positions, drawn, strict=True) if kind != PENDING}
        self.check(queue_model.store(index, number, outcomes, later=later) if counts else [], death)

    @precondition(lambda self: self.claims)
    @rule(place=PLACES, dies=DEATHS, later=st.sampled_from((None, False, True)))
    def let_go(self, place: int, dies: int | None, later: bool | None) -> None:
        """The call failed, or, with `later` None, was not made."""
        claim = self.held(place)
        counts, (index, number) = self.counts(claim), self.place_of(claim)
        with a_process(dies) as death:
            if later is None:
                claiming.hand_back([claim])
            else:
                storing.try_later(claim, LONG if later else 0.0)
        steps = queue_model.wait_again(index, number, attempts=0 if later is None else 1, later=later)
        self.check(steps if counts else [], death)

    @precondition(lambda self: self.model and not any(batch.later for batch in self.model))
    @rule(place=PLACES, dies=DEATHS)
    def postpone(self, place: int, dies: int | None) -> None:
        index, batch = self.batch(place)
        with a_process(dies) as death:
            storing.postpone(batch.pk, LONG)
        self.check(queue_model.postpone(index), death)

    @precondition(lambda self: self.claims)
    @rule(place=PLACES)
    def renew(self, place: int) -> None:
        claim = self.held(place)
        index, number = self.place_of(claim)
        claiming.renew([claim])
        if self.counts(claim):
            self.model[index].chunks[number].lapsed = False
        self.check([])

    # --- time ---

    @precondition(lambda self: any(chunk.token for batch in self.model for chunk in batch.chunks))
    @rule(place=PLACES)
    def lapse(self, place: int) -> None:
        held = [chunk for batch in self.model for chunk in batch.chunks if chunk.token]
        chunk = held[place % len(held)]
        update("UPDATE batches_batchchunk SET lease_until = now() - interval '1 s' WHERE lease_token = %s", chunk.token)
        chunk.lapsed = True
        self.check([])

    @precondition(lambda self: any(batch.later or any(chunk.later for chunk in batch.chunks) for batch in self.model))
    @rule()
    def time_passes(self) -> None:
        for table in ("batches_batchjob", "batches_batchchunk"):
            update(f"UPDATE {table} SET available_at = now()")
        for batch in self.model:
            batch.later = False
            for chunk in batch.chunks:
                chunk.later = False
        self.check([])


def outcome_of(claim: Claim, drawn: list[str]) -> Outcome:
    """What a call brought for the claim's texts."""
    return Outcome(
        vectors=np.array([a_vector(text) for text in claim.texts], dtype=np.float32),
        done=frozenset(i for i, kind in enumerate(drawn) if kind == VECTOR),
        errors={i: Refusal(code="text_rejected", detail="no") for i, kind in enumerate(drawn) if kind == ERROR},
        endpoint="http://127.0.0.1:11400",
        upstream_model="test-model",
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("redis_db", "records")
def test_whatever_happens_in_whatever_order_postgresql_holds_what_a_simple_model_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "CHUNK_LEASE", LONG)
    configure(batch_size=CALL)
    try:
        # Not made smaller when it fails: that takes minutes, and what failed is tried first the next time.
        few = hypothesis_settings(max_examples=15, stateful_step_count=40, phases=(Phase.reuse, Phase.generate))
        run_state_machine_as_test(Queue, settings=few)
    finally:
        with connection.cursor() as cursor:
            ledger.close_ledger(cursor)
