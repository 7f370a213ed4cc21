"""One suite for all protocols: whatever a server says, a caller gets the right vectors or the right error."""

import json
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integrations import protocols
from integrations.errors import TextRejected, UpstreamBusy, UpstreamFailed, UpstreamMalformed
from integrations.protocols import HttpRequest, HttpResponse, Protocol, Vectors
from tests.upstream_speech import SPEECH

# A busy machine is no finding: no example has a time limit.
settings.register_profile("patient", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

every_protocol = pytest.mark.parametrize(
    "protocol", [protocols.get(name) for name in protocols.NAMES], ids=lambda p: p.name
)

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
matrices = st.integers(1, 6).flatmap(
    lambda size: st.lists(st.lists(finite, min_size=size, max_size=size), min_size=1, max_size=8)
)


def ask(protocol: Protocol, texts: list[str], **changes: Any) -> HttpRequest:
    options = {"model": "m", "truncate": False, "normalise": True, "headers": {}, **changes}
    return protocol.build_request("http://127.0.0.1:1", texts=texts, **options)


def answer(protocol: Protocol, rows: Any, *, order: list[int] | None = None) -> HttpResponse:
    """What a real server sends for these vectors."""
    body = SPEECH[protocol.name].answer(rows, "m", order or list(range(len(rows))))
    return HttpResponse(status=200, body=body)


def parse(protocol: Protocol, response: HttpResponse, expected: int, **options: Any) -> Vectors:
    return protocol.parse_response(response, expected=expected, **{"dimensions": None, **options})


def malformed(protocol: Protocol, response: HttpResponse, expected: int, **options: Any) -> None:
    with pytest.raises(UpstreamMalformed):
        parse(protocol, response, expected, **options)


# --- asking ---


@every_protocol
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_every_text_is_sent_as_it_is_and_in_order(protocol: Protocol, texts: list[str]) -> None:
    request = ask(protocol, texts)
    assert SPEECH[protocol.name].texts(json.loads(request.body)) == texts
    assert urlsplit(request.url).path == SPEECH[protocol.name].path
    assert (request.method, request.headers["Content-Type"]) == ("POST", "application/json")


@every_protocol
def test_a_lone_surrogate_is_the_text_s_fault(protocol: Protocol) -> None:
    with pytest.raises(TextRejected):
        ask(protocol, ["good", "bad \ud800"])


@every_protocol
@pytest.mark.parametrize("base", ["http://127.0.0.1:1", "http://127.0.0.1:1/", "http://127.0.0.1:1//"])
def test_slashes_at_the_end_of_a_base_url_do_not_matter(protocol: Protocol, base: str) -> None:
    request = protocol.build_request(base, model="m", texts=["x"], truncate=False, normalise=True, headers={})
    health = protocol.build_health(base, headers={})
    assert request.url == "http://127.0.0.1:1" + SPEECH[protocol.name].path
    assert health.url == "http://127.0.0.1:1" + SPEECH[protocol.name].health[0]


@every_protocol
def test_a_base_url_may_have_a_path(protocol: Protocol) -> None:
    request = protocol.build_request(
        "https://gpu/a/b", model="m", texts=["x"], truncate=False, normalise=True, headers={}
    )
    assert request.url == "https://gpu/a/b" + SPEECH[protocol.name].path


@every_protocol
def test_the_given_headers_are_sent_with_calls_and_health_checks(protocol: Protocol) -> None:
    headers = {"Authorization": "Bearer abc"}
    assert ask(protocol, ["x"], headers=headers).headers["Authorization"] == "Bearer abc"
    for request in protocol.health_requests("http://127.0.0.1:1", headers=headers):
        assert (request.method, request.headers) == ("GET", headers)


@every_protocol
def test_its_default_batch_holds_a_sensible_number_of_texts(protocol: Protocol) -> None:
    assert 1 <= protocol.default_max_batch <= 2048


# --- right answers ---


@every_protocol
@given(rows=matrices)
def test_every_number_arrives_to_the_last_bit(protocol: Protocol, rows: list[list[float]]) -> None:
    sent = np.array(rows, np.float32)
    vectors = parse(protocol, answer(protocol, list(sent)), len(rows), dimensions=sent.shape[1])
    assert vectors.dtype == np.float32
    assert vectors.tobytes() == sent.tobytes()
    assert vectors.flags.c_contiguous


@every_protocol
def test_whole_numbers_are_numbers(protocol: Protocol) -> None:
    assert parse(protocol, answer(protocol, [[1, 0], [0, -1]]), 2).tolist() == [[1, 0], [0, -1]]


@every_protocol
def test_unknown_members_of_an_answer_do_not_matter(protocol: Protocol) -> None:
    body = orjson.loads(answer(protocol, [[1.5, 2.5]]).body)
    if isinstance(body, dict):
        body["warming_up"] = True
    assert parse(protocol, HttpResponse(status=200, body=orjson.dumps(body)), 1).tolist() == [[1.5, 2.5]]


# --- wrong answers ---


@every_protocol
@given(rows=matrices, asked=st.integers(1, 10))
def test_another_count_than_asked_for_is_malformed(protocol: Protocol, rows: list[list[float]], asked: int) -> None:
    if asked == len(rows):
        assert parse(protocol, answer(protocol, rows), asked).shape[0] == asked
    else:
        malformed(protocol, answer(protocol, rows), asked)


@every_protocol
@given(rows=matrices, dimensions=st.integers(1, 8))
def test_another_dimension_than_promised_is_malformed(
    protocol: Protocol, rows: list[list[float]], dimensions: int
) -> None:
    if dimensions == len(rows[0]):
        assert parse(protocol, answer(protocol, rows), len(rows), dimensions=dimensions).shape[1] == dimensions
    else:
        malformed(protocol, answer(protocol, rows), len(rows), dimensions=dimensions)


@every_protocol
@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e39", "1e999", "null", "true", '"1.0"', "[1.0]", "{}"]
)
def test_what_is_no_finite_number_is_malformed(protocol: Protocol, number: str) -> None:
    body = answer(protocol, [[0.25, 0.5], [0.75, 1.5]]).body
    for place in (b"0.25", b"1.5"):
        malformed(protocol, HttpResponse(status=200, body=body.replace(place, number.encode())), 2)


@every_protocol
@pytest.mark.parametrize(
    "rows", [[[1.0, 2.0], [3.0]], [[], []], [[1.0], []], [None, None], [1.0, 2.0], [[[1.0]], [[2.0]]]]
)
def test_what_is_no_matrix_is_malformed(protocol: Protocol, rows: Any) -> None:
    malformed(protocol, answer(protocol, rows), 2)


@every_protocol
@pytest.mark.parametrize(
    "body", [b"", b"<html>busy</html>", b"null", b"[]", b"{}", b'"x"', b"3", b'{"error": "x"}', b"\xff\xfe", b"[[1.0,"]
)
def test_what_is_no_answer_is_malformed(protocol: Protocol, body: bytes) -> None:
    malformed(protocol, HttpResponse(status=200, body=body), 2)


@every_protocol
@given(data=st.data())
def test_an_answer_cut_short_anywhere_is_malformed(protocol: Protocol, data: st.DataObject) -> None:
    body = answer(protocol, [[0.5, -0.25], [1.0, 0.0]]).body
    end = data.draw(st.integers(0, len(body) - 1))
    malformed(protocol, HttpResponse(status=200, body=body[:end]), 2)


@every_protocol
@given(
    status=st.sampled_from([200, 201, 301, 400, 401, 404, 413, 422, 424, 429, 500, 503]),
    body=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | finite | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["error", "message", "detail", "msg", "data", "index", "embedding", "embeddings"]),
                inner,
            )
        ),
        max_leaves=12,
    ).map(orjson.dumps),
)
def test_no_answer_whatever_makes_anything_but_vectors_or_our_errors(
    protocol: Protocol, status: int, body: bytes
) -> None:
    try:
        vectors = parse(protocol, HttpResponse(status=status, body=body), 1)
    except (TextRejected, UpstreamBusy, UpstreamFailed, UpstreamMalformed):
        return
    assert vectors.shape[0] == 1
    assert np.isfinite(vectors).all()


# --- errors ---


@every_protocol
@pytest.mark.parametrize(
    ("status", "error"),
    [
        *(
            (status, UpstreamFailed)
            for status in (301, 302, 307, 308, 401, 403, 404, 405, 408, 424, 500, 501, 502, 503, 504)
        ),
        *((status, TextRejected) for status in (400, 413, 422)),
        (429, UpstreamBusy),
    ],
)
def test_each_status_means_the_same_everywhere(protocol: Protocol, status: int, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        parse(protocol, HttpResponse(status=status, body=b"secret internal words"), 1)
    assert "secret" not in str(caught.value)


@every_protocol
def test_a_call_over_the_servers_own_bound_is_refused_so_that_halving_it_helps(protocol: Protocol) -> None:
    speech = SPEECH[protocol.name]
    body = speech.error(speech.too_many.format(count=64, limit=32), speech.refusal_status)
    with pytest.raises(TextRejected, match="max_batch"):
        parse(protocol, HttpResponse(status=speech.refusal_status, body=body), 64)


@every_protocol
@pytest.mark.parametrize("words", ["does not support", "server busy", "EOF", "connection refused"])
def test_a_clients_own_text_never_decides_whose_fault_it_was(protocol: Protocol, words: str) -> None:
    # FastAPI's refusals repeat the input.
    detail = [{"type": "string_type", "loc": ["body", "input"], "msg": "Input should be valid", "input": words}]
    with pytest.raises(TextRejected):
        parse(protocol, HttpResponse(status=422, body=orjson.dumps({"detail": detail})), 1)


# --- pauses ---

DATE = "Tue, 15 Nov 1994 08:12:31 GMT"


@every_protocol
@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 0 "}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "999999"}, 3600),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Tue, 15 Nov 1994 08:13:01 GMT", "date": DATE}, 30),
        ({"retry-after": "Tue, 15 Nov 1994 08:00:00 GMT", "date": DATE}, 0),
        ({"retry-after": "Tue, 15 Nov 2094 08:00:00 GMT", "date": DATE}, 3600),
        ({"retry-after": "Tue, 15 Nov 1994 08:13:01 GMT"}, None),
        ({"retry-after": "Tue, 15 Nov 1994 08:13:01", "date": DATE}, None),
        ({"retry-after": "Tue, 99 Nov 1994 08:13:01 GMT", "date": DATE}, None),
    ],
)
def test_a_pause_is_understood_in_seconds_and_as_a_date(
    protocol: Protocol, headers: dict[str, str], pause: float | None
) -> None:
    for status, error in ((429, UpstreamBusy), (503, UpstreamFailed)):
        with pytest.raises(error) as caught:
            parse(protocol, HttpResponse(status=status, headers=headers, body=b""), 1)
        assert caught.value.retry_after == pause


# --- length 1 ---


@every_protocol
@given(rows=matrices)
def test_normalising_leaves_length_one_or_nothing(protocol: Protocol, rows: list[list[float]]) -> None:
    vectors = parse(protocol, answer(protocol, rows), len(rows), normalise=True)
    for row, vector in zip(np.array(rows, np.float32).astype(np.float64), vectors, strict=True):
        length = np.linalg.norm(vector.astype(np.float64))
        assert abs(length - 1) < 2e-3 if np.linalg.norm(row) > 1e-30 else length < 2
        assert np.isfinite(vector).all()


@every_protocol
def test_normalising_touches_no_bit_of_a_vector_that_is_there_already(protocol: Protocol) -> None:
    rows = np.array([[0.6, -0.8], [0.6003, -0.8003], [3.0, 4.0], [0.0, 0.0]], np.float32)
    vectors = parse(protocol, answer(protocol, list(rows)), 4, normalise=True)
    assert vectors[[0, 1, 3]].tobytes() == rows[[0, 1, 3]].tobytes()
    assert vectors[2].tolist() == pytest.approx([0.6, 0.8])


@every_protocol
def test_nothing_is_normalised_unasked(protocol: Protocol) -> None:
    assert parse(protocol, answer(protocol, [[3.0, 4.0]]), 1).tolist() == [[3.0, 4.0]]


# --- health ---


@every_protocol
def test_health_is_asked_where_the_server_answers_it(protocol: Protocol) -> None:
    assert protocol.health_paths[0] in SPEECH[protocol.name].health
    assert protocol.parse_health(HttpResponse(status=200, body=SPEECH[protocol.name].healthy("m"))).ok


@every_protocol
@pytest.mark.parametrize("status", [301, 401, 404, 429, 500, 503])
def test_an_unhealthy_answer_is_told_without_the_servers_words(protocol: Protocol, status: int) -> None:
    health = protocol.parse_health(HttpResponse(status=status, body=b"secret internal words"))
    assert not health.ok
    assert str(status) in health.detail
    assert "secret" not in health.detail


def test_an_unknown_protocol_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        protocols.get("grpc")
