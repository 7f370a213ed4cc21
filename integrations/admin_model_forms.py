"""The form of one model's page: the model, its patterns and its endpoints, and who else has changed it meanwhile."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from integrations import rules
from integrations.applying import plain
from integrations.configuration import PATTERN_FIELDS
from integrations.differences import seal, unseal
from integrations.models import Endpoint, ModelConfig, PatternAssignment
from integrations.trail import ConfigurationChanged

if TYPE_CHECKING:
    InlineFormSet = forms.BaseInlineFormSet[Any, Any, Any]
    from django.forms import NumberInput
else:
    from unfold.forms import PaginationInlineFormSet as InlineFormSet
    from unfold.widgets import UnfoldAdminIntegerFieldWidget as NumberInput

# What an empty field of a pattern takes; docs/configuration.md has the same table.
_DEFAULTS = {
    "deadline": "REAL_TIME_TIMEOUT",
    "connect_timeout": "CONNECT_TIMEOUT",
    "attempt_timeout": "ATTEMPT_TIMEOUT",
    "retry_attempts": "PATTERN_RETRY_ATTEMPTS",
    "breaker_threshold": "PATTERN_CIRCUIT_BREAKER_THRESHOLD",
    "breaker_reset_timeout": "BREAKER_RESET_TIMEOUT",
    "urgent_threshold": "HYBRID_URGENT_THRESHOLD",
    "batch_size": "BULK_BATCH_SIZE",
    "processing_interval": "BULK_PROCESSING_INTERVAL",
}
_SECONDS = ("deadline", "connect_timeout", "attempt_timeout", "breaker_reset_timeout", "processing_interval")

SEEN = "seen"
PROBE = "probe"


class PositionInput(NumberInput):
    """A row's place as a number, with two buttons that move the row; the numbers do without the buttons."""

    def render(self, name: str, value: Any, attrs: Mapping[str, Any] | None = None, renderer: Any = None) -> SafeString:
        """Return the number and the buttons."""
        move = '<button type="button" class="c-button row-move" data-move="{}" title="{}" aria-label="{}">{}</button>'
        return format_html(
            '<span class="row-order">{}{}{}</span>',
            super().render(name, value, dict(attrs or {}), renderer),
            format_html(move, "up", "Move up", "Move up", "↑"),
            format_html(move, "down", "Move down", "Move down", "↓"),
        )


class ProbeButton(forms.Widget):
    """Asks the row's server as the form has it, before anything is saved; the name says which row."""

    def render(self, name: str, value: Any, attrs: Mapping[str, Any] | None = None, renderer: Any = None) -> SafeString:
        """Return the button and the place where the answer goes."""
        return format_html(
            '<span class="row-probe"><button type="button" name="{}" value="now" class="c-button" '
            'hx-post="{}" hx-target="next .probe-answer" hx-disabled-elt="this" hx-indicator="closest .row-probe">'
            "Probe now</button>"
            '<span class="probe-waits" aria-hidden="true">asking…</span>'
            '<span class="probe-answer" role="status"></span></span>',
            name,
            reverse("admin:integrations_modelconfig_probe"),
        )

    def id_for_label(self, id_: str) -> str:
        """The button says itself what it does: the label must not rename it for a screen reader."""
        return ""

    def use_required_attribute(self, initial: Any) -> bool:
        """A button holds nothing."""
        return False


class EndpointForm(forms.ModelForm):  # type: ignore[type-arg]  # Django's own class takes no argument at run time
    """One endpoint of the model."""

    probe = forms.Field(required=False, widget=ProbeButton(), label="Try it")

    class Meta:
        model = Endpoint
        fields = (
            "url",
            "protocol",
            "enabled",
            "position",
            "upstream_model",
            "max_batch",
            "max_in_flight",
            "min_target",
            "max_target",
            "auth_header",
            "auth_env",
            "ca_file",
        )
        widgets = {"position": PositionInput()}
        labels = {"position": "Order", "url": "URL", "ca_file": "CA file"}


class AssignmentForm(forms.ModelForm):  # type: ignore[type-arg]  # as above
    """One pattern of the model."""

    class Meta:
        model = PatternAssignment
        fields = ("pattern", "position", *(f for f in PATTERN_FIELDS if f != "pattern"))
        widgets = {"position": PositionInput()}
        labels = {"position": "Order", **{name: f"{name.replace('_', ' ').capitalize()} (s)" for name in _SECONDS}}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, setting in _DEFAULTS.items():
            if name in self.fields:
                self.fields[name].widget.attrs["placeholder"] = getattr(settings, setting) or "a third of the deadline"


class ModelForm(forms.ModelForm):  # type: ignore[type-arg]  # as above
    """A model, with its fallbacks checked against its embedding space."""

    class Meta:
        model = ModelConfig
        fields = (
            "slug",
            "enabled",
            "upstream_model",
            "dimensions",
            "embedding_space",
            "query_prefix",
            "passage_prefix",
            "normalise",
            "truncate",
            "fallbacks",
            "coalesce",
            "cache",
            "takes_token_ids",
            "max_waiting_texts",
        )

    @property
    def seen(self) -> Any:
        """The configuration that this form began from; None for a new model."""
        return unseal(self.data.get(SEEN, "")) if self.instance.pk else None

    @property
    def outdated(self) -> bool:
        """Whether somebody else has changed the model since."""
        return any(error.code == "changed" for error in self.non_field_errors().as_data())

    def _post_clean(self) -> None:
        # Here, and not in clean(): the instance carries the new values only from now on.
        super()._post_clean()  # type: ignore[misc]  # the stubs leave this documented hook out
        found: rules.Errors = {}
        rules.collect(found, lambda: rules.check_fallbacks(self.instance, self.cleaned_data.get("fallbacks", [])))
        rules.collect(found, lambda: rules.check_space_of(self.instance))
        if found:
            self.add_error(None, ValidationError({k: v for k, v in found.items() if k in self.fields}))
        # Asked for again by the operation, under its lock; here it can still be said beside the form.
        if self.instance.pk and self.seen != plain(self.instance.pk):
            self.add_error(None, ConfigurationChanged())


class ProbedModelForm(forms.ModelForm):  # type: ignore[type-arg]  # as above
    """What a probe needs of the model."""

    class Meta:
        model = ModelConfig
        fields = ("upstream_model", "dimensions", "normalise", "truncate")


class AssignmentFormSet(InlineFormSet):
    """The patterns of one model, checked together."""

    def clean(self) -> None:
        """Refuse an empty assignment and bulk_only beside a live pattern."""
        super().clean()
        kept = [form.cleaned_data for form in self.forms if form.is_valid() and not form.cleaned_data.get("DELETE")]
        patterns = [data["pattern"] for data in kept if data.get("pattern")]
        if not any(self.errors):
            rules.check_assignments(patterns)


def seal_of(model: ModelConfig) -> str:
    """Return what a form of this model, opened now, carries along."""
    return seal(plain(model.pk))


def revive(data: QueryDict, prefix: str, *, stored: Collection[int]) -> QueryDict:
    """Return a submitted formset in which rows that are not stored any more are new ones, behind the others.

    Somebody else has removed them: Django would refuse the whole form for a row that it cannot find.
    """
    initial = int(data.get(f"{prefix}-INITIAL_FORMS") or 0)
    total = int(data.get(f"{prefix}-TOTAL_FORMS") or 0)
    gone = [n for n in range(initial) if (data.get(f"{prefix}-{n}-id") or "") not in {str(pk) for pk in stored}]
    if not gone:
        return data
    order = [n for n in range(initial) if n not in gone] + [*gone, *range(initial, total)]
    moved = data.copy()
    for key in list(moved):
        if key.startswith(f"{prefix}-") and key.split("-")[1].isdigit():
            del moved[key]
    for new, old in enumerate(order):
        for key in data:
            if key.startswith(f"{prefix}-{old}-"):
                moved.setlist(f"{prefix}-{new}-{key.split('-', 2)[2]}", data.getlist(key))
        if old in gone:
            moved[f"{prefix}-{new}-id"] = ""
    moved[f"{prefix}-INITIAL_FORMS"] = str(initial - len(gone))
    return moved
