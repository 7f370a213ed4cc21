"""Rules of the configuration, one function each, shared by the admin, YAML import and `manage.py check`.

Each raises django.core.exceptions.ValidationError; `errors_of` and `warnings_of` judge a stored model as a whole and
name each field as docs/configuration.md writes it: "upstream_model", "endpoints[0].url", "patterns", "fallbacks".
"""

import ipaddress
import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError

if TYPE_CHECKING:
    from django.db.models import Model

    from integrations.models import Endpoint, ModelConfig

Errors = dict[str, list[str]]

# These stand in the same place of a URL as a model's slug.
RESERVED_SLUGS = frozenset({"batch", "patterns", "test"})
LIVE_PATTERNS = frozenset({"real_time", "hybrid"})
# An endpoint is sent the variable's value: Citadel's own secrets must not be nameable.
OWN_SECRETS = frozenset({"SECRET_KEY", "DATABASE_URL", "REDIS_URL"})
# RFC 9110 section 5.6.2: what a header's name is made of.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# The transport says these itself; a second one would change where the message ends or whom it reaches.
_FRAMING = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})


def not_reserved(slug: str) -> None:
    """Refuse a slug that an address of the API already uses."""
    if slug.lower() in RESERVED_SLUGS:
        raise ValidationError(f"“{slug}” is reserved: the API uses it in its own addresses.")


def endpoint_url(url: str) -> None:
    """Refuse what is not a plain base URL: http or https, a host, no credentials, query or fragment."""
    try:
        parts = urlsplit(url)
        if "@" in parts.netloc:
            # First, and without the value: it would put the password into a message.
            raise ValidationError("Give credentials as the name of an environment variable, not in the URL.")
        port = parts.port
    except ValueError as error:
        raise ValidationError(f"“{url}” is not a URL: {error}.") from error
    if any(c.isspace() or not c.isprintable() for c in url):
        raise ValidationError(f"“{url!r}” holds white space or control characters.")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValidationError(f"“{url}” must begin with http:// or https:// and name a host.")
    if port == 0:
        raise ValidationError(f"“{url}” names port 0.")
    if "?" in url or "#" in url:
        raise ValidationError(f"“{url}” must be a base URL, without ? and #.")
    _check_host(parts.hostname)


def base_url(url: str) -> str:
    """Return the one way to write an endpoint's URL: two that differ by the last slash are one server."""
    return url.strip().rstrip("/")


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


def check_targets(endpoint: "Endpoint") -> None:
    """Refuse bounds of which none is between."""
    if endpoint.min_target and endpoint.max_target and endpoint.min_target > endpoint.max_target:
        raise ValidationError({"max_target": [f"At least min_target, which is {endpoint.min_target}."]})


def check_auth(endpoint: "Endpoint") -> None:
    """Refuse a header name or a variable name that cannot be one, and the names of Citadel's own secrets."""
    errors: Errors = {}
    if endpoint.auth_header and not _TOKEN.fullmatch(endpoint.auth_header):
        errors["auth_header"] = [f"“{endpoint.auth_header}” is not the name of a header."]
    if endpoint.auth_header.lower() in _FRAMING:
        errors["auth_header"] = [f"{endpoint.auth_header} is Citadel's to set."]
    if endpoint.auth_env and not endpoint.auth_header:
        errors["auth_header"] = ["Name the header that carries the value of auth_env."]
    if endpoint.auth_env and not _VARIABLE.fullmatch(endpoint.auth_env):
        errors["auth_env"] = ["Give the name of an environment variable, not the value itself."]
    if endpoint.auth_env in OWN_SECRETS:
        errors["auth_env"] = [f"{endpoint.auth_env} is Citadel's own secret; it is not sent to a model server."]
    if errors:
        raise ValidationError(errors)


def check_fallbacks(model: "ModelConfig", fallbacks: Iterable["ModelConfig"]) -> None:
    """Refuse a fallback to the model itself and one whose vectors do not compare with the model's."""
    wrong = [problem for other in fallbacks if (problem := _fallback_problem(model, other))]
    if wrong:
        raise ValidationError({"fallbacks": wrong})


def _fallback_problem(model: "ModelConfig", other: "ModelConfig") -> str:
    if other.slug == model.slug:
        return "A model cannot be its own fallback."
    if not model.embedding_space or other.embedding_space != model.embedding_space:
        return (
            f"{other.slug} has the embedding space “{other.embedding_space}”, {model.slug} “{model.embedding_space}”: "
            "vectors of two spaces must not mix."
        )
    if model.dimensions and other.dimensions and model.dimensions != other.dimensions:
        return f"{other.slug} gives {other.dimensions} dimensions, {model.slug} {model.dimensions}."
    return ""


def check_space_of(model: "ModelConfig") -> None:
    """Refuse a change of space or dimensions that a model which falls back to this one cannot follow."""
    if model._state.adding:
        return
    for origin in type(model)._default_manager.filter(fallbacks=model.pk).exclude(pk=model.pk):
        if _fallback_problem(origin, model):
            raise ValidationError(
                {"embedding_space": f"{origin.slug} has this model as a fallback; it has “{origin.embedding_space}”."}
            )


def errors_of(model: "ModelConfig") -> Errors:
    """Return what is wrong with a stored model, its endpoints and its patterns, by field; empty if nothing is."""
    found: Errors = {}
    # Uniqueness holds by constraint for rows that are stored.
    collect(found, partial(clean_row, model))
    for index, endpoint in enumerate(model.endpoints.all()):
        collect(found, partial(clean_row, endpoint), prefix=f"endpoints[{index}].")
    assignments = list(model.assignments.all())
    for index, assignment in enumerate(assignments):
        collect(found, partial(clean_row, assignment), prefix=f"patterns[{index}].")
    collect(found, partial(check_assignments, [a.pattern for a in assignments]), field="patterns")
    collect(found, partial(check_fallbacks, model, model.fallbacks.all()))
    collect(found, partial(check_space_of, model))
    return found


def clean_row(row: "Model") -> None:
    """Check the fields of one row by themselves; its model and its neighbours are checked elsewhere."""
    row.full_clean(exclude=["model"], validate_unique=False, validate_constraints=False)


def collect(found: Errors, check: Callable[[], None], *, prefix: str = "", field: str = "") -> None:
    """Run `check`; put what it refuses into `found`, each field after `prefix`, and `field` where it names none."""
    try:
        check()
    except ValidationError as error:
        named = error.message_dict if hasattr(error, "error_dict") else {field: error.messages}
        for name, messages in named.items():
            path = field if name == NON_FIELD_ERRORS else name
            found.setdefault(f"{prefix}{path}" if path else prefix.rstrip("."), []).extend(messages)


def warnings_of(model: "ModelConfig") -> Errors:
    """Return what will not work as a stored model stands, by field: allowed, since it may be on its way."""
    found: Errors = {}
    endpoints = list(model.endpoints.all())
    if model.enabled and not any(e.enabled for e in endpoints):
        found["endpoints"] = [f"{model.slug} is enabled and has no enabled endpoint: every call will fail."]
    for index, endpoint in enumerate(endpoints):
        if endpoint.auth_env and endpoint.auth_env not in os.environ:
            found[f"endpoints[{index}].auth_env"] = [f"The environment variable {endpoint.auth_env} is not set here."]
        if endpoint.ca_file and not Path(endpoint.ca_file).is_file():
            found[f"endpoints[{index}].ca_file"] = [f"There is no file {endpoint.ca_file} here."]
    return found
