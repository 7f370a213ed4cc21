"""The documents of /embed are the promised ones, field by field."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pytest

from integrations.api.bodies import live_body, queued_body
from integrations.patterns import Accepted, Attempt, EmbedCall, Embeddings, EmbedRequest, Mode
from tests.made import a_model, an_assignment, an_endpoint
from tests.spec_shape import SPEC, differences

RECEIVED = datetime(2025, 7, 15, 14, 30, 0, 900_000, tzinfo=UTC)


def a_call(slug: str, pattern: str, mode: Mode, **request: Any) -> EmbedCall:
    fields: dict[str, Any] = {"texts": ("a",), "single": True}
    return EmbedCall(
        request_id="id-1",
        client="c",
        model=a_model(an_endpoint("http://127.0.0.1:9"), slug=slug),
        assignment=an_assignment(pattern),
        mode=mode,
        request=EmbedRequest(**fields | request),
        received_at=RECEIVED,
    )


def embeddings(rows: int = 1, **changes: Any) -> Embeddings:
    values: dict[str, Any] = {
        "vectors": np.arange(3 * rows, dtype=np.float32).reshape(rows, 3) / 7,
        "endpoint": "http://127.0.0.1:11403",
        "upstream_model": "phi3:mini",
        "attempts": (Attempt(endpoint="http://127.0.0.1:11403", outcome="ok", ms=12.0),),
        "duration_ms": 123.456,
    }
    return Embeddings(**(values | changes))


def accepted(slug: str) -> Accepted:
    return Accepted(
        batch_id=f"batch_{slug}_20250715_143000_0a1b2c",
        items_count=3,
        queue_position=1,
        estimated_completion=RECEIVED + timedelta(minutes=5),
        queued_at=RECEIVED,
    )


@pytest.mark.parametrize(
    ("promised", "slug", "pattern"), [("real_time", "phi3", "real_time"), ("hybrid_live", "hermes", "hybrid")]
)
def test_a_live_answer_is_the_promised_document(promised: str, slug: str, pattern: str) -> None:
    answer = orjson.loads(live_body(a_call(slug, pattern, Mode.LIVE, urgent=True), embeddings()))

    assert (
        differences(SPEC[promised], answer, same=("model", "pattern", "processing_mode", "pattern_type", "urgent"))
        == []
    )
    assert answer.keys() == SPEC[promised].keys()
    assert answer["processing_time_ms"] == 123.5
    assert answer["metadata"] == {
        "pattern_type": pattern,
        "urgent": True,
        "processed_at": "2025-07-15T14:30:01Z",
        "request_id": "id-1",
        "attempts": 1,
        "dimensions": 3,
        "upstream_model": "phi3:mini",
        "cached": False,
    }


@pytest.mark.parametrize(
    ("promised", "slug", "pattern", "flags"),
    [
        ("hybrid_queued", "hermes", "hybrid", {"urgent": False}),
        ("hybrid_queued", "hermes", "hybrid", {"batch": True}),
        ("bulk", "mixtral", "bulk_only", {"batch": True}),
    ],
)
def test_a_queued_answer_is_the_promised_document(
    promised: str, slug: str, pattern: str, flags: dict[str, bool]
) -> None:
    answer = orjson.loads(queued_body(a_call(slug, pattern, Mode.QUEUED, **flags), accepted(slug)))

    values = ("status", "model", "pattern", "processing_mode", "pattern_type", "urgent", "batch_size", "items_count")
    assert differences(SPEC[promised], answer, same=values) == []
    assert answer["items_count"] == 3
    assert answer["metadata"]["request_id"] == "id-1"
    assert answer["estimated_completion"] == "2025-07-15T14:35:00Z"


def test_several_texts_give_a_list_of_vectors_that_lose_no_bit() -> None:
    vectors = np.array([[0.1, 1e-30], [3.4e38, -0.0]], dtype=np.float32)
    call = a_call("phi3", "real_time", Mode.LIVE, texts=("a", "b"), single=False)

    answer = orjson.loads(live_body(call, embeddings(vectors=vectors)))

    assert "embedding" not in answer
    assert np.array_equal(np.array(answer["embeddings"], dtype=np.float32), vectors)


def test_vectors_that_are_a_view_of_others_are_written_right() -> None:
    every_second = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2]

    answer = orjson.loads(live_body(a_call("phi3", "real_time", Mode.LIVE), embeddings(vectors=every_second)))

    assert answer["embedding"] == [0.0, 2.0, 4.0]


@pytest.mark.parametrize(("sent", "told"), [(None, True), (True, True), (False, False)])
def test_a_live_answer_echoes_urgent_and_says_true_where_it_was_not_sent(sent: bool | None, told: bool) -> None:
    answer = orjson.loads(live_body(a_call("phi3", "real_time", Mode.LIVE, urgent=sent), embeddings()))

    assert answer["metadata"]["urgent"] is told


def test_a_failover_is_told_with_the_endpoint_that_failed() -> None:
    attempts = tuple(Attempt(endpoint=e, outcome="ok", ms=1.0) for e in ("http://127.0.0.1:1", "http://127.0.0.1:2"))
    answer = orjson.loads(
        live_body(
            a_call("phi3", "real_time", Mode.LIVE),
            embeddings(attempts=attempts, failover_from="http://127.0.0.1:1"),
        )
    )

    assert answer["metadata"]["failover_from"] == "http://127.0.0.1:1"
    assert answer["metadata"]["attempts"] == 2
