"""django-rq's pages for those who may only look."""

import re
from typing import Final

from django import template
from django.utils.safestring import SafeString, mark_safe

register = template.Library()

# What django-rq's templates have for changing a list: links above it, the menu of actions, buttons below a job.
_TOOLS: Final = re.compile(
    r'<ul class="object-tools">.*?</ul>|<div class="actions">.*?</div>|<div class="submit-row".*?</div>', re.DOTALL
)


@register.filter
def without_tools(page: SafeString) -> SafeString:
    """The page without what its reader may not use. `page` is a rendered template: its values are escaped."""
    return mark_safe(_TOOLS.sub("", page))  # nosec B308 B703 # values escaped when rendered
