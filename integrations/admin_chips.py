"""The console's small labels, for columns: what the tag `chip` renders in a template."""

from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from integrations.templatetags.console import chip


def chip_html(state: str, tone: str = "") -> SafeString:
    """Return a state as a label, with the words and the tone that the tag gives it."""
    return render_to_string("citadel/chip.html", chip(state, tone))
