"""What the breakers' pages ask."""

from datetime import datetime, timedelta
from typing import Any, Final

from django import forms
from django.utils import timezone
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

_UNTIL: Final = "until"
LASTS: Final = (
    ("", "until somebody resets it"),
    ("5", "5 minutes"),
    ("15", "15 minutes"),
    ("60", "1 hour"),
    ("240", "4 hours"),
    (_UNTIL, "until the time below"),
)


class TripForm(forms.Form):
    """Why, and for how long."""

    reason = forms.CharField(
        max_length=200,
        widget=UnfoldAdminTextInputWidget(attrs={"autofocus": True}),
        help_text="Operators and clients see it, in the log, in the status and in each refused call.",
    )
    lasts = forms.ChoiceField(choices=LASTS, required=False, widget=UnfoldAdminSelectWidget(), label="For how long")
    until = forms.DateTimeField(
        required=False, widget=UnfoldAdminTextInputWidget(attrs={"type": "datetime-local"}), label="Until"
    )

    def clean(self) -> dict[str, Any]:
        """Set `until` from what was chosen: a time in the future, or None."""
        data = super().clean() or self.cleaned_data
        lasts = data.get("lasts", "")
        if lasts == _UNTIL:
            if not data.get("until"):
                self.add_error("until", "Give the time, or choose another duration.")
        elif data.get("until"):
            self.add_error("lasts", "Choose “until the time below”, or leave the time empty.")
        elif lasts:
            data["until"] = _in_minutes(int(lasts))
        return data


def _in_minutes(minutes: int) -> datetime:
    return timezone.now() + timedelta(minutes=minutes)


class ResetForm(forms.Form):
    """Why, where there is something to say."""

    reason = forms.CharField(max_length=200, required=False, widget=UnfoldAdminTextInputWidget())
