"""What clients see of an error."""

import orjson
import pytest
from rest_framework import exceptions

from integrations import errors
from integrations.api.problems import MEDIA_TYPE, as_citadel_error, problem_body


@pytest.mark.parametrize("kind", errors.tree())
def test_every_error_of_the_tree_has_a_problem_body(kind: type[errors.CitadelError]) -> None:
    status, headers, body = problem_body(kind(), "id-1")

    assert orjson.loads(body) == {
        "type": f"/api/docs/errors#{kind.code}",
        "title": kind().title,
        "status": kind.status,
        "detail": kind().detail,
        "code": kind.code,
        "request_id": "id-1",
    }
    assert status == kind.status
    assert headers["Content-Type"] == MEDIA_TYPE
    assert ("Retry-After" in headers) == (kind.retryable or kind.status in (429, 503))
    assert headers.get("WWW-Authenticate") == ("Bearer" if kind.status == 401 else None)


@pytest.mark.parametrize(
    ("seconds", "header"), [(0.0, "1"), (-3.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (29.9, "30")]
)
def test_retry_after_is_whole_seconds_and_never_too_early(seconds: float, header: str) -> None:
    _, headers, _ = problem_body(errors.CircuitOpen(retry_after=seconds), "")

    assert headers["Retry-After"] == header


def test_retry_after_survives_a_server_that_never_wants_to_be_asked_again() -> None:
    _, headers, _ = problem_body(errors.UpstreamBusy(retry_after=float("inf")), "")

    assert int(headers["Retry-After"]) == 30 * 86400


def test_fields_are_listed_and_what_is_not_unicode_becomes_sayable() -> None:
    error = errors.InvalidRequest("No \udcff.", errors={"texts.3": ["Must be a string.", "\ud800"], "\ud800": ["x"]})

    body = orjson.loads(problem_body(error, "")[2])

    assert body["detail"] == "No ?."
    assert body["errors"] == {"texts.3": ["Must be a string.", "?"], "?": ["x"]}


def test_an_error_without_words_of_its_own_says_its_first_field() -> None:
    error = errors.InvalidRequest(errors={"texts.3": ["Must be a string."], "urgent": ["x"], "batch": ["y"]})

    assert orjson.loads(problem_body(error, "")[2])["detail"] == "texts.3: Must be a string. (and 2 more)"


def test_nested_validation_errors_become_paths() -> None:
    foreign = exceptions.ValidationError({"a": {"b": ["Too long."]}, "c": ["Wrong."]})

    assert as_citadel_error(foreign).errors == {"a.b": ["Too long."], "c": ["Wrong."]}


@pytest.mark.parametrize(
    ("foreign", "code"),
    [
        (exceptions.NotAuthenticated(), "not_authenticated"),
        (exceptions.PermissionDenied(), "not_permitted"),
        (exceptions.MethodNotAllowed("PUT"), "method_not_allowed"),
        (exceptions.NotAcceptable(), "not_acceptable"),
        (exceptions.ParseError(), "invalid_request"),
        (exceptions.Throttled(wait=7), "rate_limited"),
        (KeyError("secret"), "internal_error"),
    ],
)
def test_foreign_exceptions_have_their_place_in_the_tree(foreign: Exception, code: str) -> None:
    ours = as_citadel_error(foreign)

    assert ours.code == code
    assert "secret" not in ours.detail
    if isinstance(foreign, exceptions.Throttled):
        assert ours.retry_after == 7
