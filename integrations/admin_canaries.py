"""Canaries in the admin: which endpoints still give the vectors that they gave first, and the one action on them."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from integrations import operations
from integrations.admin_base import ReadOnlyAdmin, actor, ask, time_column
from integrations.admin_chips import chip_html
from integrations.admin_forms import ReasonForm
from integrations.admin_lists import filter_by, same
from integrations.models import Canary
from integrations.templatetags.console import NOTHING

RETAKE = (
    "What each of these endpoints answers next becomes its reference, and those that a canary took out are put back at "
    "once. Do so when a change of the model was meant; what is in an index from before does not fit the new vectors."
)
_ASKED, _WELL = time_column("asked_at", "last asked"), time_column("well_at", "last as it was")
_SINCE, _TAKEN = time_column("since"), time_column("reference_at", "reference taken")


@admin.action(description="Take a new reference", permissions=["trip"])
def retake(page: "admin.ModelAdmin[Any]", request: HttpRequest, rows: "QuerySet[Canary]") -> HttpResponse | None:
    """Take the next answer for right, after asking why."""

    def act(data: Any) -> None:
        ids = [row.endpoint_id for row in rows]
        operations.retake_reference(ids, actor=actor(request), reason=data["reason"])

    return ask(page, request, rows, form_class=ReasonForm, title="Take a new reference", says=RETAKE, act=act)


@admin.register(Canary)
class CanaryAdmin(ReadOnlyAdmin):
    """What each endpoint answered to the fixed text."""

    list_display = ("shown", "url", "answer", "likeness", _ASKED, _WELL, _SINCE, "error")
    list_filter = (
        filter_by("state", lambda: same(Canary.State.values)),
        "endpoint__model",
    )
    list_select_related = ("endpoint__model",)
    search_fields = ("endpoint__url", "endpoint__model__slug")
    actions = (retake,)
    fields = ("endpoint", "answer", "likeness", _ASKED, _WELL, _SINCE, _TAKEN, "error")  # type: ignore[assignment]
    readonly_fields = ("answer", "likeness", _ASKED, _WELL, _SINCE, _TAKEN)  # type: ignore[assignment]  # callables, too

    def get_queryset(self, request: HttpRequest) -> "QuerySet[Canary]":
        """All but the vectors."""
        return super().get_queryset(request).defer("reference")

    @admin.display(description="model", ordering="endpoint__model__slug")
    def shown(self, canary: Canary) -> str:
        """The model."""
        return canary.endpoint.model.slug

    @admin.display(description="endpoint", ordering="endpoint__url")
    def url(self, canary: Canary) -> SafeString:
        """The endpoint, as a way to its model's page."""
        page = reverse("admin:integrations_modelconfig_change", args=[canary.endpoint.model_id])
        return format_html('<a href="{}">{}</a>', page, canary.endpoint.url)

    @admin.display(description="its vector", ordering="state")
    def answer(self, canary: Canary) -> SafeString:
        """What the last vector was."""
        return chip_html(canary.state)

    @admin.display(description="cosine", ordering="cosine")
    def likeness(self, canary: Canary) -> str:
        """How near the last vector is to the reference."""
        return NOTHING if canary.cosine is None else f"{canary.cosine:.4f}"
