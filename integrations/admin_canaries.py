"""Canaries in the admin: which endpoints still give the vectors that they gave first, and the one action on them."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from integrations import operations
from integrations.admin_base import ReadOnlyAdmin, actor, ask, time_column
from integrations.admin_chips import chip_html
from integrations.admin_forms import ReasonForm
from integrations.admin_lists import filter_by, same
from integrations.models import CallStats, Canary
from integrations.statistics import OK
from integrations.templatetags.console import NOTHING, count, moment

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
    fields = ("endpoint", "answer", "likeness", "in_doubt", _ASKED, _WELL, _SINCE, _TAKEN, "error")  # type: ignore[assignment]
    readonly_fields = ("answer", "likeness", "in_doubt", _ASKED, _WELL, _SINCE, _TAKEN)  # type: ignore[assignment]

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

    @admin.display(description="in doubt")
    def in_doubt(self, canary: Canary) -> SafeString | str:
        """What it gave to clients and to the queue since its vector was last as it should be, by whole minutes."""
        if canary.state not in Canary.ASTRAY or canary.well_at is None:
            return NOTHING
        endpoint = canary.endpoint
        given = CallStats.objects.filter(
            width=CallStats.Width.MINUTE,
            bucket__gte=canary.well_at.replace(second=0, microsecond=0),
            kind=CallStats.Kind.CALL,
            model=endpoint.model.slug,
            endpoint=endpoint.url,
            code=OK,
        ).aggregate(calls=Sum("count", default=0), texts=Sum("texts", default=0))
        calls = reverse("admin:integrations_callrecord_changelist")
        return format_html(
            "up to {} texts in {} calls, live and for the queue, since {}; "
            '<a href="{}?model={}&outcome=ok">the calls</a> and the results of batches name their endpoint',
            count(given["texts"]),
            count(given["calls"]),
            moment(canary.well_at),
            calls,
            endpoint.model.slug,
        )
