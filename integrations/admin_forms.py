"""Forms of the admin pages. They apply integrations.rules, so that a refusal stands beside its field."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError

from integrations import rules
from integrations.models import ApiKey, ModelConfig

if TYPE_CHECKING:
    InlineFormSet = forms.BaseInlineFormSet[Any, Any, Any]
    from django.forms import CheckboxSelectMultiple as ScopesInput
    from django.forms import TextInput as ReasonInput
else:
    from unfold.forms import PaginationInlineFormSet as InlineFormSet
    from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget as ScopesInput
    from unfold.widgets import UnfoldAdminTextInputWidget as ReasonInput


class ModelForm(forms.ModelForm):  # type: ignore[type-arg]  # Django's own class takes no argument at run time
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
            "max_waiting_texts",
        )

    def _post_clean(self) -> None:
        # Here, and not in clean(): the instance carries the new values only from now on.
        super()._post_clean()  # type: ignore[misc]  # the stubs leave this documented hook out
        found: rules.Errors = {}
        rules.collect(found, lambda: rules.check_fallbacks(self.instance, self.cleaned_data.get("fallbacks", [])))
        rules.collect(found, lambda: rules.check_space_of(self.instance))
        if found:
            self.add_error(None, ValidationError({k: v for k, v in found.items() if k in self.fields}))


class AssignmentFormSet(InlineFormSet):
    """The patterns of one model, checked together."""

    def clean(self) -> None:
        """Refuse an empty assignment and bulk_only beside a live pattern."""
        super().clean()
        kept = [form.cleaned_data for form in self.forms if form.is_valid() and not form.cleaned_data.get("DELETE")]
        patterns = [data["pattern"] for data in kept if data.get("pattern")]
        if not any(self.errors):
            rules.check_assignments(patterns)


class ReasonForm(forms.Form):
    """Why an operator does something."""

    reason = forms.CharField(max_length=200, widget=ReasonInput(), help_text="Others will see it.")


class OptionalReasonForm(forms.Form):
    """Why, for what needs no excuse."""

    reason = forms.CharField(max_length=200, widget=ReasonInput(), required=False)


class ApiKeyForm(forms.ModelForm):  # type: ignore[type-arg]  # as above
    """A new key: whose, and what for."""

    scopes = forms.MultipleChoiceField(choices=ApiKey.Scope.choices, widget=ScopesInput())

    class Meta:
        model = ApiKey
        fields = ("client", "scopes", "expires_at")
