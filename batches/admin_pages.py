"""What the pages of batches and of files' batches have in common."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString

from batches.admin_filters import LISTED, BoundedPaginator
from batches.models import BatchJob, FileBatch
from integrations.admin_base import ReadOnlyAdmin, actor, ask_about
from integrations.errors import CitadelError


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


class BoundedList(ReadOnlyAdmin):
    """The newest rows, as many as can be counted at once."""

    list_per_page = 50
    list_max_show_all = 0
    list_before_template = "admin/batches/batchjob/more.html"
    ordering = ("-id",)
    paginator = BoundedPaginator

    class Media:
        css = {"all": ("batches/batches.css",)}

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Show the list, or act on a part of it."""
        return super().changelist_view(request, {"listed": LISTED, **(extra_context or {})})


class BatchPages(BoundedList):
    """A list, and for each of its rows a page that refreshes itself; nobody edits it as a row."""

    folder: ClassVar[str]  # of the templates batch.html and live.html

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuse pages that lack a part, as abc would: it cannot stand beside the metaclass of Django's admin."""
        super().__init_subclass__(**options)
        if not hasattr(cls, "folder") or getattr(cls.shown, "__isabstractmethod__", False):
            raise TypeError(f"{cls.__name__} needs a folder, and what is shown of one row")

    @abstractmethod
    def shown(self, request: HttpRequest, pk: int) -> dict[str, Any]:
        """Return what the page of one row needs. Raises PermissionDenied, Http404."""

    def own_views(self) -> Mapping[str, Callable[..., Any]]:
        """Return the views of one row, by the last part of their address."""
        return {"live": self.live_view}

    def get_urls(self) -> list[URLPattern]:
        """Django's, and those of one row's page."""
        name = f"{self.opts.app_label}_{self.opts.model_name}_{{}}".format
        wrap = self.admin_site.admin_view
        own = [path(f"<int:pk>/{part}/", wrap(view), name=name(part)) for part, view in self.own_views().items()]
        return [*own, *super().get_urls()]

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Show one row."""
        if request.method == "POST" or not (object_id or "").isdigit():
            raise PermissionDenied
        shown = self.shown(request, int(object_id or 0))
        context = {**self.admin_site.each_context(request), "opts": self.opts, **shown}
        return TemplateResponse(request, f"{self.folder}/batch.html", context)

    def live_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Answer the live part of a row's page."""
        return TemplateResponse(request, f"{self.folder}/live.html", self.shown(request, pk))

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """Whether this user may act on batches, whose rows nobody edits."""
        return request.user.has_perm("batches.operate_batch")


def progress_html(completed: int, failed: int, total: int, *, what: str) -> SafeString:
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
