"""The queue in the admin: batches to read, and what an operator may do with them."""

from collections.abc import Callable, Mapping
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.translation import ngettext

from batches import lifecycle
from batches.models import BatchJob, WorkerHeartbeat
from integrations.admin_base import ReadOnlyAdmin, actor, ask
from integrations.errors import CitadelError


class PriorityForm(forms.Form):
    """Which batches go first."""

    priority = forms.IntegerField(min_value=0, max_value=9, initial=9, help_text="9 goes first.")


def _each(request: HttpRequest, rows: "QuerySet[BatchJob]", act: Callable[[str], object], *, done: str) -> None:
    """Act on each batch by itself: one that is in the wrong state does not hold the others up."""
    count = 0
    for batch_id in rows.values_list("batch_id", flat=True):
        try:
            act(batch_id)
            count += 1
        except CitadelError as error:
            messages.error(request, f"{batch_id}: {error.detail}")
    if count:
        messages.success(request, ngettext("%d batch %s.", "%d batches %s.", count) % (count, done))


@admin.register(BatchJob)
class BatchJobAdmin(ReadOnlyAdmin):
    """Batches; their texts and vectors are the clients' and not shown."""

    list_display = ("batch_id", "client", "model", "state", "priority", "total", "completed", "failed", "submitted_at")
    list_filter = ("state", "pattern")
    search_fields = ("=batch_id", "=client", "=model", "=request_id")
    ordering = ("-id",)
    actions = ("cancel", "retry", "set_priority")

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whether this user may act on batches, whose rows nobody edits."""
        return bool(request.user.has_perm("batches.operate_batch"))

    @admin.action(description="Cancel", permissions=["operate"])
    def cancel(self, request: HttpRequest, rows: "QuerySet[BatchJob]") -> None:
        """End active batches; what is finished stays."""
        _each(request, rows, lambda batch_id: lifecycle.cancel(batch_id, actor=actor(request)), done="cancelled")

    @admin.action(description="Retry the texts without a vector", permissions=["operate"])
    def retry(self, request: HttpRequest, rows: "QuerySet[BatchJob]") -> None:
        """Queue again what failed or expired."""
        _each(request, rows, lambda batch_id: lifecycle.retry(batch_id, actor=actor(request)), done="queued again")

    @admin.action(description="Set priority", permissions=["operate"])
    def set_priority(self, request: HttpRequest, rows: "QuerySet[BatchJob]") -> HttpResponse | None:
        """Let batches go before or after the others, after asking for the priority."""

        def act(data: Mapping[str, Any]) -> None:
            def one(batch_id: str) -> None:
                lifecycle.set_priority(batch_id, data["priority"], actor=actor(request))

            _each(request, rows, one, done="moved")

        return ask(self, request, rows, form_class=PriorityForm, title="Set priority", act=act)


@admin.register(WorkerHeartbeat)
class WorkerHeartbeatAdmin(ReadOnlyAdmin):
    """Workers and schedulers, as they last said they were alive."""

    list_display = ("name", "kind", "host", "pid", "started_at", "seen_at", "batch_id", "chunks_in_flight")
    list_filter = ("kind",)
    ordering = ("-seen_at",)
