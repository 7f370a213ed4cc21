"""Batches in the admin: a list to find them in, a page for each, and what an operator may do with one or with many."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import ngettext

from batches import callbacks, lifecycle, progress, results
from batches.admin_filters import AgeFilter, ClientFilter, ModelFilter
from batches.admin_pages import BatchPages, Deed, SureForm, ask_one, progress_html
from batches.models import BatchJob
from integrations.admin_base import actor, ask, page_url
from integrations.admin_chips import chip_html
from integrations.errors import CitadelError
from integrations.templatetags.console import ago

# An action takes a transaction for each batch: so many at once, within what a proxy waits.
AT_ONCE: Final = 1000
TONES: Final = {
    BatchJob.State.QUEUED: "off",
    BatchJob.State.PROCESSING: "warn",
    BatchJob.State.COMPLETED: "good",
    BatchJob.State.FAILED: "bad",
    BatchJob.State.CANCELLED: "off",
    BatchJob.State.EXPIRED: "bad",
}


class PriorityForm(forms.Form):
    """Which batches go first."""

    priority = forms.IntegerField(min_value=0, max_value=9, initial=9, help_text="0 to 9; 9 goes first.")


CANCEL: Final = Deed(
    title="Cancel",
    says="What is finished stays readable. A cancelled batch stays cancelled.",
    done="cancelled",
    form_class=SureForm,
    operation=lambda batch_id, who, data: lifecycle.cancel(batch_id, actor=who),
)
RETRY: Final = Deed(
    title="Retry the texts without a vector",
    says="They are queued again, released at once; the vectors that are there stay.",
    done="queued again",
    form_class=SureForm,
    operation=lambda batch_id, who, data: lifecycle.retry(batch_id, actor=who),
)
PRIORITY: Final = Deed(
    title="Set priority",
    says="Batches of one model that wait are taken by priority, then by age.",
    done="moved",
    form_class=PriorityForm,
    operation=lambda batch_id, who, data: lifecycle.set_priority(batch_id, data["priority"], actor=who),
)


def state_chip(job: BatchJob) -> SafeString:
    """The state as a label; a held batch says so."""
    held = job.state == BatchJob.State.QUEUED and job.released_at is None
    return chip_html("held" if held else job.state, TONES[BatchJob.State(job.state)])


@admin.register(BatchJob)
class BatchJobAdmin(BatchPages):
    """Batches, the newest first."""

    list_display = (
        "batch_id",
        "shown_model",
        "shown_state",
        "shown_progress",
        "priority",
        "age",
    )
    list_filter = ("state", ModelFilter, AgeFilter, ClientFilter)
    search_fields = ("batch_id",)
    search_help_text = "Beginning of a batch's id; or a client, a model or a request id."
    actions = ("cancel", "retry", "set_priority")

    folder = "admin/batches/batchjob"

    # --- the list ---

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[BatchJob]", search_term: str
    ) -> "tuple[QuerySet[BatchJob], bool]":
        """Find by the beginning of an id, which has an index, or by exactly what else a batch is known by."""
        term = search_term.strip()
        if not term:
            return queryset, False
        found = Q(batch_id__startswith=term)
        if not term.startswith("batch_"):
            found |= Q(client=term) | Q(model=term) | Q(request_id=term)
        return queryset.filter(found), False

    @admin.display(description="model, client", ordering="model")
    def shown_model(self, job: BatchJob) -> SafeString:
        """For which model, and whose it is."""
        return format_html('{}<br><span class="c-quiet">{}</span>', job.model, job.client or "no key")

    @admin.display(description="submitted", ordering="submitted_at")
    def age(self, job: BatchJob) -> str:
        """How long ago it came; hovering shows exactly when."""
        return ago(job.submitted_at)

    @admin.display(description="state", ordering="state")
    def shown_state(self, job: BatchJob) -> SafeString:
        """The state as a label."""
        return state_chip(job)

    @admin.display(description="progress")
    def shown_progress(self, job: BatchJob) -> SafeString:
        """Texts with an outcome, of all, as a bar and in figures."""
        return progress_html(job.completed, job.failed, job.total, what="texts")

    @admin.action(description="Cancel", permissions=["operate"])
    def cancel(self, request: HttpRequest, rows: "QuerySet[BatchJob]") -> HttpResponse | None:
        """End active batches, after asking; what is finished stays."""
        return self._ask_many(request, rows, CANCEL)

    @admin.action(description="Retry the texts without a vector", permissions=["operate"])
    def retry(self, request: HttpRequest, rows: "QuerySet[BatchJob]") -> HttpResponse | None:
        """Queue again what failed or expired, after asking."""
        return self._ask_many(request, rows, RETRY)

    @admin.action(description="Set priority", permissions=["operate"])
    def set_priority(self, request: HttpRequest, rows: "QuerySet[BatchJob]") -> HttpResponse | None:
        """Let batches go before or after the others, after asking for the priority."""
        return self._ask_many(request, rows, PRIORITY)

    def _ask_many(self, request: HttpRequest, rows: "QuerySet[BatchJob]", deed: Deed) -> HttpResponse | None:
        def act(data: Mapping[str, Any]) -> None:
            _each(request, rows, lambda batch_id: deed.operation(batch_id, actor(request), data), done=deed.done)

        return ask(self, request, rows, form_class=deed.form_class, title=deed.title, says=deed.says, act=act)

    # --- one batch ---

    def own_views(self) -> Mapping[str, Callable[..., Any]]:
        """The page's own, and what is done from it."""
        return {
            **super().own_views(),
            "download": self.download_view,
            "cancel": self.cancel_view,
            "retry": self.retry_view,
            "priority": self.priority_view,
        }

    def shown(self, request: HttpRequest, pk: int) -> dict[str, Any]:
        """What the page shows, each list from where its address says."""
        job = self._find(request, pk)
        may_operate = self.has_operate_permission(request)
        return {
            "title": job.batch_id,
            "job": job,
            "state_chip": state_chip(job),
            "progress": progress.progress(job),
            "callback": callbacks.shown_to_operators(job),
            "chunks": progress.chunks(job, start=_start(request, "chunks")),
            "failures": progress.failures(job, start=_start(request, "failures")),
            "may_cancel": may_operate and job.state in BatchJob.ACTIVE,
            "may_retry": may_operate and job.file_batch_id is None and lifecycle.retryable(job),
            "list_url": page_url(self, "changelist"),
        }

    def _find(self, request: HttpRequest, pk: int) -> BatchJob:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return get_object_or_404(BatchJob, pk=pk)

    def download_view(self, request: HttpRequest, pk: int) -> StreamingHttpResponse:
        """Stream all results as NDJSON, as the API does."""
        job = self._find(request, pk)
        stream = results.alines(job) if isinstance(request, ASGIRequest) else results.lines(job)
        headers = {"Content-Disposition": f'attachment; filename="{job.batch_id}.ndjson"'}
        return StreamingHttpResponse(stream, content_type="application/x-ndjson", headers=headers)

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """End it, after asking."""
        return ask_one(self, request, self._find(request, pk), CANCEL)

    def retry_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Queue again its texts without a vector, after asking."""
        return ask_one(self, request, self._find(request, pk), RETRY)

    def priority_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Let it go before or after the others."""
        return ask_one(self, request, self._find(request, pk), PRIORITY)


def _each(request: HttpRequest, rows: "QuerySet[BatchJob]", act: Callable[[str], object], *, done: str) -> None:
    """Act on each batch by itself: one that is in the wrong state does not hold the others up."""
    count, refused = 0, []
    ids = list(rows.order_by("pk").values_list("batch_id", flat=True)[: AT_ONCE + 1])
    for batch_id in ids[:AT_ONCE]:
        try:
            act(batch_id)
            count += 1
        except CitadelError as error:
            refused.append(f"{batch_id}: {error.detail}")
    if count:
        messages.success(request, ngettext("%d batch %s.", "%d batches %s.", count) % (count, done))
    for line in refused[:10]:
        messages.error(request, line)
    if len(refused) > 10:
        messages.error(request, f"{len(refused) - 10} more were refused.")
    if len(ids) > AT_ONCE:
        messages.warning(request, f"Only the oldest {AT_ONCE} of those chosen: do it again for the others.")


def _start(request: HttpRequest, name: str) -> int:
    given = request.GET.get(name, "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 10 else 0
