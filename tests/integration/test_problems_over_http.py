"""Whatever goes wrong below the API's addresses comes back as a problem, and says nothing of the inside."""

import asyncio
import logging
from typing import Any, cast

import pytest
from asgiref.sync import iscoroutinefunction
from django.conf import LazySettings
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.urls import path
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from integrations import logs
from integrations.api.middleware import RequestIdMiddleware
from integrations.api.problems import handler400, handler403, handler404, handler500  # noqa: F401  # the URL conf's
from integrations.errors import CircuitOpen
from integrations.logs import RequestIdFilter
from tests.made_api import Api, problem

SECRET = "postgres://user:secret@10.0.0.1"
RAISED: dict[str, Exception] = {
    "bug": KeyError(SECRET),
    "ours": CircuitOpen(retry_after=12.2),
    "http404": Http404(SECRET),
    "denied": PermissionDenied(SECRET),
    "suspicious": SuspiciousOperation(SECRET),
    "invalid": ValidationError({"limit": ["Too many."]}),
}
EXPECTED = {
    "bug": (500, "internal_error"),
    "ours": (503, "circuit_open"),
    "http404": (404, "not_found"),
    "denied": (403, "not_permitted"),
    "suspicious": (400, "invalid_request"),
    "invalid": (400, "invalid_request"),
}


class Open(APIView):
    authentication_classes = ()
    permission_classes = ()

    def get(self, request: Request, what: str) -> Response:
        raise RAISED[what]


class Undeclared(APIView):
    def get(self, request: Request) -> Response:
        return Response({})


class Scoped(APIView):
    required_scope = "read"

    def get(self, request: Request) -> Response:
        return Response({})


def plain(request: HttpRequest, what: str) -> HttpResponse:
    raise RAISED[what]


def form(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


urlpatterns = [
    path("api/drf/<str:what>", Open.as_view()),
    path("api/plain/<str:what>", plain),
    path("elsewhere/<str:what>", plain),
    path("api/form", form),
    path("elsewhere-form", form),
    path("api/undeclared", Undeclared.as_view()),
    path("api/scoped", Scoped.as_view()),
]
pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


@pytest.fixture
def http(settings: LazySettings) -> Client:
    settings.WHITENOISE_AUTOREFRESH = True  # no reading of every static file
    return Client(raise_request_exception=False, enforce_csrf_checks=True)


@pytest.mark.parametrize("kind", ["drf", "plain"])
@pytest.mark.parametrize("what", RAISED)
def test_what_a_view_raises_comes_back_as_a_problem_that_tells_no_secret(http: Client, kind: str, what: str) -> None:
    answer = http.get(f"/api/{kind}/{what}")

    found = problem(answer)
    assert (found["status"], found["code"]) == EXPECTED[what]
    assert b"secret" not in answer.content
    assert b"Traceback" not in answer.content
    assert answer.headers.get("Retry-After") == ("13" if what == "ours" else None)
    assert found.get("errors") == ({"limit": ["Too many."]} if what == "invalid" else None)


@pytest.mark.parametrize("kind", ["drf", "plain"])
def test_a_bug_is_logged_once_with_its_traceback_under_the_request_id(
    http: Client, caplog: pytest.LogCaptureFixture, kind: str
) -> None:

    caplog.handler.addFilter(RequestIdFilter())
    with caplog.at_level(logging.ERROR):
        http.get(f"/api/{kind}/bug", headers={"X-Request-ID": "find-me"})

    (line,) = [r for r in caplog.records if r.exc_info]
    assert line.request_id == "find-me"  # type: ignore[attr-defined]
    assert "secret" in str(line.exc_info)


def test_an_address_that_nobody_answers_is_a_problem_below_api_and_a_page_elsewhere(http: Client) -> None:
    assert problem(http.get("/api/v1/nothing"))["code"] == "not_found"
    assert http.get("/nothing").headers["Content-Type"].startswith("text/html")
    for what in RAISED:
        assert http.get(f"/elsewhere/{what}").headers["Content-Type"].startswith("text/html")


def test_a_host_that_is_not_allowed_is_a_problem(http: Client) -> None:
    assert problem(http.get("/api/scoped", headers={"Host": "evil.example"}))["code"] == "invalid_request"


def test_a_form_without_its_csrf_token_is_a_problem(http: Client) -> None:
    assert problem(http.post("/api/form"))["code"] == "not_permitted"
    assert http.post("/elsewhere-form").headers["Content-Type"].startswith("text/html")


def test_a_view_that_declares_no_scope_is_open_to_nobody(settings: LazySettings) -> None:
    settings.WHITENOISE_AUTOREFRESH = True
    everything = Api("embed", "batch", "read", "operate").http

    assert problem(everything.get("/api/undeclared"))["code"] == "not_permitted"
    assert everything.get("/api/scoped").status_code == 200


def test_a_key_is_asked_for_before_anything_else(http: Client) -> None:
    answer = http.get("/api/scoped")

    assert problem(answer)["code"] == "not_authenticated"
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert problem(Api("embed").http.get("/api/scoped"))["code"] == "not_permitted"


def test_accept_that_cannot_be_met_is_a_problem(http: Client) -> None:
    answer = Api("read").http.get("/api/scoped", headers={"Accept": "image/png"})

    assert problem(answer)["code"] == "not_acceptable"


def test_the_request_id_is_known_while_an_asynchronous_view_answers() -> None:
    seen = []

    async def view(request: HttpRequest) -> HttpResponse:
        seen.append(logs.request_id.get())
        return HttpResponse()

    request = RequestFactory().get("/", headers={"X-Request-ID": "id-1"})
    middleware = RequestIdMiddleware(view)

    async def answer() -> Any:
        return await cast("Any", middleware(request)), logs.request_id.get()

    response, after = asyncio.run(answer())
    assert iscoroutinefunction(middleware)
    assert (seen, after, response.headers["X-Request-ID"]) == (["id-1"], "", "id-1")


@pytest.mark.parametrize("sent", ["abc-1.2_3", "x" * 64])
def test_a_valid_request_id_comes_back(http: Client, sent: str) -> None:
    assert http.get("/api/v1/nothing", headers={"X-Request-ID": sent}).headers["X-Request-ID"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 65, "a b", "a\nb", "é"])
def test_an_unusable_request_id_is_replaced(http: Client, sent: Any) -> None:
    given = http.get("/api/v1/nothing", headers={"X-Request-ID": sent}).headers["X-Request-ID"]

    assert given != sent
    assert len(given) == 32
