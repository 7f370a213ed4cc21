"""django-rq's pages as the console shows them: boxes with names, and no tools for those who may only look."""

import re
from typing import Final

from django import template
from django.utils.safestring import SafeString, mark_safe

register = template.Library()

# What django-rq's templates have for changing a list: links above it, the menu of actions, buttons below a job.
_TOOLS: Final = re.compile(
    r'<ul class="object-tools">.*?</ul>|<div class="actions">.*?</div>|<div class="submit-row".*?</div>', re.DOTALL
)
# It chooses all rows by a script that is not there any more.
_TOGGLE: Final = re.compile(r'<input type="checkbox" id="action-toggle">')
_BOX: Final = re.compile(r'<input class="action-select"(?=[^>]*value="([^"]*)")')


@register.filter
def mended(page: SafeString, operates: bool) -> SafeString:
    """A page of django-rq for somebody who `operates` or not. It is a rendered template: its values are escaped."""
    found = _TOGGLE.sub("", page)
    if operates:
        found = _BOX.sub(r'<input class="action-select" aria-label="Choose \1"', found)
    else:
        found = _BOX.sub('<input class="action-select" hidden disabled', _TOOLS.sub("", found))
    return mark_safe(found)  # nosec B308 B703 # values escaped when rendered
