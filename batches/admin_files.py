"""Files of OpenAI's API and the batches made of them, in the admin."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.defaultfilters import filesizeformat
from django.utils.safestring import SafeString

from batches import file_batches
from batches.admin_batches import state_chip
from batches.admin_filters import ClientFilter
from batches.admin_pages import BatchPages, BoundedList, Deed, SureForm, ask_one, progress_html
from batches.models import BatchJob, FileBatch, StoredFile
from integrations.admin_base import page_url, time_column
from integrations.admin_chips import chip_html
from integrations.templatetags.console import ago

State: Final = FileBatch.State
TONES: Final = {
    State.VALIDATING: "off",
    State.IN_PROGRESS: "warn",
    State.FINALIZING: "warn",
    State.COMPLETED: "good",
    State.FAILED: "bad",
    State.EXPIRED: "bad",
    State.CANCELLING: "off",
    State.CANCELLED: "off",
}
_TIMES: Final = (time_column("created_at"), time_column("expires_at"))
_FACTS: Final[Any] = (("file_id", "filename"), ("purpose", "client"), ("state", "shown_size"), _TIMES)
CANCEL: Final = Deed(
    title="Cancel",
    says="Its batches in the queue end with it. What is finished is written into its files; it stays cancelled.",
    done="cancelled",
    form_class=SureForm,
    operation=lambda batch_id, who, data: file_batches.cancel(batch_id, actor=who),
)
RETRY: Final = Deed(
    title="Retry the lines that failed",
    says="Their texts are queued again, released at once; its vectors stay, and its files are made anew.",
    done="queued again",
    form_class=SureForm,
    operation=lambda batch_id, who, data: file_batches.retry(batch_id, actor=who),
)


@admin.register(FileBatch)
class FileBatchAdmin(BatchPages):
    """Batches of files, the newest first."""

    list_display = ("batch_id", "shown_client", "shown_state", "shown_progress", "age")
    list_filter = ("state", ClientFilter)
    search_fields = ("batch_id",)
    search_help_text = "A batch's id, a file's id, a client or a request id, whole."
    folder = "admin/batches/filebatch"

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[FileBatch]", search_term: str
    ) -> "tuple[QuerySet[FileBatch], bool]":
        """Find by exactly what a batch is known by."""
        term = search_term.strip()
        if not term:
            return queryset, False
        files = Q(input_file_id=term) | Q(output_file_id=term) | Q(error_file_id=term)
        return queryset.filter(Q(batch_id=term) | Q(client=term) | Q(request_id=term) | files), False

    @admin.display(description="client", ordering="client")
    def shown_client(self, batch: FileBatch) -> str:
        """Whose it is."""
        return batch.client or "no key"

    @admin.display(description="state", ordering="state")
    def shown_state(self, batch: FileBatch) -> SafeString:
        """The state as a label."""
        return _chip(batch)

    @admin.display(description="lines")
    def shown_progress(self, batch: FileBatch) -> str:
        """Lines with an outcome, of all, as a bar and in figures."""
        counts = file_batches.counts(batch)
        return (
            progress_html(counts["completed"], counts["failed"], counts["total"], what="lines") if batch.total else "–"
        )

    @admin.display(description="created", ordering="created_at")
    def age(self, batch: FileBatch) -> str:
        """How long ago it came; hovering shows exactly when."""
        return ago(batch.created_at)

    # --- one batch ---

    def own_views(self) -> Mapping[str, Callable[..., Any]]:
        """The page's own, and what is done from it."""
        return {**super().own_views(), "cancel": self.cancel_view, "retry": self.retry_view}

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """End it, after asking."""
        return ask_one(self, request, self._find(request, pk), CANCEL)

    def retry_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Queue again its texts without a vector, after asking."""
        return ask_one(self, request, self._find(request, pk), RETRY)

    def _find(self, request: HttpRequest, pk: int) -> FileBatch:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return get_object_or_404(FileBatch, pk=pk)

    def shown(self, request: HttpRequest, pk: int) -> dict[str, Any]:
        """What the page shows."""
        batch = self._find(request, pk)
        may_operate, counts = self.has_operate_permission(request), file_batches.counts(batch)
        return {
            "title": batch.batch_id,
            "batch": batch,
            "state_chip": _chip(batch),
            "counts": counts,
            "done": counts["completed"] + counts["failed"],
            "ended_at": batch.completed_at or batch.failed_at or batch.expired_at or batch.cancelled_at,
            "files": list(_files(batch)),
            "jobs": [{"row": job, "chip": state_chip(job)} for job in BatchJob.objects.filter(file_batch=batch)],
            "may_cancel": may_operate and batch.state in (State.VALIDATING, State.IN_PROGRESS),
            "may_retry": may_operate and file_batches.retryable(batch),
            "list_url": page_url(self, "changelist"),
        }


@admin.register(StoredFile)
class StoredFileAdmin(BoundedList):
    """Files, the newest first. What they hold is their clients' own, and shown by the API alone."""

    list_display = ("file_id", "filename", "purpose", "client", "shown_size", "state", time_column("created_at"))
    list_filter = ("purpose", "state", ClientFilter)
    search_fields = ("file_id",)
    search_help_text = "A file's id, whole, or a client."
    fieldsets = (
        (None, {"fields": _FACTS}),
        ("In the storage", {"fields": ("stored_as",)}),
    )
    readonly_fields = ("shown_size", *_TIMES)  # type: ignore[assignment]  # callables, too

    def get_search_results(
        self, request: HttpRequest, queryset: "QuerySet[StoredFile]", search_term: str
    ) -> "tuple[QuerySet[StoredFile], bool]":
        """Find by exactly what a file is known by."""
        term = search_term.strip()
        return (queryset.filter(Q(file_id=term) | Q(client=term)) if term else queryset), False

    @admin.display(description="size", ordering="size")
    def shown_size(self, row: StoredFile) -> str:
        """As people say it."""
        return filesizeformat(row.size)


def _chip(batch: FileBatch) -> SafeString:
    return chip_html(batch.get_state_display(), TONES[State(batch.state)])


def _files(batch: FileBatch) -> Iterator[dict[str, Any]]:
    """Its files that there were, with their rows where these still are."""
    ids = {"Input": batch.input_file_id, "Output": batch.output_file_id, "Errors": batch.error_file_id}
    rows = {row.file_id: row for row in StoredFile.objects.filter(file_id__in=ids.values())}
    for name, file_id in ids.items():
        if file_id:
            yield {"name": name, "id": file_id, "row": rows.get(file_id)}
