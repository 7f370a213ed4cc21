"""Errors as clients see them: RFC 9457 problem bodies, for our own tree, for DRF's exceptions and for Django's; below
/v1/, where OpenAI's clients ask, in OpenAI's shape.

One table maps the foreign exceptions; what is in none of them is a 500 that says nothing about itself and is logged.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any, Final

import orjson
from django.core.exceptions import BadRequest, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.http.response import HttpResponseBase
from django.views import csrf, defaults
from rest_framework import exceptions, status
from rest_framework.views import set_rollback

from integrations import logs
from integrations.errors import (
    CitadelError,
    InvalidRequest,
    MethodNotAllowed,
    NotAcceptable,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    RateLimited,
    RequestTooLarge,
    TextRejected,
    UnsupportedMediaType,
)

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
# A path of this very server: each code has its paragraph there.
TYPE_BASE: Final = "/api/docs/errors#"
# Below these, errors are problem bodies; elsewhere (the admin) they are Django's pages for people.
OPENAI_PREFIX: Final = "/v1/"
API_PREFIXES: Final = ("/api/", "/health/", "/metrics", OPENAI_PREFIX)
# For an error that will pass at a time nobody knows: long enough not to be a hammer.
DEFAULT_RETRY_AFTER: Final = 1.0
_LONGEST_RETRY_AFTER: Final = 30 * 86400

_OPENAI_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

_OF_FOREIGN: Final[dict[type[Exception], type[CitadelError]]] = {
    exceptions.ParseError: InvalidRequest,
    exceptions.ValidationError: InvalidRequest,
    exceptions.NotAuthenticated: NotAuthenticated,
    exceptions.AuthenticationFailed: NotAuthenticated,
    exceptions.PermissionDenied: NotPermitted,
    exceptions.NotFound: NotFound,
    exceptions.MethodNotAllowed: MethodNotAllowed,
    exceptions.NotAcceptable: NotAcceptable,
    exceptions.UnsupportedMediaType: UnsupportedMediaType,
    exceptions.Throttled: RateLimited,
    Http404: NotFound,
    PermissionDenied: NotPermitted,
    RequestDataTooBig: RequestTooLarge,
    UnreadablePostError: InvalidRequest,
    BadRequest: InvalidRequest,
    # Last: RequestDataTooBig is one, too.
    SuspiciousOperation: InvalidRequest,
}
# Their own words name the field or the method; the others' speak of Django.
_WORDS_KEPT: Final = (exceptions.ParseError, exceptions.MethodNotAllowed)


def problem_body(error: CitadelError, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Return the status, the headers and the JSON body that tell a client of `error`."""
    body: dict[str, Any] = {
        "type": TYPE_BASE + error.code,
        "title": error.title,
        "status": error.status,
        "detail": _sayable(_detail(error)),
        "code": error.code,
        "request_id": request_id,
    }
    if error.errors:
        body["errors"] = {_sayable(field): [_sayable(m) for m in said] for field, said in error.errors.items()}
    return error.status, {"Content-Type": MEDIA_TYPE, **_headers(error)}, orjson.dumps(body)


def openai_body(error: CitadelError) -> tuple[int, dict[str, str], bytes]:
    """Return the same for a client of OpenAI's API: in its shape, and with the status that its clients act upon."""
    # OpenAI's word for a text that is too long is 400.
    code = status.HTTP_400_BAD_REQUEST if isinstance(error, TextRejected) else error.status
    kind = _OPENAI_TYPES.get(code, "server_error" if code >= 500 else "invalid_request_error")
    param = _sayable(next(iter(error.errors))) if error.errors else None
    body = {"message": _sayable(_detail(error)), "type": kind, "param": param, "code": error.code}
    headers = {"Content-Type": "application/json", **_headers(error)}
    if error.retry_after is not None and "Retry-After" in headers:
        headers["retry-after-ms"] = str(math.ceil(1000 * min(max(0.0, error.retry_after), _LONGEST_RETRY_AFTER)))
    if code == status.HTTP_409_CONFLICT:
        headers["x-should-retry"] = "false"  # OpenAI's own client takes 409 for a lock that will be released
    return code, headers, orjson.dumps({"error": body})


def body_for(path: str, error: CitadelError, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of `error` as the clients of this path know them."""
    return openai_body(error) if path.startswith(OPENAI_PREFIX) else problem_body(error, request_id)


def _headers(error: CitadelError) -> dict[str, str]:
    headers = {"Cache-Control": "no-store"}
    if (seconds := _retry_after(error)) is not None:
        headers["Retry-After"] = str(seconds)
    if error.status == status.HTTP_401_UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def _detail(error: CitadelError) -> str:
    """The error's own words; where it has none but names fields, the first of them."""
    if not error.errors or error.detail != type(error)().detail:
        return error.detail
    field, messages = next(iter(error.errors.items()))
    more = f" (and {len(error.errors) - 1} more)" if len(error.errors) > 1 else ""
    return f"{field}: {messages[0]}{more}"


def _sayable(text: str) -> str:
    """A client's word may come back in `text`, and a path can hold bytes that are not UTF-8: they become "?"."""
    return text.encode("utf-8", "replace").decode()


def _retry_after(error: CitadelError) -> int | None:
    """Whole seconds, rounded up: who comes back when told to must not be early."""
    seconds = error.retry_after
    if seconds is None and (error.retryable or error.status in (429, 503)):
        seconds = DEFAULT_RETRY_AFTER
    return None if seconds is None else math.ceil(min(max(1, seconds), _LONGEST_RETRY_AFTER))


def problem_response(error: CitadelError, path: str = "") -> HttpResponse:
    """Return Django's answer for `error`, under the id of the request being served."""
    code, headers, body = body_for(path, error, logs.request_id.get())
    response = HttpResponse(body, status=code, headers=headers)
    # Django would log each intended 4xx and 5xx again, as if something had broken.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def as_citadel_error(error: Exception) -> CitadelError:
    """Return the error of our tree that stands for `error`; a bare CitadelError (500) for an unknown one."""
    if isinstance(error, CitadelError):
        return error
    for foreign, ours in _OF_FOREIGN.items():
        if isinstance(error, foreign):
            return _translated(error, ours)
    return _internal()


def _internal() -> CitadelError:
    return CitadelError("Something went wrong on this server; its log has the details under this request id.")


def _translated(error: Exception, ours: type[CitadelError]) -> CitadelError:
    detail = str(error.detail) if isinstance(error, _WORDS_KEPT) else ""
    fields = error.get_full_details() if isinstance(error, exceptions.ValidationError) else {}
    retry_after = getattr(error, "wait", None)  # only Throttled has it
    return ours(detail, retry_after=retry_after, errors=dict(_flat(fields)) or None)


def _flat(details: Any, path: str = "") -> list[tuple[str, list[str]]]:
    """DRF's nested {field: [{"message", "code"}]} as flat (path, messages) pairs, positions as in "texts.3"."""
    if isinstance(details, Mapping) and "message" not in details:
        nested = [_flat(value, f"{path}.{key}" if path else str(key)) for key, value in details.items()]
        return [pair for pairs in nested for pair in pairs]
    if isinstance(details, list):
        return [(path or "body", [str(item["message"]) for item in details if "message" in item])]
    return [(path or "body", [str(details["message"])])] if details else []


def exception_handler(error: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """DRF's EXCEPTION_HANDLER: every exception of a view becomes a problem response."""
    set_rollback()
    ours = as_citadel_error(error)
    path = getattr(context.get("request"), "path", "")
    if ours.status == status.HTTP_500_INTERNAL_SERVER_ERROR:
        log.error("unhandled error at %s", path, exc_info=error)
    return problem_response(ours, path)


def belongs_to_api(request: HttpRequest) -> bool:
    """Whether the one who asks is a program, not a person in the admin."""
    return request.path.startswith(API_PREFIXES)


# --- Django's own handlers, named in citadel.urls and in CSRF_FAILURE_VIEW --------------------------------------------


def handler400(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """A request that Django refuses: a Host that is not allowed, a path that hides something."""
    if not belongs_to_api(request):
        return defaults.bad_request(request, exception)
    return problem_response(as_citadel_error(exception), request.path)


def handler403(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """A request that may not be made."""
    if not belongs_to_api(request):
        return defaults.permission_denied(request, exception)
    return problem_response(NotPermitted(), request.path)


def handler404(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """An address that nobody answers."""
    if not belongs_to_api(request):
        return defaults.page_not_found(request, exception)
    return problem_response(NotFound(), request.path)


def handler500(request: HttpRequest) -> HttpResponseBase:
    """A fault of ours; Django has logged it with its traceback."""
    return problem_response(_internal(), request.path) if belongs_to_api(request) else defaults.server_error(request)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponseBase:
    """A form without its token. The API itself takes no cookies and needs none."""
    if belongs_to_api(request):
        return problem_response(NotPermitted("The CSRF token is missing or wrong."), request.path)
    return csrf.csrf_failure(request, reason)
