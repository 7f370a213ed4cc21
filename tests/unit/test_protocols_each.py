"""What is peculiar to one protocol."""

import base64
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integrations import protocols
from integrations.errors import TextRejected, UpstreamFailed, UpstreamMalformed
from integrations.protocols import HttpResponse, Vectors
from tests.upstreams import vector_of

# A busy machine is no finding: no example has a time limit.
settings.register_profile("patient", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

OLLAMA, OPENAI, TEI = (protocols.get(name) for name in ("ollama", "openai", "tei"))


def body_of(protocol: protocols.Protocol, *, truncate: bool = False, normalise: bool = True) -> dict[str, Any]:
    request = protocol.build_request(
        "http://127.0.0.1:1", model="m", texts=["x"], truncate=truncate, normalise=normalise, headers={}
    )
    body: dict[str, Any] = orjson.loads(request.body)
    return body


@pytest.mark.parametrize("truncate", [True, False])
def test_ollama_is_always_told_whether_to_cut_since_it_would_by_itself(truncate: bool) -> None:
    assert body_of(OLLAMA, truncate=truncate) == {"model": "m", "input": ["x"], "truncate": truncate}


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
def test_tei_is_told_whether_to_cut_and_to_normalise(truncate: bool, normalise: bool) -> None:
    expected = {"inputs": ["x"], "truncate": truncate, "normalize": normalise}
    assert body_of(TEI, truncate=truncate, normalise=normalise) == expected


def test_openai_is_asked_to_cut_only_where_the_model_says_so() -> None:
    plain = {"model": "m", "input": ["x"], "encoding_format": "base64"}
    assert body_of(OPENAI) == plain
    assert body_of(OPENAI, truncate=True) == {**plain, "truncate_prompt_tokens": -1}


@pytest.mark.parametrize("base", ["http://gpu:8000", "http://gpu:8000/v1", "http://gpu:8000/v1/"])
def test_an_openai_base_url_may_end_in_v1(base: str) -> None:
    request = OPENAI.build_request(base, model="m", texts=["x"], truncate=False, normalise=True, headers={})
    health = [request.url for request in OPENAI.health_requests(base, headers={})]
    assert request.url == "http://gpu:8000/v1/embeddings"
    assert health == ["http://gpu:8000/health", "http://gpu:8000/v1/models"]


def openai_answer(items: list[Any]) -> HttpResponse:
    return HttpResponse(status=200, body=orjson.dumps({"object": "list", "data": items}))


def parse(items: list[Any], expected: int) -> Vectors:
    return OPENAI.parse_response(openai_answer(items), expected=expected, dimensions=4)


def packed(vector: Vectors) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


@given(order=st.integers(1, 12).flatmap(lambda count: st.permutations(range(count))), data=st.data())
def test_openai_s_vectors_find_their_texts_by_index_in_any_order_and_form(
    order: list[int], data: st.DataObject
) -> None:
    rows = [vector_of(f"text {number}", 4) for number in range(len(order))]
    items = [
        {"index": i, "embedding": packed(rows[i]) if data.draw(st.booleans()) else [float(x) for x in rows[i]]}
        for i in order
    ]
    assert parse(items, len(order)).tobytes() == np.stack(rows).tobytes()


@given(indexes=st.lists(st.integers(-2, 5), min_size=3, max_size=3))
def test_openai_s_indexes_must_be_exactly_those_of_the_texts(indexes: list[int]) -> None:
    items = [{"index": index, "embedding": [1.0, 0.0, 0.0, float(index)]} for index in indexes]
    if sorted(indexes) == [0, 1, 2]:
        assert [row[3] for row in parse(items, 3).tolist()] == [0, 1, 2]
    else:
        with pytest.raises(UpstreamMalformed):
            parse(items, 3)


@pytest.mark.parametrize("index", [None, "0", 0.0, True, [0], "missing"])
def test_an_index_that_is_no_whole_number_is_malformed(index: Any) -> None:
    item = {"embedding": [1.0, 0.0, 0.0, 0.0]} | ({} if index == "missing" else {"index": index})
    with pytest.raises(UpstreamMalformed):
        parse([item], 1)


@pytest.mark.parametrize("embedding", ["", "A", "AAAA", "not base64!", packed(np.full(4, np.nan, np.float32)), "Ä"])
def test_base64_that_is_not_float32_is_malformed(embedding: str) -> None:
    with pytest.raises(UpstreamMalformed):
        parse([{"index": 0, "embedding": embedding}], 1)


@pytest.mark.parametrize("item", [None, 1, "x", [], {"index": 0}])
def test_an_item_that_is_no_embedding_is_malformed(item: Any) -> None:
    with pytest.raises(UpstreamMalformed):
        parse([item], 1)


def test_only_ollama_s_own_version_counts_as_ollama_s_health() -> None:
    assert OLLAMA.parse_health(HttpResponse(status=200, body=b'{"version": "0.5.1"}')).detail == "Ollama 0.5.1"
    assert OLLAMA.parse_health(HttpResponse(status=200, body=b'{"version": "<script>"}')).detail == "Ollama"
    for body in (b"<html>welcome</html>", b"{}", b"[]"):
        assert not OLLAMA.parse_health(HttpResponse(status=200, body=body)).ok


@pytest.mark.parametrize(
    ("words", "error"), [("too large to process", TextRejected), ("out of memory", UpstreamFailed)]
)
def test_a_500_is_the_texts_fault_only_where_the_server_says_so(words: str, error: type[Exception]) -> None:
    body = orjson.dumps({"error": {"code": 500, "message": f"input is {words}"}})
    with pytest.raises(error):
        OPENAI.parse_response(HttpResponse(status=500, body=body), expected=1, dimensions=None)


def test_a_huge_error_body_is_judged_by_its_beginning() -> None:
    body = orjson.dumps({"error": "the input length exceeds the context length " + "x" * 10**6})
    with pytest.raises(TextRejected, match="too long"):
        OLLAMA.parse_response(HttpResponse(status=400, body=body), expected=1, dimensions=None)
