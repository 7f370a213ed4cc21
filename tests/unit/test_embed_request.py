"""What a client may send, and the field that is named when it may not."""

import json
from typing import Any

import orjson
import pytest
from django.conf import LazySettings
from hypothesis import given
from hypothesis import strategies as st

from integrations.embed_request import check_mode, idempotency_key, parse_json, parse_lines, parse_lines_params
from integrations.errors import InvalidRequest
from integrations.patterns import EmbedRequest, Mode


def refused(body: bytes) -> dict[str, Any]:
    """The errors of a refused body, as they go over the wire."""
    with pytest.raises(InvalidRequest) as caught:
        parse_json(body)
    assert caught.value.errors
    named: dict[str, Any] = orjson.loads(orjson.dumps(dict(caught.value.errors)))
    return named


def refused_json(**fields: Any) -> dict[str, Any]:
    return refused(json.dumps(fields).encode())


def test_a_text_alone_leaves_every_other_field_open() -> None:
    assert parse_json(b'{"text": "a"}') == EmbedRequest(texts=("a",), single=True)


def test_every_field_arrives() -> None:
    body = {
        "texts": ["a", "ä\U0001f600", " "],
        "urgent": False,
        "batch": True,
        "pattern": "hybrid",
        "input_type": "query",
        "priority": 0,
        "client_metadata": {"job": "7", "empty": ""},
    }

    assert parse_json(json.dumps(body).encode()) == EmbedRequest(**body, single=False)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"not json", "body"),
        (b'{"text": "a"', "body"),
        (b'{"text": "a"}{}', "body"),
        (b'\xef\xbb\xbf{"text": "a"}', "body"),
        (b'{"text": "a", "priority": NaN, "priority": 5}', "body"),
        (b"[" * 5000, "body"),
        (b"[]", "body"),
        (b'"text"', "body"),
        (b"null", "body"),
        (b"{}", "text"),
        (b'{"text": "a", "texts": ["a"]}', "texts"),
        (b'{"text": null}', "text"),
        (b'{"text": 1}', "text"),
        (b'{"text": ""}', "text"),
        (b'{"text": "a\\u0000b"}', "text"),
        (b'{"text": "\\ud800"}', "text"),
        (b'{"text": "\xff"}', "text"),
        (b'{"texts": "a"}', "texts"),
        (b'{"texts": []}', "texts"),
        (b'{"texts": {"0": "a"}}', "texts"),
        (b'{"texts": ["a", ""]}', "texts.1"),
        (b'{"texts": ["a", "b", "c", ["d"]]}', "texts.3"),
        (b'{"texts": ["a", "\\udfff"]}', "texts.1"),
        (b'{"texts": ["a", NaN]}', "texts.1"),
        (b'{"text": "a", "urgent": 1}', "urgent"),
        (b'{"text": "a", "urgent": null}', "urgent"),
        (b'{"text": "a", "batch": "true"}', "batch"),
        (b'{"text": "a", "pattern": "bulk"}', "pattern"),
        (b'{"text": "a", "pattern": ["hybrid"]}', "pattern"),
        (b'{"text": "a", "input_type": ""}', "input_type"),
        (b'{"text": "a", "priority": 10}', "priority"),
        (b'{"text": "a", "priority": -1}', "priority"),
        (b'{"text": "a", "priority": true}', "priority"),
        (b'{"text": "a", "priority": 5.0}', "priority"),
        (b'{"text": "a", "priority": NaN}', "priority"),
        (b'{"text": "a", "callback_url": "http://example.org/"}', "callback_url"),
        (b'{"text": "a", "client_metadata": ["a"]}', "client_metadata"),
        (b'{"text": "a", "client_metadata": {"a": 1}}', "client_metadata"),
        (b'{"text": "a", "client_metadata": {"a": "\\u0000"}}', "client_metadata"),
        (b'{"text": "a", "client_metadata": {"": "a"}}', "client_metadata"),
        (b'{"text": "a", "model": "phi3"}', "model"),
        (b'{"text": "a", "\\ud800": 1}', "?"),
    ],
)
def test_a_wrong_body_is_refused_with_its_field_named(body: bytes, field: str) -> None:
    assert list(refused(body)) == [field]


def test_urgent_and_batch_together_are_refused_under_both_names() -> None:
    assert set(refused_json(text="a", urgent=True, batch=True)) == {"urgent", "batch"}


@pytest.mark.parametrize("flags", [{"urgent": False, "batch": True}, {"urgent": True, "batch": False}])
def test_flags_that_do_not_contradict_each_other_pass(flags: dict[str, bool]) -> None:
    assert parse_json(json.dumps({"text": "a", **flags}).encode()) == EmbedRequest(texts=("a",), single=True, **flags)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    assert set(refused_json(text="", urgent="now", priority="high", colour="red")) == {
        "text",
        "urgent",
        "priority",
        "colour",
    }


def test_a_list_full_of_wrong_texts_is_not_answered_with_as_many_complaints() -> None:
    assert list(refused_json(texts=[0] * 1000)) == [f"texts.{i}" for i in range(10)]
    assert len(refused_json(text="a", **{f"field{i}": 0 for i in range(1000)})) == 10


def test_a_field_name_of_any_length_is_said_back_short() -> None:
    (name,) = refused_json(text="a", **{"x" * 100_000: 1})

    assert name == "x" * 64


def test_metadata_is_bounded() -> None:
    assert "client_metadata" in refused_json(text="a", client_metadata={str(i): "x" for i in range(17)})
    assert "client_metadata" in refused_json(text="a", client_metadata={"k": "x" * 257})
    assert "client_metadata" in refused_json(text="a", client_metadata={"k" * 65: "x"})


def test_a_text_is_bounded_in_bytes_of_utf8(settings: LazySettings) -> None:
    settings.MAX_TEXT_BYTES = 8

    assert parse_json(json.dumps({"text": "ä" * 4}).encode()).texts == ("ääää",)
    assert "text" in refused_json(text="ä" * 4 + "a")
    assert "text" in refused_json(text="a" * 9)


def test_more_texts_than_any_mode_takes_are_refused_at_once(settings: LazySettings) -> None:
    settings.LIVE_MAX_TEXTS, settings.QUEUED_MAX_TEXTS = 2, 4

    assert "texts" in refused_json(texts=["a"] * 5)


def test_each_mode_has_its_own_bound(settings: LazySettings) -> None:
    settings.LIVE_MAX_TEXTS, settings.QUEUED_MAX_TEXTS = 2, 4
    three = parse_json(b'{"texts": ["a", "b", "c"]}')

    check_mode(three, Mode.QUEUED)
    with pytest.raises(InvalidRequest) as caught:
        check_mode(three, Mode.LIVE)
    assert list(caught.value.errors or {}) == ["texts"]
    settings.QUEUED_MAX_TEXTS = 2
    with pytest.raises(InvalidRequest):
        check_mode(three, Mode.QUEUED)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_names = st.sampled_from(["text", "texts", "urgent", "batch", "pattern", "priority", "client_metadata", "other"])


@given(st.binary(max_size=64) | st.dictionaries(_names, _json).map(lambda d: json.dumps(d).encode()))
def test_whatever_comes_is_a_request_or_a_refusal_that_can_be_sent(body: bytes) -> None:
    try:
        request = parse_json(body)
    except InvalidRequest as refusal:
        orjson.dumps(dict(refusal.errors or {}))
    else:
        assert request.texts
        assert all(text and "\0" not in text and text.encode() for text in request.texts)


# --- NDJSON ---


def test_an_ndjson_upload_takes_its_fields_from_the_query_and_is_always_queued() -> None:
    query = "urgent=false&priority=9&input_type=passage&pattern=hybrid&client_metadata=%7B%22a%22%3A%22%C3%A4%22%7D"

    assert parse_lines_params(query) == EmbedRequest(
        texts=(),
        single=False,
        urgent=False,
        batch=True,
        priority=9,
        input_type="passage",
        pattern="hybrid",
        client_metadata={"a": "ä"},
    )
    assert (
        parse_lines_params("") == parse_lines_params("batch=false") == EmbedRequest(texts=(), single=False, batch=True)
    )


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("urgent=yes", "urgent"),
        ("urgent=true", "urgent"),
        ("priority=10", "priority"),
        ("priority=²", "priority"),
        ("priority=1&priority=2", "priority"),
        ("client_metadata=a", "client_metadata"),
        ("pattern=%FF", "pattern"),
        ("text=a", "text"),
        ("callback_url=a", "callback_url"),
    ],
)
def test_a_wrong_query_parameter_is_named(query: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_lines_params(query)
    assert field in (caught.value.errors or {})


def test_lines_give_their_texts_and_empty_ones_do_not_count() -> None:
    lines = [b'{"text": "a"}\n', b"\r\n", b'{"text":"b"}\r\n', b'{"text": "c"}']

    assert list(parse_lines(lines)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "line",
    [
        b"a",
        b'"a"',
        b"{}",
        b'{"text": ""}',
        b'{"text": 1}',
        b'{"text": "a", "id": 1}',
        b'{"text": "\xff"}',
        b'{"text": "a"',
    ],
)
def test_a_wrong_line_is_named_by_its_number_after_the_texts_before_it(line: bytes) -> None:
    texts = parse_lines([b'{"text": "a"}\n', b"\n", line])

    assert next(texts) == "a"
    with pytest.raises(InvalidRequest) as caught:
        next(texts)
    assert list(caught.value.errors or {}) == ["lines.3"]


def test_lines_are_counted_against_the_bound_of_a_batch(settings: LazySettings) -> None:
    settings.MAX_BATCH_TEXTS = 2

    with pytest.raises(InvalidRequest) as caught:
        list(parse_lines([b'{"text": "a"}\n'] * 3))
    assert list(caught.value.errors or {}) == ["lines.3"]


def test_an_idempotency_key_is_printable_and_bounded() -> None:
    assert idempotency_key(None) == ""
    assert idempotency_key("a-1 b") == "a-1 b"
    for wrong in ("", "a" * 256, "a\n", "ä"):
        with pytest.raises(InvalidRequest) as caught:
            idempotency_key(wrong)
        assert list(caught.value.errors or {}) == ["Idempotency-Key"]
