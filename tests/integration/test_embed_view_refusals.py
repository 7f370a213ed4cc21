"""What POST …/embed refuses through Django alone: told as a problem with its field, neither stored nor sent."""

from collections.abc import Iterator

import pytest
from django.conf import LazySettings

from batches.models import BatchJob
from tests.made_api import ALL_SCOPES, Api, problem, serve
from tests.upstreams import Upstream

NDJSON = "application/x-ndjson"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(protocol="ollama") as server:
        yield server


@pytest.fixture
def api(upstream: Upstream, db: None) -> Iterator[Api]:
    serve("phi3", "real_time", upstream)
    serve("mixtral", "bulk_only", upstream)
    yield Api(*ALL_SCOPES)
    assert not BatchJob.objects.exists()
    assert upstream.calls == 0


@pytest.mark.usefixtures("records")
def test_wrong_lines_are_refused_by_their_number(api: Api) -> None:
    for body, field in (
        (b'{"text": "a"}\n{"text": 1}\n', "lines.2"),
        (b'{"text": "a"}\n{"text"', "lines.2"),
        (b"\n\n", "body"),
    ):
        assert field in problem(api.raw("mixtral", body, kind=NDJSON))["errors"]


@pytest.mark.usefixtures("records")
def test_a_line_without_end_is_refused_before_it_fills_the_memory(api: Api, settings: LazySettings) -> None:
    settings.MAX_TEXT_BYTES = 100
    body = b'{"text": "a"}\n{"text": "' + b"a" * 10_000 + b'"}'

    assert list(problem(api.raw("mixtral", body, kind=NDJSON))["errors"]) == ["lines.2"]


@pytest.mark.usefixtures("records")
def test_an_ndjson_body_over_the_bound_is_refused(api: Api, settings: LazySettings) -> None:
    settings.MAX_NDJSON_BODY_BYTES = 100

    assert problem(api.raw("mixtral", b'{"text": "a"}\n' * 10, kind=NDJSON))["code"] == "request_too_large"


def test_a_model_that_only_answers_live_takes_no_lines(api: Api) -> None:
    found = problem(api.raw("phi3", b'{"text": "a"}\n', kind=NDJSON))

    assert (found["status"], found["code"]) == (409, "pattern_conflict")
    assert "application/json" in found["detail"]


@pytest.mark.parametrize(
    ("model", "body", "code", "field"),
    [
        ("phi3", b"not json", "invalid_request", "body"),
        ("phi3", b'{"text": "\\ud800"}', "invalid_request", "text"),
        ("mixtral", b'{"texts": ["a", ""]}', "invalid_request", "texts.1"),
        ("mixtral", b'{"text": "a\\u0000"}', "invalid_request", "text"),
        ("mixtral", b'{"text": "a", "pattern": "none"}', "invalid_request", "pattern"),
        ("mixtral", b'{"text": "a", "pattern": "hybrid"}', "pattern_not_assigned", None),
        ("mixtral", b'{"text": "a", "urgent": true}', "pattern_conflict", None),
        ("phi3", b'{"text": "a", "batch": true}', "pattern_conflict", None),
        ("nobody", b'{"text": "a"}', "model_not_found", None),
        ("no.body", b'{"text": "a"}', "model_not_found", None),
        ("%FF", b'{"text": "a"}', "model_not_found", None),
    ],
)
def test_what_is_wrong_is_told(api: Api, model: str, body: bytes, code: str, field: str | None) -> None:
    found = problem(api.raw(model, body))

    assert found["code"] == code
    assert list(found.get("errors", {})) == ([field] if field else [])


def test_a_live_call_of_too_many_texts_is_refused(api: Api, settings: LazySettings) -> None:
    settings.LIVE_MAX_TEXTS = 2

    assert "texts" in problem(api.embed("phi3", texts=["a", "b", "c"]))["errors"]


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"]
)
def test_another_content_type_is_refused(api: Api, kind: str) -> None:
    assert problem(api.raw("phi3", b'{"text": "a"}', kind=kind))["code"] == "unsupported_media_type"


def test_a_json_body_over_the_bound_is_refused(api: Api, settings: LazySettings) -> None:
    settings.MAX_JSON_BODY_BYTES = 50

    assert problem(api.embed("phi3", text="a" * 50))["code"] == "request_too_large"


def test_an_idempotency_key_that_cannot_be_kept_is_named(api: Api) -> None:
    found = problem(api.raw("mixtral", b'{"text": "a"}', **{"Idempotency-Key": "k" * 256}))

    assert list(found["errors"]) == ["Idempotency-Key"]


def test_another_method_is_answered_with_those_that_there_are(api: Api) -> None:
    answer = api.http.get("/api/v1/external/phi3/embed")

    assert problem(answer)["code"] == "method_not_allowed"
    assert "POST" in answer.headers["Allow"]
