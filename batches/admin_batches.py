"""Batches in the admin: a list to find them in, a page for each, and what an operator may do with one or with many."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.handlers.asgi import ASGIRequest
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import ngettext

from batches import callbacks, lifecycle, progress, results
from batches.admin_filters import LISTED, AgeFilter, BoundedPaginator, ClientFilter, ModelFilter
from batches.models import BatchJob, FileBatch
from integrations.admin_base import ReadOnlyAdmin, actor, ask, ask_about, page_url
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


class SureForm(forms.Form):
    """Nothing but whether."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What an operator does to batches: `operation` takes an id, who does it and what the form says."""

    title: str
    says: str
    done: str
    form_class: type[forms.Form]
    operation: Callable[[str, str, Mapping[str, Any]], object]


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
class BatchJobAdmin(ReadOnlyAdmin):
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
    list_per_page = 50
    list_max_show_all = 0
    list_before_template = "admin/batches/batchjob/more.html"
    search_fields = ("batch_id",)
    search_help_text = "Beginning of a batch's id; or a client, a model or a request id."
    ordering = ("-id",)
    paginator = BoundedPaginator
    actions = ("cancel", "retry", "set_priority")

    class Media:
        css = {"all": ("batches/batches.css",)}

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

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Show the list, or act on a part of it."""
        return super().changelist_view(request, {"listed": LISTED, **(extra_context or {})})

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
        return progress_html(job.completed, job.failed, job.total, "texts")

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whether this user may act on batches, whose rows nobody edits."""
        return request.user.has_perm("batches.operate_batch")

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

    def get_urls(self) -> list[URLPattern]:
        """Django's, and those of one batch's page."""
        wrap, name = self.admin_site.admin_view, "batches_batchjob_{}".format
        own = [
            path("<int:pk>/live/", wrap(self.live_view), name=name("live")),
            path("<int:pk>/download/", wrap(self.download_view), name=name("download")),
            path("<int:pk>/cancel/", wrap(self.cancel_view), name=name("cancel")),
            path("<int:pk>/retry/", wrap(self.retry_view), name=name("retry")),
            path("<int:pk>/priority/", wrap(self.priority_view), name=name("priority")),
        ]
        return [*own, *super().get_urls()]

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Show one batch; nobody edits it as a row."""
        if request.method == "POST" or not (object_id or "").isdigit():
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            **self._shown(request, int(object_id or 0)),
        }
        return TemplateResponse(request, "admin/batches/batchjob/batch.html", context)

    def live_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Answer the live part of a batch's page."""
        return TemplateResponse(request, "admin/batches/batchjob/live.html", self._shown(request, pk))

    def _shown(self, request: HttpRequest, pk: int) -> dict[str, Any]:
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


def progress_html(completed: int, failed: int, total: int, what: str) -> SafeString:
    """Return how many have an outcome, of all, as a bar and in figures."""
    done = completed + failed
    bad = format_html('<br><span class="c-text-bad">{} failed</span>', f"{failed:,}") if failed else ""
    bar = '<span class="batch-progress"><progress class="c-bar" max="{}" value="{}" aria-label="{}"></progress>'
    label = f"{done:,} of {total:,} {what}"
    return format_html(bar + "<span>{} / {}{}</span></span>", total, done, label, f"{done:,}", f"{total:,}", bad)


def ask_one(page: "admin.ModelAdmin[Any]", request: HttpRequest, row: BatchJob | FileBatch, deed: Deed) -> HttpResponse:
    """Do it to one batch, after asking."""
    if not request.user.has_perm("batches.operate_batch"):
        raise PermissionDenied

    def act(data: Mapping[str, Any]) -> None:
        try:
            deed.operation(row.batch_id, actor(request), data)
        except CitadelError as error:
            raise ValidationError(error.detail) from error

    return ask_about(page, request, row, form_class=deed.form_class, title=deed.title, says=deed.says, act=act)


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
