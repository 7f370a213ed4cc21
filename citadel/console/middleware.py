"""Around every page: its Content-Security-Policy, and in the admin the operator's time zone and lost sessions."""

import re
import secrets
import zoneinfo
from contextlib import AbstractContextManager, nullcontext
from typing import Final
from urllib.parse import quote, urlsplit

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template import loader
from django.urls import reverse
from django.utils import timezone
from django.views import csrf

from integrations.api import problems
from integrations.api.middleware import Around

ADMIN: Final = "/admin/"
# Set by console.js: the zone of the operator's browser.
ZONE_COOKIE: Final = "citadel_zone"
# The address to which something was sent that was not done, as nobody was logged in.
UNFINISHED_COOKIE: Final = "citadel_unfinished"
UNFINISHED_SECONDS: Final = 3600

_ZONE: Final = re.compile(r"[A-Za-z0-9_+/-]{1,64}")
# Alpine, which Unfold is built upon, makes functions of the expressions in its attributes: hence unsafe-eval.
_ADMIN_POLICY: Final = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'nonce-{nonce}'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class ConsoleMiddleware(Around):
    """Stands before the sessions, so that it also sees the answers that they give up on."""

    def during(self, request: HttpRequest) -> AbstractContextManager[None]:
        """In the operator's time zone, and with a nonce for the page's templates."""
        if not in_admin(request):
            return nullcontext()
        request.csp_nonce = secrets.token_urlsafe(16)  # type: ignore[attr-defined]  # for the templates
        return timezone.override(zone_of(request) or timezone.get_default_timezone())

    def after(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Under the policy of its kind of page; where there is no session any more, with the way back."""
        nonce = getattr(request, "csp_nonce", None)
        policy = _POLICY if nonce is None else _ADMIN_POLICY.format(nonce=nonce)
        response.headers.setdefault("Content-Security-Policy", policy)
        if nonce is None or not _leads_to_log_in(response):
            return response
        if request.headers.get("HX-Request"):
            response = _log_in_at_once(request)
        if request.method == "POST":
            _remember(request, response)
        return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """The console without PostgreSQL: a page that says so and comes back by itself."""
        if in_admin(request) and isinstance(exception, OperationalError | InterfaceError):
            page = loader.render_to_string("citadel/no_database.html", {}, request)
            return HttpResponse(page, status=503, headers={"Retry-After": "5"})
        return None


def in_admin(request: HttpRequest) -> bool:
    """Whether this is one of the operators' pages."""
    return request.path.startswith(ADMIN)


def zone_of(request: HttpRequest) -> zoneinfo.ZoneInfo | None:
    """Return the time zone of the operator's browser, if it told one that is known here."""
    name = request.COOKIES.get(ZONE_COOKIE, "")
    try:
        return zoneinfo.ZoneInfo(name) if _ZONE.fullmatch(name) else None
    except (KeyError, ValueError, OSError):
        return None


def _leads_to_log_in(response: HttpResponseBase) -> bool:
    location = response.headers.get("Location", "")
    return response.status_code == 302 and urlsplit(location).path == reverse("admin:login")


def _log_in_at_once(request: HttpRequest) -> HttpResponse:
    """A part of a page was asked for: the whole page goes to the log-in, and comes back to where it was."""
    page = urlsplit(request.headers.get("HX-Current-URL", ""))
    back = page.path + (f"?{page.query}" if page.query else "") or ADMIN
    return HttpResponse(status=204, headers={"HX-Redirect": f"{reverse('admin:login')}?next={quote(back)}"})


def _remember(request: HttpRequest, response: HttpResponseBase) -> None:
    response.set_cookie(
        UNFINISHED_COOKIE,
        quote(request.path),
        max_age=UNFINISHED_SECONDS,
        path=ADMIN,
        secure=request.is_secure(),
        samesite="Lax",
    )


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponseBase:
    """A form that was made for another session: nothing is done, and its page comes back to be sent again.

    The operator's session ended, or began anew in another window. Who is not logged in any more is asked to by the page
    itself.
    """
    if problems.belongs_to_api(request):
        return problems.csrf_failure(request, reason)
    if not in_admin(request) or request.path == reverse("admin:login"):
        return csrf.csrf_failure(request, reason)
    if request.path == reverse("admin:logout"):
        return HttpResponseRedirect(ADMIN)
    partly = bool(request.headers.get("HX-Request"))
    response = (
        HttpResponse(status=204, headers={"HX-Refresh": "true"})
        if partly
        else HttpResponseRedirect(request.get_full_path())
    )
    _remember(request, response)
    return response
