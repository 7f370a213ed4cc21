"""The nine models that a new installation begins with, as the environment describes them.

{SLUG}_ENDPOINT holds the URLs, {SLUG}_PROTOCOL what they speak, {SLUG}_UPSTREAM_MODEL the servers' own name for the
model. After the first sync the database rules: see `missing`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from django.conf import settings

from integrations.configuration import ModelDocument, describe, parse
from integrations.models import AuditEntry, ModelConfig

# The patterns of the user's card, in the order in which they are asked.
PATTERNS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "phi3": ("real_time",),
        "general": ("real_time",),
        "openchat": ("real_time", "hybrid"),
        "hermes": ("hybrid",),
        "mixtral": ("bulk_only",),
        "yi34": ("bulk_only",),
        "deepcoder": ("bulk_only",),
        "imp": ("bulk_only",),
        "deepseek": ("bulk_only",),
    }
)


def seeds() -> tuple[ModelDocument, ...]:
    """Return the nine models as the environment says. Raises ValidationError: "mixtral: endpoints[0].url"."""
    return parse({"models": [_plain(slug) for slug in settings.SEED_ENDPOINTS]})


def _plain(slug: str) -> dict[str, Any]:
    protocol = settings.SEED_PROTOCOLS[slug]
    return {
        "slug": slug,
        "upstream_model": settings.SEED_UPSTREAM_MODELS[slug],
        "patterns": list(PATTERNS[slug]),
        "endpoints": [{"url": url.strip(), "protocol": protocol} for url in settings.SEED_ENDPOINTS[slug]],
    }


def missing() -> tuple[ModelDocument, ...]:
    """Return what a sync adds to the database so that nothing an operator did is overwritten.

    That is: the models that have never been there (one that was deleted stays away), and for a model without any
    endpoint those of the environment, the model being otherwise as it stands.
    """
    stored = {m.slug: describe(m) for m in ModelConfig.objects.all()}
    deleted = _deleted()
    found = []
    for seed in seeds():
        own = stored.get(seed.slug)
        if own is None and seed.slug not in deleted:
            found.append(seed)
        elif own is not None and not own.endpoints and seed.endpoints:
            found.append(replace(own, endpoints=seed.endpoints))
    return tuple(found)


def _deleted() -> set[str]:
    """The models that the audit trail says an operator has removed."""
    entries = AuditEntry.objects.filter(action="delete_models").values_list("before", flat=True)
    return {slug for before in entries for slug in before or {}}
