"""Endpoints in the admin, and the two actions on breakers, which ask on a page of their own before they act."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse

from integrations.admin_base import ReadOnlyAdmin, time_column
from integrations.models import Endpoint, ModelConfig

_BREAKER = (
    "forced_open",
    "forced_reason",
    "forced_by",
    time_column("forced_at"),
    time_column("forced_until"),
    "breaker_epoch",
)


def may_trip(request: HttpRequest) -> bool:
    """Whether this user may trip and reset breakers."""
    return request.user.has_perm("integrations.trip_breaker")


def _endpoint_ids(rows: Iterable[Model]) -> list[int]:
    """The ids of the chosen endpoints, or of all endpoints of the chosen models."""
    models = [row.pk for row in rows if isinstance(row, ModelConfig)]
    own = Endpoint.objects.filter(model__in=models).values_list("pk", flat=True)
    return [*(row.pk for row in rows if isinstance(row, Endpoint)), *own]


def _asking(name: str, rows: "QuerySet[Any]") -> HttpResponseRedirect:
    query = urlencode([("endpoint", pk) for pk in _endpoint_ids(rows)])
    return HttpResponseRedirect(f"{reverse(name)}?{query}")


@admin.action(description="Trip breakers", permissions=["trip"])
def trip(page: "admin.ModelAdmin[Any]", request: HttpRequest, rows: "QuerySet[Any]") -> HttpResponseRedirect:
    """Go to the page that shows what will be refused, and asks why and until when."""
    return _asking("breakers-trip", rows)


@admin.action(description="Reset breakers", permissions=["trip"])
def reset(page: "admin.ModelAdmin[Any]", request: HttpRequest, rows: "QuerySet[Any]") -> HttpResponseRedirect:
    """Go to the page that shows what will be let through again."""
    return _asking("breakers-reset", rows)


@admin.register(Endpoint)
class EndpointAdmin(ReadOnlyAdmin):
    """Endpoints and what an operator did to their breakers; each is edited on its model's page."""

    list_display = (
        "url",
        "model",
        "protocol",
        "position",
        "enabled",
        "forced_open",
        "forced_reason",
        time_column("forced_until"),
    )
    list_filter = ("model", "protocol", "enabled", "forced_open")
    list_select_related = ("model",)
    search_fields = ("url", "model__slug")
    actions = (trip, reset)

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[Any, ...]:
        """All of them; the times as operators read them."""
        own = ("model", "url", "protocol", "enabled", "position", "upstream_model", "max_batch", "max_in_flight")
        return (*own, "min_target", "max_target", "auth_header", "auth_env", "ca_file", *(_BREAKER if obj else ()))

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[Any, ...]:
        """What an operator did to its breaker."""
        return _BREAKER
