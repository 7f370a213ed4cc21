"""What Citadel writes down, in the admin: calls, rollups, transitions of breakers, the trail of operators."""

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.http import urlencode

from integrations import audit_export
from integrations.admin_base import ReadOnlyAdmin, time_column
from integrations.admin_lists import (
    WindowPaginator,
    by_mode,
    by_model,
    by_outcome,
    by_pattern,
    by_time,
    filter_by,
    same,
    slow_only,
)
from integrations.models import AuditEntry, BreakerEvent, CallRecord, CallStats, ConfigVersion
from integrations.templatetags.console import NOTHING, chip, ms

_STARTED = time_column("started_at")
_WHEN = time_column("at", "when")
_UNTIL = time_column("until")
_HEAD: Any = (("request_id", "client"), (_STARTED, "took"), ("answer", "texts"))


def _chip(state: str, tone: str = "") -> str:
    return render_to_string("citadel/chip.html", chip(state, tone))


@admin.register(CallRecord)
class CallRecordAdmin(ReadOnlyAdmin):
    """What happened, call by call."""

    paginator = WindowPaginator
    list_display = (
        _STARTED,
        "request_shown",
        "model",
        "pattern",
        "mode",
        "outcome",
        "duration",
        "attempts_made",
        "texts",
        "client",
    )
    list_filter = (by_time("started_at"), by_model, by_pattern, by_mode, by_outcome, slow_only)
    search_fields = ("request_id", "batch_id")
    search_help_text = "A request id or a batch id, whole"
    ordering = ("-started_at",)
    fieldsets = (
        (None, {"fields": _HEAD}),
        ("Attempts, in order", {"fields": ("attempts_shown",)}),
        ("Where it went", {"fields": (("model", "pattern"), ("mode", "batch_id"), ("endpoint", "failover_from"))}),
    )
    readonly_fields = (_STARTED, "took", "answer", "attempts_shown")  # type: ignore[assignment]  # callables, too

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[Any]", search_term: str
    ) -> tuple["QuerySet[Any]", bool]:
        """Look for a whole id: that is what the indexes find."""
        term = search_term.strip()
        return (queryset.filter(Q(request_id=term) | Q(batch_id=term)) if term else queryset), False

    @admin.display(description="request id", ordering="request_id")
    def request_shown(self, call: CallRecord) -> str:
        """The id by which its client knows the call."""
        return call.request_id

    @admin.display(description="outcome", ordering="code")
    def outcome(self, call: CallRecord) -> str:
        """How it ended."""
        return _chip(call.code, "good" if call.code == "ok" else "bad")

    answer = outcome

    @admin.display(description="took", ordering="duration_ms")
    def duration(self, call: CallRecord) -> str:
        """How long it took."""
        return ms(call.duration_ms)

    took = duration

    @admin.display(description="attempts")
    def attempts_made(self, call: CallRecord) -> int:
        """How many exchanges with servers it took."""
        return len(call.attempts)

    @admin.display(description="attempts")
    def attempts_shown(self, call: CallRecord) -> str:
        """Each exchange with a server: endpoint, time, outcome."""
        longest = max([call.duration_ms, *(a["ms"] for a in call.attempts)], default=0) or 1
        return render_to_string("citadel/attempts.html", {"call": call, "longest": longest})


@admin.register(CallStats)
class CallStatsAdmin(ReadOnlyAdmin):
    """The rollups behind status and metrics."""

    paginator = WindowPaginator
    list_display = (
        "width",
        time_column("bucket"),
        "kind",
        "model",
        "pattern",
        "mode",
        "endpoint",
        "code",
        "count",
        "texts",
    )
    list_filter = ("width", "kind", by_model, by_pattern, by_mode)
    ordering = ("-id",)


@admin.register(BreakerEvent)
class BreakerEventAdmin(ReadOnlyAdmin):
    """What breakers and operators did to breakers: who, when, why, and the error."""

    paginator = WindowPaginator
    list_display = (_WHEN, "model", "url", "change", "reason", "who", _UNTIL)
    list_filter = (
        by_time("at"),
        by_model,
        filter_by("to_state", lambda: same(("closed", "half_open", "open", "forced_open"))),
    )
    search_fields = ("url", "reason", "actor")
    fields = (_WHEN, "model", "url", "change", "reason", "who", _UNTIL)  # type: ignore[assignment]  # callables, too
    readonly_fields = (_WHEN, "change", "who", _UNTIL)  # type: ignore[assignment]  # callables, too

    @admin.display(description="change")
    def change(self, event: BreakerEvent) -> str:
        """From which state to which."""
        return format_html('<span class="c-way">{} → {}</span>', _chip(event.from_state), _chip(event.to_state))

    @admin.display(description="who", ordering="actor")
    def who(self, event: BreakerEvent) -> str:
        """The operator, or Citadel itself."""
        return event.actor or "Citadel"


def _actions() -> list[tuple[str, str]]:
    return same(AuditEntry.objects.order_by("action").values_list("action", flat=True).distinct())


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """What operators did: who, when, what, before, after, why."""

    paginator = WindowPaginator
    list_display = (_WHEN, "actor", "action", "model", "target", "reason")
    list_filter = (by_time("at"), by_model, filter_by("action", _actions))
    search_fields = ("actor", "model", "target", "reason")
    list_before_template = "citadel/audit_export.html"
    fields = (_WHEN, "actor", "action", "model", "target", "reason", "changes")  # type: ignore[assignment]  # as above
    readonly_fields = (_WHEN, "changes")  # type: ignore[assignment]  # as above

    def get_urls(self) -> list[URLPattern]:
        """The admin's own, and the export."""
        view = self.admin_site.admin_view(self.export)
        return [path("export/<str:form>/", view, name="integrations_auditentry_export"), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Show the list, with links that export what it shows."""
        query = urlencode([(k, v) for k, vs in request.GET.lists() for v in vs if k not in ("p", "o")])
        return super().changelist_view(request, {"export_query": query, **(extra_context or {})})

    def export(self, request: HttpRequest, form: str) -> HttpResponseBase:
        """Everything that the list with these filters has, as CSV or as JSON lines, streamed."""
        return audit_export.respond(request, self, form)

    @admin.display(description="before and after")
    def changes(self, entry: AuditEntry) -> str:
        """What is different, field by field."""
        rows = audit_export.differences(entry.before, entry.after)
        return render_to_string("citadel/changes.html", {"rows": rows, "nothing": NOTHING})


@admin.register(ConfigVersion)
class ConfigVersionAdmin(ReadOnlyAdmin):
    """The number that every process watches."""

    list_display = ("version", time_column("updated_at", "updated"))
