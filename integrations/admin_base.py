"""What the admin pages share: writes go through operations, refusals become messages, actions ask before they act."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse

from integrations.templatetags.console import moment
from integrations.trail import ConfigurationChanged

if TYPE_CHECKING:
    UnfoldAdmin = admin.ModelAdmin[Any]
    UnfoldTabular = admin.TabularInline[Any, Any]
    UnfoldStacked = admin.StackedInline[Any, Any]
    from django.contrib.admin.views.main import ChangeList
else:
    from unfold.admin import ModelAdmin as UnfoldAdmin
    from unfold.admin import StackedInline as UnfoldStacked
    from unfold.admin import TabularInline as UnfoldTabular
    from unfold.views import ChangeList

__all__ = [
    "ConsoleAdmin",
    "OperatorAdmin",
    "ReadOnlyAdmin",
    "UnfoldStacked",
    "UnfoldTabular",
    "actor",
    "ask",
    "ask_about",
    "named",
    "page_url",
    "time_column",
]

# Rows that a question names; of more it says how many.
SHOWN = 20


def actor(request: HttpRequest) -> str:
    """The name that the audit trail shows."""
    return request.user.get_username()


def time_column(field: str, description: str = "") -> Callable[[Model], str]:
    """A column, or a read-only field, that shows a time in the operator's zone, with the exact UTC on hover."""

    @admin.display(description=description or field.replace("_", " ").removesuffix(" at"), ordering=field)
    def column(row: Model) -> str:
        return moment(getattr(row, field))

    column.__name__ = f"{field}_shown"
    return column


class ConsoleAdmin(UnfoldAdmin):
    """What every page knows of the roles, see citadel/migrations/0001_roles.py."""

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Show the list, or act on a part of it."""
        refuse_forbidden_action(self, request)
        return super().changelist_view(request, extra_context)

    def has_trip_permission(self, request: HttpRequest) -> bool:
        """Whether this user may trip and reset breakers."""
        return request.user.has_perm("integrations.trip_breaker")

    def has_drain_permission(self, request: HttpRequest) -> bool:
        """Whether this user may drain a model and end its maintenance."""
        return request.user.has_perm("integrations.drain_model")


class OperatorAdmin(ConsoleAdmin):
    """A page whose writes are operations.

    What an operation refuses although the form allowed it (a rule over several rows, somebody else's edit in between)
    comes back as a message; Django's own transaction around the view has then undone everything.
    """

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Show or save one row."""
        return _refusals_told(
            request, lambda: super(OperatorAdmin, self).changeform_view(request, object_id, form_url, extra_context)
        )

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None) -> Any:
        """Ask, then delete one row."""
        return _refusals_told(
            request, lambda: super(OperatorAdmin, self).delete_view(request, object_id, extra_context)
        )

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Show the list, or act on a part of it."""
        return _refusals_told(request, lambda: super(OperatorAdmin, self).changelist_view(request, extra_context))


def refuse_forbidden_action(page: "admin.ModelAdmin[Any]", request: HttpRequest) -> None:
    """Answer 403 to an action that this user's page does not offer; Django would show the list as if none was sent."""
    action = request.POST.get("action")
    if action and action not in page.get_actions(request):
        raise PermissionDenied


def _refusals_told(request: HttpRequest, view: Callable[[], HttpResponseBase]) -> HttpResponseBase:
    try:
        return view()
    except ConfigurationChanged:
        raise  # a model's page shows what has changed
    except ValidationError as error:
        for message in lines(error):
            messages.error(request, message)
        return HttpResponseRedirect(request.get_full_path())


def lines(error: ValidationError) -> list[str]:
    """A refusal as sentences, each with its field in front."""
    if not hasattr(error, "error_dict"):
        return list(error.messages)
    return [f"{field}: {' '.join(texts)}" for field, texts in error.message_dict.items()]


class WholeList(ChangeList):
    """A list without a count of all rows, which Unfold would take for a part of them."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page; without filters what was found is all there is to show."""
        super().get_results(request)
        if not self.has_active_filters and not self.query:
            self.full_result_count = self.result_count


class ReadOnlyAdmin(ConsoleAdmin):
    """Rows that Citadel writes and nobody edits."""

    show_full_result_count = False  # counting all calls ever made takes seconds
    list_per_page = 30  # a row costs the server about 2 ms to write

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """A list that is whole says so by not offering to show all."""
        return WholeList

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody adds."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody changes."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody deletes."""
        return False


def ask(
    page: "admin.ModelAdmin[Any]",
    request: HttpRequest,
    rows: "QuerySet[Any]",
    *,
    form_class: type[forms.Form],
    title: str,
    says: str = "",
    act: Callable[[Mapping[str, Any]], None],
) -> HttpResponse | None:
    """The second step of an action: show `form_class` for the chosen rows; once it is sent and valid, `act` on it.

    `says` tells what it leads to. Returns None when that is done, and Django then shows the list again.
    """
    form = form_class(request.POST) if "apply" in request.POST else form_class()
    if form.is_bound and form.is_valid() and _acted(form, act):
        messages.success(request, f"{title}: {named(rows)}.")
        return None
    across = request.POST.get("select_across", "0")
    chosen = request.POST.getlist(helpers.ACTION_CHECKBOX_NAME)
    hidden = [("action", request.POST.get("action", "")), ("select_across", across), ("index", "0")]
    hidden += [(helpers.ACTION_CHECKBOX_NAME, pk) for pk in chosen]
    return _asked(page, request, rows, form=form, title=title, says=says, hidden=hidden)


def ask_about(
    page: "admin.ModelAdmin[Any]",
    request: HttpRequest,
    row: Model,
    *,
    form_class: type[forms.Form],
    title: str,
    says: str = "",
    act: Callable[[Mapping[str, Any]], None],
) -> HttpResponse:
    """Ask `form_class` about one row; once it is sent and valid, `act` on it and go back to the row's page."""
    form = form_class(request.POST) if request.method == "POST" else form_class()
    back = page_url(page, "change", row.pk)
    if form.is_bound and form.is_valid() and _acted(form, act):
        messages.success(request, f"{title}: {row}.")
        return HttpResponseRedirect(back)
    return _asked(page, request, [row], form=form, title=title, says=says, back=back)


def page_url(page: "admin.ModelAdmin[Any]", name: str, *args: Any) -> str:
    """Return the address of one of the page's own views."""
    return reverse(f"admin:{page.opts.app_label}_{page.opts.model_name}_{name}", args=args)


def named(rows: "Iterable[Any]", most: int = 10) -> str:
    """Return the rows' names as a sentence lists them, the first ones of many."""
    shown = [str(row) for row in islice(rows, most + 1)]
    return ", ".join(shown[:most]) + (", …" if len(shown) > most else "")


def _asked(
    page: "admin.ModelAdmin[Any]",
    request: HttpRequest,
    rows: "QuerySet[Any] | list[Any]",
    *,
    form: forms.Form,
    title: str,
    says: str,
    hidden: Sequence[tuple[str, str]] = (),
    back: str = "",
) -> HttpResponse:
    context = {
        **page.admin_site.each_context(request),
        "title": title,
        "says": says,
        "opts": page.opts,
        "rows": rows[:SHOWN],
        "more": max(0, (len(rows) if isinstance(rows, list) else rows.count()) - SHOWN),
        "form": form,
        "hidden": hidden,
        "back": back or page_url(page, "changelist"),
        "media": page.media + form.media,
    }
    return TemplateResponse(request, "admin/integrations/ask.html", context)


def _acted(form: forms.Form, act: Callable[[Mapping[str, Any]], None]) -> bool:
    try:
        act(form.cleaned_data)
    except ValidationError as error:
        named = error.message_dict if hasattr(error, "error_dict") else {"": error.messages}
        for field, texts in named.items():
            form.add_error(field if field in form.fields else None, [str(text) for text in texts])
        return False
    return True
