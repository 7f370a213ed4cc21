"""What the admin pages ask before they act, and the form of a new key."""

from typing import TYPE_CHECKING

from django import forms

from integrations.models import ApiKey, ModelConfig

if TYPE_CHECKING:
    from django.forms import CheckboxSelectMultiple as ScopesInput
    from django.forms import TextInput as ReasonInput
else:
    from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget as ScopesInput
    from unfold.widgets import UnfoldAdminTextInputWidget as ReasonInput


class ReasonForm(forms.Form):
    """Why an operator does something."""

    reason = forms.CharField(max_length=200, widget=ReasonInput(), help_text="Others will see it.")


class OptionalReasonForm(forms.Form):
    """Why, for what needs no excuse."""

    reason = forms.CharField(max_length=200, widget=ReasonInput(), required=False)


class ApiKeyForm(forms.ModelForm):  # type: ignore[type-arg]  # as above
    """A new key: whose, and what for."""

    scopes = forms.MultipleChoiceField(choices=ApiKey.Scope.choices, widget=ScopesInput())
    allowed_models = forms.ModelMultipleChoiceField(
        queryset=ModelConfig.objects.order_by("slug"),
        to_field_name="slug",
        required=False,
        widget=ScopesInput(),
        help_text="Only these models. None chosen: all.",
    )

    class Meta:
        model = ApiKey
        fields = ("client", "scopes", "allowed_models", *ApiKey.LIMITS, "expires_at")

    def clean_allowed_models(self) -> list[str]:
        """Their slugs."""
        return [model.slug for model in self.cleaned_data["allowed_models"]]
