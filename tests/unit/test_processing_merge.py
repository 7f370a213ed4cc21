"""A chunk's columns after a run: which row belongs to which text, and what an earlier run left there."""

import uuid
from collections.abc import Mapping, Sequence

import numpy as np

from batches.bisection import Outcome, Refusal
from batches.claiming import Claim, Kept
from batches.storing import merge

REFUSED = Refusal(code="text_rejected", detail="too long")


def a_claim(positions: Sequence[int], *, size: int = 4, kept: Kept | None = None) -> Claim:
    return Claim(
        chunk=1,
        token=uuid.uuid4(),
        batch=1,
        batch_id="b",
        client="",
        request_id="",
        pattern="bulk_only",
        input_type="",
        attempts=0,
        size=size,
        texts=tuple(f"text {position}" for position in positions),
        positions=tuple(positions),
        kept=kept,
    )


def an_outcome(vectors: Mapping[int, Sequence[float]], errors: Mapping[int, Refusal], *, texts: int = 4) -> Outcome:
    dimensions = len(next(iter(vectors.values()))) if vectors else 0
    rows = np.zeros((texts, dimensions), dtype=np.float32)
    for index, row in vectors.items():
        rows[index] = row
    return Outcome(vectors=rows, done=frozenset(vectors), errors=errors, endpoint="http://e", upstream_model="u")


def stored(*rows: Sequence[float]) -> bytes:
    return np.array(rows, dtype="<f4").tobytes()


def test_a_refused_text_leaves_a_row_of_zeros_and_an_error_at_its_position() -> None:
    merged = merge(a_claim(range(4)), an_outcome({0: [1, 2], 1: [3, 4], 3: [5, 6]}, {2: REFUSED}))
    assert merged.vectors == stored([1, 2], [3, 4], [0, 0], [5, 6])
    assert merged.dimensions == 2
    assert merged.errors == {"2": {"code": "text_rejected", "detail": "too long"}}
    assert (merged.pending, merged.completed, merged.failed) == (None, 3, 1)


def test_without_any_vector_there_are_no_bytes() -> None:
    merged = merge(a_claim(range(4)), an_outcome({}, dict.fromkeys(range(4), REFUSED)))
    assert (merged.vectors, merged.dimensions, merged.failed) == (None, None, 4)


def test_a_retry_writes_only_the_rows_of_its_own_texts() -> None:
    kept = Kept(vectors=stored([1, 1], [0, 0], [2, 2], [0, 0]), dimensions=2, errors={})
    merged = merge(a_claim([1, 3], kept=kept), an_outcome({0: [7, 8], 1: [9, 9]}, {}, texts=2))
    assert merged.vectors == stored([1, 1], [7, 8], [2, 2], [9, 9])
    assert (merged.errors, merged.pending, merged.completed, merged.failed) == ({}, None, 2, 0)


def test_texts_without_an_outcome_stay_pending_and_earlier_errors_stay() -> None:
    kept = Kept(vectors=b"", dimensions=0, errors={"0": {"code": "text_rejected", "detail": "x"}})
    merged = merge(a_claim([1, 2, 3], kept=kept), an_outcome({1: [5, 5]}, {}, texts=3))
    assert merged.vectors == stored([0, 0], [0, 0], [5, 5], [0, 0])
    assert (merged.pending, merged.completed, merged.failed) == ([1, 3], 1, 0)
    assert merged.errors == {"0": {"code": "text_rejected", "detail": "x"}}


def test_vectors_of_another_length_than_the_stored_ones_are_refused_and_the_stored_ones_kept() -> None:
    kept = Kept(vectors=stored([1, 1], [0, 0], [2, 2], [3, 3]), dimensions=2, errors={})
    merged = merge(a_claim([1], kept=kept), an_outcome({0: [7, 8, 9]}, {}, texts=1))
    assert merged.vectors == kept.vectors
    assert merged.errors["1"]["code"] == "upstream_malformed"
    assert (merged.completed, merged.failed) == (0, 1)
