"""The search for the texts that a server refuses or fails on, and what follows from how it ended."""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from batches import settling
from batches.bisection import Found, search
from batches.claiming import Claim
from integrations.errors import (
    CircuitOpen,
    TextRejected,
    UpstreamBusy,
    UpstreamFailed,
    UpstreamMalformed,
    UpstreamTimeout,
)
from integrations.patterns import Embeddings
from tests.upstreams import vector_of

TEXTS = [f"text {number}" for number in range(100)]


class Server:
    """Answers calls of a search as a model server would, without the network; `calls` keeps the texts of each."""

    def __init__(self, answer: Callable[[Sequence[str]], None] = lambda texts: None) -> None:
        self._judge = answer
        self.calls: list[list[str]] = []

    async def ask(self, texts: Sequence[str]) -> Embeddings:
        self.calls.append(list(texts))
        self._judge(texts)
        vectors = np.array([vector_of(text, 4) for text in texts])
        return Embeddings(vectors=vectors, endpoint="http://e", upstream_model="u", attempts=(), duration_ms=1.0)

    def search(self, texts: Sequence[str] = TEXTS, *, pieces: int = 1, last_try: bool = False) -> Found:
        return asyncio.run(search(texts, self.ask, pieces=pieces, last_try=last_try))


def refusing(*bad: str) -> Callable[[Sequence[str]], None]:
    def judge(texts: Sequence[str]) -> None:
        if set(bad) & set(texts):
            raise TextRejected("too long")

    return judge


def failing(error: Exception, *bad: str) -> Callable[[Sequence[str]], None]:
    def judge(texts: Sequence[str]) -> None:
        if not bad or set(bad) & set(texts):
            raise error

    return judge


def assert_right(found: Found, texts: Sequence[str] = TEXTS) -> None:
    for index in found.done:
        assert (found.vectors[index] == vector_of(texts[index], 4)).all()


def test_a_call_that_succeeds_is_one_call() -> None:
    server = Server()
    found = server.search()
    assert len(server.calls) == 1
    assert found.done == set(range(100))
    assert found.stopped_by is None
    assert_right(found)


@given(bad=st.sets(st.integers(0, 40), max_size=6), pieces=st.integers(1, 50))
def test_exactly_the_refused_texts_get_an_error_and_all_others_their_own_vector(bad: set[int], pieces: int) -> None:
    texts = TEXTS[:41]
    found = Server(refusing(*(texts[i] for i in bad))).search(texts, pieces=pieces)
    assert set(found.errors) == bad
    assert found.done == set(range(41)) - bad
    assert {error.code for error in found.errors.values()} <= {"text_rejected"}
    assert_right(found, texts)


def test_one_refused_text_of_a_hundred_is_found_in_about_two_calls_a_halving() -> None:
    server = Server(refusing("text 37"))
    server.search()
    assert len(server.calls) <= 1 + 2 * 7


def test_a_failure_ends_the_search_at_once_as_long_as_there_are_attempts_left() -> None:
    server = Server(failing(UpstreamFailed("500")))
    found = server.search()
    assert len(server.calls) == 1
    assert isinstance(found.stopped_by, UpstreamFailed)


@pytest.mark.parametrize("error", [UpstreamFailed("500"), UpstreamMalformed("wrong count")])
def test_on_the_last_try_only_the_text_that_breaks_the_server_gets_the_error(error: Exception) -> None:
    found = Server(failing(error, "text 63")).search(pieces=2, last_try=True)
    assert set(found.errors) == {63}
    assert found.errors[63].code == error.code  # type: ignore[attr-defined]
    assert len(found.done) == 99
    assert_right(found)


def test_a_search_on_the_last_try_never_fails_so_often_in_a_row_that_a_breaker_opens() -> None:
    row = longest = 0

    def judge(texts: Sequence[str]) -> None:
        nonlocal row, longest
        row = row + 1 if "text 63" in texts else 0
        longest = max(longest, row)
        if row:
            raise UpstreamFailed

    for _ in range(20):
        Server(judge).search(pieces=2, last_try=True)
    assert longest <= 3  # the breaker's default threshold is 10


def test_a_timeout_on_the_last_try_is_not_halved() -> None:
    server = Server(failing(UpstreamTimeout("slow")))
    found = server.search(pieces=2, last_try=True)
    assert len(server.calls) == 2
    assert {error.code for error in found.errors.values()} == {"upstream_timeout"}


def test_what_was_found_before_the_breaker_opened_is_kept() -> None:
    calls = 0

    def judge(texts: Sequence[str]) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise CircuitOpen(retry_after=9)

    found = Server(judge).search(pieces=2)
    assert len(found.done) == 50
    assert isinstance(found.stopped_by, CircuitOpen)
    assert_right(found)


def test_vectors_of_two_lengths_in_one_chunk_are_not_put_together() -> None:
    lengths = iter([4, 5])

    async def ask(texts: Sequence[str]) -> Embeddings:
        vectors = np.ones((len(texts), next(lengths)), dtype=np.float32)
        return Embeddings(vectors=vectors, endpoint="e", upstream_model="u", attempts=(), duration_ms=1.0)

    found = asyncio.run(search(TEXTS, ask, pieces=2))
    assert len(found.done) == 50
    assert isinstance(found.stopped_by, UpstreamMalformed)


def test_an_unexpected_error_shows_nothing_of_itself_to_the_client() -> None:
    found = Server(failing(RuntimeError("password=1"))).search(last_try=True)
    assert {error.code for error in found.errors.values()} == {"internal_error"}
    assert all("password" not in error.detail for error in found.errors.values())


def test_a_chunk_without_pending_texts_makes_no_call() -> None:
    server = Server()
    assert server.search([]).stopped_by is None
    assert server.calls == []


# --- attempts, pauses ---


def a_claim(*, attempts: int) -> Claim:
    values = {"chunk": 1, "token": None, "batch": 1, "batch_id": "b", "client": "", "request_id": "", "pattern": ""}
    texts = {"input_type": "", "size": 1, "texts": ("t",), "positions": (0,), "kept": None}
    return Claim(attempts=attempts, **values, **texts)  # type: ignore[arg-type]


def test_a_last_try_begins_with_halves_and_with_smaller_pieces_each_time_it_found_nothing(
    settings: Settings,
) -> None:
    settings.CHUNK_MAX_ATTEMPTS = 5
    seen = [(settling.is_last_try([a_claim(attempts=n)]), settling.pieces([a_claim(attempts=n)])) for n in range(7)]
    assert seen == [(False, 1)] * 4 + [(True, 2), (True, 4), (True, 8)]


def test_chunks_wait_longer_after_each_failure_up_to_a_bound_and_as_long_as_the_server_asks(
    settings: Settings,
) -> None:
    settings.CHUNK_BACKOFF, settings.CHUNK_BACKOFF_MAX = 2.0, 60.0
    for attempts, nominal in ((0, 2), (1, 4), (2, 8), (20, 60)):
        waits = [settling.backoff(attempts, UpstreamFailed()) for _ in range(50)]
        assert 0.75 * nominal <= min(waits) < max(waits) <= 1.25 * nominal
    assert settling.backoff(0, UpstreamFailed(retry_after=500)) == 500


def test_a_pause_that_the_server_asks_for_is_kept_and_an_open_breaker_looked_at_again_soon() -> None:
    assert 100 <= settling.pause(UpstreamBusy(retry_after=100)) <= 125
    assert settling.pause(CircuitOpen(retry_after=300)) <= settling.LONGEST_BREAKER_PAUSE * 1.25
    assert settling.pause(CircuitOpen(retry_after=0.01)) >= 0.5
