"""The operators' pages. Every write is one call of integrations.operations."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from integrations import admin_breakers, admin_records, operations, rules
from integrations.admin_base import OperatorAdmin, UnfoldStacked, actor, ask
from integrations.admin_breakers import reset, trip
from integrations.admin_forms import ApiKeyForm, AssignmentFormSet, ModelForm, OptionalReasonForm, ReasonForm
from integrations.models import ApiKey, Endpoint, ModelConfig, PatternAssignment
from integrations.values import hash_key

__all__ = ["ApiKeyAdmin", "ModelConfigAdmin", "PatternAssignmentAdmin", "admin_breakers", "admin_records"]


class EndpointInline(UnfoldStacked):
    """A model's endpoints, on the model's page."""

    model = Endpoint
    extra = 0
    fields = (
        ("url", "protocol"),
        ("enabled", "position"),
        ("upstream_model", "max_batch", "max_in_flight"),
        ("auth_header", "auth_env", "ca_file"),
        ("forced_open", "forced_reason", "forced_until"),
    )
    readonly_fields = ("forced_open", "forced_reason", "forced_until")


class AssignmentInline(UnfoldStacked):
    """A model's patterns, on the model's page."""

    model = PatternAssignment
    formset = AssignmentFormSet
    extra = 0
    fields = (
        ("pattern", "position"),
        ("deadline", "connect_timeout", "attempt_timeout", "retry_attempts"),
        ("breaker_threshold", "breaker_reset_timeout"),
        ("urgent_threshold", "batch_size", "processing_interval"),
    )


@admin.action(description="Drain for maintenance", permissions=["drain"])
def drain(page: "admin.ModelAdmin[Any]", request: HttpRequest, rows: "QuerySet[Any]") -> HttpResponse | None:
    """Refuse live calls and hold queued work of the chosen models, after asking why."""
    act = partial(_each_model, request, rows, operations.drain_model)
    return ask(page, request, rows, form_class=ReasonForm, title="Drain for maintenance", act=act)


@admin.action(description="End maintenance", permissions=["drain"])
def undrain(page: "admin.ModelAdmin[Any]", request: HttpRequest, rows: "QuerySet[Any]") -> HttpResponse | None:
    """Let the chosen models work again."""
    act = partial(_each_model, request, rows, operations.undrain_model)
    return ask(page, request, rows, form_class=OptionalReasonForm, title="End maintenance", act=act)


def _each_model(
    request: HttpRequest, rows: "QuerySet[ModelConfig]", operation: Callable[..., None], data: Mapping[str, Any]
) -> None:
    for row in rows:
        operation(row.slug, actor=actor(request), reason=data["reason"])


@admin.register(ModelConfig)
class ModelConfigAdmin(OperatorAdmin):
    """Models with their endpoints and patterns: one page, one write."""

    form = ModelForm
    inlines = (AssignmentInline, EndpointInline)
    list_display = ("slug", "patterns", "servers", "enabled", "draining", "upstream_model", "dimensions")
    list_filter = ("enabled", "draining", "assignments__pattern")
    search_fields = ("slug", "upstream_model", "endpoints__url")
    readonly_fields = ("draining", "drain_reason")
    actions = (trip, reset, drain, undrain)

    def get_queryset(self, request: HttpRequest) -> "QuerySet[ModelConfig]":
        """All models, with what the list shows of each."""
        return ModelConfig.objects.prefetch_related("assignments", "endpoints")

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """A slug stays what it is: batches, records and clients know the model by it."""
        return (*self.readonly_fields, "slug") if obj else self.readonly_fields

    @admin.display(description="patterns")
    def patterns(self, model: ModelConfig) -> str:
        """The patterns, in order."""
        return ", ".join(a.pattern for a in model.assignments.all())

    @admin.display(description="endpoints")
    def servers(self, model: ModelConfig) -> str:
        """The endpoints, in order, with what keeps one from being asked."""
        return ", ".join(f"{e.url}{_mark(e)}" for e in model.endpoints.all())

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
        )
        for path, texts in rules.warnings_of(ModelConfig.objects.get(pk=model.pk)).items():
            messages.warning(request, f"{path}: {' '.join(texts)}")

    def delete_model(self, request: HttpRequest, obj: ModelConfig) -> None:
        """Delete one."""
        operations.delete_models([obj.slug], actor=actor(request))

    def delete_queryset(self, request: HttpRequest, queryset: "QuerySet[ModelConfig]") -> None:
        """Delete several, as one write."""
        operations.delete_models([m.slug for m in queryset], actor=actor(request))


def _mark(endpoint: Endpoint) -> str:
    if not endpoint.enabled:
        return " (off)"
    passed = endpoint.forced_until is not None and endpoint.forced_until <= timezone.now()
    return " (tripped)" if endpoint.forced_open and not passed else ""


@admin.register(PatternAssignment)
class PatternAssignmentAdmin(OperatorAdmin):
    """The patterns of all models in one list."""

    list_display = ("model", "pattern", "position", "deadline", "retry_attempts", "batch_size", "processing_interval")
    list_filter = ("pattern", "model")
    list_select_related = ("model",)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """Another model or pattern is another assignment."""
        return ("model", "pattern") if obj else ()

    def save_model(self, request: HttpRequest, obj: PatternAssignment, form: Any, change: bool) -> None:
        """Store it."""
        operations.save_assignment(obj, actor=actor(request))

    def delete_model(self, request: HttpRequest, obj: PatternAssignment) -> None:
        """Take the pattern from its model."""
        self.delete_queryset(request, PatternAssignment.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: "QuerySet[PatternAssignment]") -> None:
        """Take the patterns from their models, each model in one write."""
        gone = list(queryset.select_related("model"))
        for model in {a.model for a in gone}:
            left = [a.pattern for a in model.assignments.all() if a not in gone]
            operations.assign_patterns(model.slug, left, actor=actor(request))


@admin.register(ApiKey)
class ApiKeyAdmin(OperatorAdmin):
    """API keys: made and revoked, never changed, never shown again."""

    form = ApiKeyForm
    list_display = ("client", "prefix", "scopes", "enabled", "created_at", "expires_at")
    list_filter = ("enabled",)
    search_fields = ("client", "prefix")
    actions = ("revoke",)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody: what a key may do is settled when it is made."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody: a revoked key's row says whose prefix it was."""
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Those whom Django lets change keys."""
        return request.user.has_perm("integrations.change_apikey")

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """What is asked of a new key, what is known of an old one; its hash is nobody's business."""
        asked = ("client", "scopes", "expires_at")
        return ("client", "prefix", "scopes", "enabled", "created_at", "expires_at") if obj else asked

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        """Make the key and show it, this once."""
        key = operations.create_key(obj.client, obj.scopes, actor=actor(request), expires_at=obj.expires_at)
        row = ApiKey.objects.get(hash=hash_key(key))
        obj.pk, obj.prefix = row.pk, row.prefix
        messages.warning(request, f"The key of {row.client} is {key} - copy it now, it cannot be shown again.")

    @admin.action(description="Revoke keys", permissions=["revoke"])
    def revoke(self, request: HttpRequest, rows: "QuerySet[ApiKey]") -> HttpResponse | None:
        """Make the chosen keys worthless, after asking."""

        def act(data: Mapping[str, Any]) -> None:
            operations.revoke_keys([row.pk for row in rows], actor=actor(request), reason=data["reason"])

        return ask(self, request, rows, form_class=OptionalReasonForm, title="Revoke keys", act=act)
