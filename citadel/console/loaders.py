"""Templates made fit for the console's Content-Security-Policy.

The policy runs no inline script and applies no inline style that does not carry the page's nonce. Unfold, Django's
admin and django-rq have some in their templates. The nonce is written into the template's source, before anything is
filled in: what a page shows can hold any text, and a tag that came with it has no nonce and does nothing.
"""

import re

from django.template import Origin
from django.template.loaders import app_directories, filesystem

_INLINE = re.compile(r"<(script|style)\b(?![^>]*\bnonce=)", re.IGNORECASE)
_WITH_NONCE = r'<\1 nonce="{{ request.csp_nonce }}"'


def with_nonces(source: str) -> str:
    """Return the source of a template with the nonce in each script and style tag that has none."""
    return _INLINE.sub(_WITH_NONCE, source)


class OwnTemplates(filesystem.Loader):
    """The project's templates."""

    def get_contents(self, origin: Origin) -> str:
        """Return the source, with nonces."""
        return with_nonces(super().get_contents(origin))


class AppTemplates(app_directories.Loader):
    """The templates of the installed apps."""

    def get_contents(self, origin: Origin) -> str:
        """Return the source, with nonces."""
        return with_nonces(super().get_contents(origin))
