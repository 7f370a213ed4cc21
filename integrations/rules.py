"""Rules of the configuration, one function each, shared by the admin, YAML import and `manage.py check`."""

import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError

if TYPE_CHECKING:
    from integrations.models import ModelConfig

# These stand in the same place of a URL as a model's slug.
RESERVED_SLUGS = frozenset({"batch", "patterns", "test"})
LIVE_PATTERNS = frozenset({"real_time", "hybrid"})


def not_reserved(slug: str) -> None:
    """Refuse a slug that an address of the API already uses."""
    if slug.lower() in RESERVED_SLUGS:
        raise ValidationError(f"“{slug}” is reserved: the API uses it in its own addresses.")


def endpoint_url(url: str) -> None:
    """Refuse what is not a plain base URL: http or https, a host, no credentials, query or fragment."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValidationError(f"“{url}” is not a URL: {error}.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValidationError(f"“{url}” must begin with http:// or https:// and name a host.")
    if port == 0:
        raise ValidationError(f"“{url}” names port 0.")
    if parts.username or parts.password:
        raise ValidationError("Give credentials as the name of an environment variable, not in the URL.")
    if parts.query or parts.fragment:
        raise ValidationError(f"“{url}” must be a base URL, without ? and #.")
    if any(c.isspace() for c in url):
        raise ValidationError(f"“{url}” holds white space.")
    _check_host(parts.hostname)


def _check_host(host: str) -> None:
    # A number with dots that is no address, such as 10.0.0.999, would be asked of the resolver as a name.
    if host.replace(".", "").isdigit():
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise ValidationError(f"“{host}” is not an IP address.") from error


def check_assignments(patterns: Iterable[str]) -> None:
    """Refuse an empty assignment, a pattern given twice, and bulk_only beside a live pattern."""
    chosen = list(patterns)
    if not chosen:
        raise ValidationError("Assign at least one pattern.")
    if len(set(chosen)) < len(chosen):
        raise ValidationError("A pattern is assigned twice.")
    if "bulk_only" in chosen and LIVE_PATTERNS & set(chosen):
        raise ValidationError("bulk_only cannot stand beside a live pattern.")


def check_slug_free(model: "ModelConfig") -> None:
    """Refuse a slug that another model has, also when only the case differs."""
    others = type(model)._default_manager.filter(slug__iexact=model.slug).exclude(pk=model.pk)
    if others.exists():
        raise ValidationError({"slug": f"Another model is called “{others[0].slug}”."})
