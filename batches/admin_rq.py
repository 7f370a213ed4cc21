"""django-rq's own pages, for those who may see the queue; what changes the lists is an operator's.

django-rq lets every staff user empty a queue. No work would be lost, since rescue puts the batches back, but who may
only look is not to do that either.
"""

from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern

from batches import queues

_DASHBOARD: Any = apps.get_model("django_rq", "Dashboard")
_PAGES: Any = type(admin.site.get_model_admin(_DASHBOARD))
# Pages that ask before they change something; the change itself is a POST.
_ASKING = ("clear", "requeue_all", "delete_failed_jobs", "delete_job", "confirm_action")

# Addresses with nothing behind them: rows of a table that django-rq does not make, and the jobs of rq-scheduler.
_EMPTY = ("", "dashboard_add", "dashboard_history", "dashboard_delete", "dashboard_change", "scheduler_jobs")


class GuardedPages(_PAGES):  # type: ignore[misc]  # its class is known only at run time
    """django-rq's pages behind the roles."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Those who see batches."""
        return request.user.has_perm("batches.view_batchjob")

    def has_view_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Those who see batches."""
        return self.has_module_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Nobody edits a list as a row."""
        return False

    def get_urls(self) -> list[URLPattern]:
        """Its own, each with a guard, but for those that lead nowhere."""
        return [_guarded(pattern) for pattern in super().get_urls() if _page(pattern) not in _EMPTY]


def _page(pattern: URLPattern) -> str:
    return (pattern.name or "").removeprefix("django_rq_")


def _guarded(pattern: URLPattern) -> URLPattern:
    view: Callable[..., HttpResponseBase] = pattern.callback
    asks = _page(pattern) in _ASKING

    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        # Who is not logged in is sent to the log-in by the page itself.
        needs = "operate_batch" if asks or request.method not in ("GET", "HEAD") else "view_batchjob"
        if request.user.is_authenticated and not request.user.has_perm(f"batches.{needs}"):
            raise PermissionDenied
        try:
            return view(request, *args, **kwargs)
        except queues.GONE:
            raise Http404 from None

    pattern.callback = guarded
    return pattern


admin.site.unregister(_DASHBOARD)
admin.site.register(_DASHBOARD, GuardedPages)
