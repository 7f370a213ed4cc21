"""Models in the admin: one page a model, with its patterns and endpoints, and one write a page."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from integrations import breakers, operations, rules, snapshot
from integrations.admin_base import OperatorAdmin, ReadOnlyAdmin, UnfoldStacked, actor, ask, ask_about
from integrations.admin_breakers import reset, trip
from integrations.admin_chips import chip_html
from integrations.admin_forms import OptionalReasonForm, ReasonForm
from integrations.admin_model_forms import (
    SEEN,
    AssignmentForm,
    AssignmentFormSet,
    EndpointForm,
    ModelForm,
    revive,
    seal_of,
)
from integrations.admin_probe import probe_view
from integrations.applying import plain
from integrations.breaker_machine import BreakerView
from integrations.configuration import compose
from integrations.differences import differences, seal
from integrations.models import AuditEntry, Endpoint, ModelConfig, PatternAssignment
from integrations.trail import ConfigurationChanged

DRAINED = "Live calls are refused with Retry-After, and queued work waits, until somebody ends the maintenance."
CACHE_EMPTIED = "Every text is embedded anew the next time that it is asked for, in all processes within a second."
UNDRAINED = "Live calls are answered again, and queued work goes on."


class EndpointInline(UnfoldStacked):
    """A model's endpoints, on the model's page."""

    model = Endpoint
    form = EndpointForm
    extra = 0
    fields = (
        ("url", "protocol"),
        ("position", "enabled"),
        ("upstream_model", "max_batch", "max_in_flight"),
        ("min_target", "max_target"),
        ("auth_header", "auth_env", "ca_file"),
    )

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """The button that asks the server is for those who may save the answer's endpoint."""
        allowed = self.has_change_permission(request, obj)
        return (*self.fields, ("probe",)) if allowed else self.fields


class AssignmentInline(UnfoldStacked):
    """A model's patterns, on the model's page."""

    model = PatternAssignment
    form = AssignmentForm
    formset = AssignmentFormSet
    extra = 0
    verbose_name_plural = "patterns"
    fields = (
        ("pattern", "position"),
        ("deadline", "connect_timeout", "attempt_timeout", "retry_attempts"),
        ("breaker_threshold", "breaker_reset_timeout", "urgent_threshold"),
        ("batch_size", "processing_interval"),
    )


@admin.action(description="Drain for maintenance", permissions=["drain"])
def drain(page: "admin.ModelAdmin[Any]", request: HttpRequest, rows: "QuerySet[Any]") -> HttpResponse | None:
    """Refuse live calls and hold queued work of the chosen models, after asking why."""
    act = partial(_each_model, request, rows, operations.drain_model)
    return ask(page, request, rows, form_class=ReasonForm, title="Drain for maintenance", says=DRAINED, act=act)


@admin.action(description="End maintenance", permissions=["drain"])
def undrain(page: "admin.ModelAdmin[Any]", request: HttpRequest, rows: "QuerySet[Any]") -> HttpResponse | None:
    """Let the chosen models work again."""
    act = partial(_each_model, request, rows, operations.undrain_model)
    return ask(page, request, rows, form_class=OptionalReasonForm, title="End maintenance", says=UNDRAINED, act=act)


@admin.action(description="Empty the cache", permissions=["drain"])
def empty_cache(page: "admin.ModelAdmin[Any]", request: HttpRequest, rows: "QuerySet[Any]") -> HttpResponse | None:
    """Forget every vector that the cache has of the chosen models, after asking why."""
    act = partial(_each_model, request, rows, operations.purge_cache)
    return ask(page, request, rows, form_class=ReasonForm, title="Empty the cache", says=CACHE_EMPTIED, act=act)


def _each_model(
    request: HttpRequest, rows: Iterable[ModelConfig], operation: Callable[..., None], data: Mapping[str, Any]
) -> None:
    for row in rows:
        operation(row.slug, actor=actor(request), reason=data["reason"])


@admin.register(ModelConfig)
class ModelConfigAdmin(OperatorAdmin):
    """Models with their endpoints and patterns: one page, one write."""

    form = ModelForm
    inlines = (AssignmentInline, EndpointInline)
    list_display = ("slug", "patterns", "servers", "state", "upstream_model", "dimensions")
    list_filter = ("enabled", "draining", "assignments__pattern")
    search_fields = ("slug", "upstream_model", "endpoints__url")
    actions = (trip, reset, drain, undrain, empty_cache)
    warn_unsaved_form = True
    compressed_fields = False
    change_form_template = "admin/integrations/modelconfig/change_form.html"
    fieldsets = (
        (None, {"fields": (("slug", "enabled"), ("upstream_model", "dimensions"))}),
        (
            "Vectors",
            {
                "fields": (
                    ("embedding_space", "fallbacks"),
                    ("query_prefix", "passage_prefix"),
                    ("truncate", "normalise"),
                )
            },
        ),
        ("Live calls", {"fields": (("coalesce", "cache"), ("takes_token_ids",))}),
        ("Queue", {"fields": ("max_waiting_texts",)}),
        ("Canary", {"fields": (("canary", "canary_min_cosine"),)}),
    )

    class Media:
        css = {"all": ("integrations/model_form.css",)}
        js = ("integrations/model_form.js",)

    def get_urls(self) -> list[URLPattern]:
        """Django's, the probe of an unsaved endpoint, and the live part of a model's page."""
        wrap = self.admin_site.admin_view
        own = [
            path("probe/", wrap(partial(probe_view, self)), name="integrations_modelconfig_probe"),
            path("<int:pk>/state/", wrap(self.state_view), name="integrations_modelconfig_state"),
            path("<int:pk>/drain/", wrap(self.drain_view), name="integrations_modelconfig_drain"),
            path("<int:pk>/undrain/", wrap(self.undrain_view), name="integrations_modelconfig_undrain"),
        ]
        return [*own, *super().get_urls()]

    def get_queryset(self, request: HttpRequest) -> "QuerySet[ModelConfig]":
        """All models, with what the list shows of each."""
        return ModelConfig.objects.prefetch_related("assignments", "endpoints__canary")

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """A slug stays what it is: batches, records and clients know the model by it."""
        return (*self.readonly_fields, "slug") if obj else tuple(self.readonly_fields)

    # --- the list ---

    @admin.display(description="patterns")
    def patterns(self, model: ModelConfig) -> SafeString | str:
        """The patterns, in order."""
        return format_html_join(" ", "{}", ((chip_html(a.pattern, "off"),) for a in model.assignments.all()))

    @admin.display(description="endpoints")
    def servers(self, model: ModelConfig) -> SafeString | str:
        """The endpoints, in order, each with its breaker's state."""
        row = '<span class="server">{} <span class="server-url">{}</span></span>'
        rows = ((chip_html(state), endpoint.url) for endpoint, state, _ in endpoint_states(model))
        listed = format_html_join("", row, rows)
        return format_html('<span class="servers">{}</span>', listed) if listed else chip_html("none")

    @admin.display(description="serves")
    def state(self, model: ModelConfig) -> SafeString:
        """Whether an operator has taken it out of service."""
        if not model.enabled:
            return chip_html("disabled")
        return chip_html("drained") if model.draining else chip_html("serving", "good")

    # --- one model ---

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Show or save one model. Somebody else's write in between is told, and what was typed stays in the form."""
        if request.method == "POST" and object_id and object_id.isdigit():
            _revive_rows(request, int(object_id))
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except ConfigurationChanged:
            # It came between the form's own look and the operation's, under its lock: the form now sees it, too.
            return super().changeform_view(request, object_id, form_url, extra_context)

    def render_change_form(
        self,
        request: HttpRequest,
        context: Any,
        add: Any = False,
        change: Any = False,
        form_url: Any = "",
        obj: Any = None,
    ) -> Any:
        """Show the form with the configuration that it began from; after somebody else's write, with what differs."""
        if obj is not None:
            context["state"] = self._state_of(request, obj)
            context["seen"] = request.POST.get(SEEN) or seal_of(obj)
            form = context["adminform"].form
            if form.is_bound and form.outdated:
                stored = plain(obj.pk)
                context["seen"] = seal(stored)
                context["differences"] = differences(form.seen, stored, _typed(context))
                context["others"] = _edits_of(obj)
        return super().render_change_form(request, context, add, change, form_url, obj)

    def state_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Answer the live part of one model's page."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        model = get_object_or_404(self.get_queryset(request), pk=pk)
        context = {"state": self._state_of(request, model)}
        return TemplateResponse(request, "admin/integrations/modelconfig/state.html", context)

    def _state_of(self, request: HttpRequest, model: ModelConfig) -> dict[str, Any]:
        return {"model": model, "endpoints": endpoint_states(model), "may_drain": self.has_drain_permission(request)}

    def drain_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Drain this model, after asking why."""
        ask_it = partial(ask_about, form_class=ReasonForm, title="Drain for maintenance", says=DRAINED)
        return self._asked(request, pk, operations.drain_model, ask_it)

    def undrain_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Let this model work again."""
        ask_it = partial(ask_about, form_class=OptionalReasonForm, title="End maintenance", says=UNDRAINED)
        return self._asked(request, pk, operations.undrain_model, ask_it)

    def _asked(
        self, request: HttpRequest, pk: int, operation: Callable[..., None], ask_it: Callable[..., HttpResponse]
    ) -> HttpResponse:
        if not self.has_drain_permission(request):
            raise PermissionDenied
        model = get_object_or_404(ModelConfig, pk=pk)
        return ask_it(self, request, model, act=partial(_each_model, request, [model], operation))

    # --- writes ---

    def save_model(self, request: HttpRequest, obj: ModelConfig, form: Any, change: bool) -> None:
        """Leave it to save_related, where the endpoints and patterns are known too: all of it is one write."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Store the whole page."""
        model, rows, removed = form.instance, [], []
        for formset in formsets:
            rows.extend(formset.save(commit=False))
            removed.extend(formset.deleted_objects)
        operations.save_model(
            model,
            rows=rows,
            removed=removed,
            fallbacks=form.cleaned_data.get("fallbacks"),
            actor=actor(request),
            seen=form.seen,
        )
        for field, texts in rules.warnings_of(ModelConfig.objects.get(pk=model.pk)).items():
            messages.warning(request, f"{field}: {' '.join(texts)}")

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """What goes with the models. Their rows are edited nowhere else: who may delete a model may delete them."""
        shown, counts, _, protected = super().get_deleted_objects(objs, request)
        return shown, counts, set(), protected

    def delete_model(self, request: HttpRequest, obj: ModelConfig) -> None:
        """Delete one."""
        operations.delete_models([obj.slug], actor=actor(request))

    def delete_queryset(self, request: HttpRequest, queryset: "QuerySet[ModelConfig]") -> None:
        """Delete several, as one write."""
        operations.delete_models([m.slug for m in queryset], actor=actor(request))


def endpoint_states(model: ModelConfig) -> list[tuple[Endpoint, str, BreakerView | None]]:
    """Return the model's endpoints, in order, with their breakers' states; "disabled" for one that is switched off."""
    known = snapshot.peek() or snapshot.current()
    acting = (
        {e.id: breakers.state_of(e) for e in known.models[model.slug].endpoints} if model.slug in known.models else {}
    )
    rows = ((e, acting.get(e.pk)) for e in model.endpoints.all())
    return [(e, view.status if view else "disabled", view) for e, view in rows]


def _edits_of(model: ModelConfig) -> "QuerySet[AuditEntry]":
    """The last writes that may have changed this model's configuration."""
    own = Q(model=model.slug, action="save_model") | Q(action="sync_models", target__contains=model.slug)
    return AuditEntry.objects.filter(own).order_by("-id")[:3]


def _revive_rows(request: HttpRequest, pk: int) -> None:
    data: QueryDict = request.POST
    for prefix, rows in (("endpoints", Endpoint.objects), ("assignments", PatternAssignment.objects)):
        data = revive(data, prefix, stored=set(rows.filter(model=pk).values_list("pk", flat=True)))
    request.POST = data  # type: ignore[assignment]  # a copy may be changed, where Django's own may not


def _typed(context: Mapping[str, Any]) -> Any:
    """The configuration as the form has it, as far as it could be read."""
    form = context["adminform"].form
    formsets = {f.formset.prefix: f.formset for f in context["inline_admin_formsets"]}
    document = compose(
        form.instance,
        endpoints=_rows(formsets["endpoints"]),
        patterns=_rows(formsets["assignments"]),
        fallbacks=sorted(m.slug for m in form.cleaned_data.get("fallbacks", ())),
    )
    return document.plain()


def _rows(formset: Any) -> list[Any]:
    used = (form for form in formset.forms if form.instance.pk or form.has_changed())
    kept = [form.instance for form in used if not formset._should_delete_form(form)]
    return sorted(kept, key=lambda row: row.position or 0)


@admin.register(PatternAssignment)
class PatternAssignmentAdmin(ReadOnlyAdmin):
    """The patterns of all models in one list; each is edited on its model's page."""

    list_display = ("shown", "pattern", "position", "deadline", "retry_attempts", "batch_size", "processing_interval")
    list_display_links = None
    list_filter = ("pattern", "model")
    list_select_related = ("model",)

    @admin.display(description="model", ordering="model__slug")
    def shown(self, assignment: PatternAssignment) -> SafeString:
        """The model, as a way to its page."""
        page = reverse("admin:integrations_modelconfig_change", args=[assignment.model_id])
        return format_html('<a href="{}">{}</a>', page, assignment.model.slug)
