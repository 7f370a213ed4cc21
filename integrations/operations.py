"""What operators do: each function is one transaction, one audit row and one bump of the configuration's version.

The admin, the commands and the YAML import call these and nothing else writes configuration. Every function takes the
`actor` (a user's name, or the command's) and raises django.core.exceptions.ValidationError with the field named; then
nothing is changed. An AuditEntry holds plain values before and after, never a key or a secret.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from integrations import rules
from integrations.applying import apply, plain, store
from integrations.configuration import ModelDocument
from integrations.models import ApiKey, BreakerEvent, Canary, Endpoint, ModelConfig, PatternAssignment
from integrations.trail import ConfigurationChanged, Trail, checked_reason, write
from integrations.values import hash_key, new_key

# Who trips a breaker because of a canary. No operator's name: Django's user names hold no blank.
CANARY = "the canary"
_BREAKER_FIELDS = ("forced_open", "forced_reason", "forced_by", "forced_at", "forced_until", "breaker_epoch")


# --- Breakers --------------------------------------------------------------------------------------------------------


def trip_breaker(endpoint_ids: Collection[int], *, actor: str, reason: str, until: datetime | None = None) -> None:
    """Open the breakers of these endpoints. They stay open until reset, or until `until`."""
    reason = checked_reason(reason, required=True)
    now = timezone.now()
    if until is not None and until <= now:
        raise ValidationError({"until": "This time has passed."})
    with write("trip_breaker", actor=actor, reason=reason) as trail:
        endpoints = _endpoints(endpoint_ids)
        trail.before = _forced(endpoints)
        _record_breakers(endpoints, to_state="forced_open", actor=actor, reason=reason, until=until)
        for endpoint in endpoints:
            endpoint.forced_open, endpoint.forced_reason, endpoint.forced_by = True, reason, actor[:150]
            endpoint.forced_at, endpoint.forced_until = now, until
            endpoint.save(update_fields=_BREAKER_FIELDS)
        trail.after = _forced(endpoints)
        _name(trail, endpoints)


def reset_breaker(endpoint_ids: Collection[int], *, actor: str, reason: str = "") -> None:
    """Close the breakers of these endpoints, however they were opened, and forget the failures counted so far."""
    reason = checked_reason(reason, required=False)
    with write("reset_breaker", actor=actor, reason=reason) as trail:
        endpoints = _endpoints(endpoint_ids)
        trail.before = _forced(endpoints)
        _record_breakers(endpoints, to_state="closed", actor=actor, reason=reason)
        for endpoint in endpoints:
            endpoint.forced_open, endpoint.forced_reason, endpoint.forced_by = False, "", ""
            endpoint.forced_at = endpoint.forced_until = None
            endpoint.breaker_epoch += 1
            endpoint.save(update_fields=_BREAKER_FIELDS)
        trail.after = _forced(endpoints)
        _name(trail, endpoints)


def retake_reference(endpoint_ids: Collection[int], *, actor: str, reason: str) -> None:
    """Let the canaries of these endpoints take what they answer next for right; put back those that a canary took out.

    What the cache has of their models is of the vectors before, and forgotten. Raises ValidationError.
    """
    reason = checked_reason(reason, required=True)
    with write("retake_reference", actor=actor, reason=reason) as trail:
        endpoints = _endpoints(endpoint_ids)
        canaries = Canary.objects.filter(endpoint__in=endpoints).select_related("endpoint__model")
        before = {str(c.endpoint): {"state": c.state, "reference_at": _iso(c.reference_at)} for c in canaries}
        trail.before, trail.after = before, dict.fromkeys(before, None)
        _name(trail, endpoints)
        canaries.update(fingerprint="", reference=None, reference_at=None, state=Canary.State.WAITING, cosine=None)
        if out := [e.pk for e in endpoints if e.is_forced_open and e.forced_by == CANARY]:
            reset_breaker(out, actor=actor, reason=reason)
        for slug in sorted({e.model.slug for e in endpoints if e.model.cache}):
            purge_cache(slug, actor=actor, reason=reason)


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _endpoints(ids: Collection[int]) -> list[Endpoint]:
    endpoints = list(Endpoint.objects.filter(pk__in=ids).select_related("model"))
    if not ids or len(endpoints) < len(set(ids)):
        raise ValidationError({"endpoints": "Choose endpoints that exist."})
    return endpoints


def _forced(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    return {
        str(e): {
            "forced_open": e.forced_open,
            "reason": e.forced_reason,
            "by": e.forced_by,
            "until": _iso(e.forced_until),
            "epoch": e.breaker_epoch,
        }
        for e in endpoints
    }


def _name(trail: Trail, endpoints: Sequence[Endpoint]) -> None:
    trail.target = ", ".join(e.url for e in endpoints)
    slugs = {e.model.slug for e in endpoints}
    trail.model = slugs.pop() if len(slugs) == 1 else ""


def _record_breakers(
    endpoints: Iterable[Endpoint], *, to_state: str, actor: str, reason: str, until: datetime | None = None
) -> None:
    BreakerEvent.objects.bulk_create(
        BreakerEvent(
            at=timezone.now(),
            endpoint=e,
            model=e.model.slug,
            url=e.url,
            from_state=_state(e),
            to_state=to_state,
            reason=reason,
            actor=actor[:150],
            until=until,
        )
        for e in endpoints
    )


def _state(endpoint: Endpoint) -> str:
    """The state before: the operators' own is certain; otherwise what the last recorded event led to."""
    if endpoint.is_forced_open:
        return "forced_open"
    last = endpoint.breaker_events.exclude(to_state="forced_open").values_list("to_state", flat=True).first()
    return last or "closed"


# --- Models ----------------------------------------------------------------------------------------------------------


def save_model(
    model: ModelConfig,
    *,
    actor: str,
    rows: Sequence[Endpoint | PatternAssignment] = (),
    removed: Sequence[Endpoint | PatternAssignment] = (),
    fallbacks: Iterable[ModelConfig] | None = None,
    reason: str = "",
    seen: Any = None,
) -> None:
    """Store a model, new or changed, with those of its endpoints and assignments that are new, changed or removed.

    `fallbacks`: None leaves them as they are. `seen`: what the operator began from, as applying.plain gives it; raises
    ConfigurationChanged when something else is stored by now.
    """
    with write("save_model", actor=actor, reason=checked_reason(reason, required=False)) as trail:
        trail.model = trail.target = model.slug
        trail.before = plain(model.pk)
        if seen is not None and seen != trail.before:
            raise ConfigurationChanged
        for row in removed:
            row.delete()
        store(model)
        for row in rows:
            row.model = model
            store(row)
        if fallbacks is not None:
            model.fallbacks.set(fallbacks)
        _refuse_errors(model.pk)
        trail.after = plain(model.pk)


def save_endpoint(endpoint: Endpoint, *, actor: str, reason: str = "") -> None:
    """Store one endpoint, new or changed."""
    with write("save_endpoint", actor=actor, reason=checked_reason(reason, required=False)) as trail:
        _save_row(trail, endpoint)


def save_assignment(assignment: PatternAssignment, *, actor: str, reason: str = "") -> None:
    """Store one pattern of a model, new or with other settings."""
    with write("save_assignment", actor=actor, reason=checked_reason(reason, required=False)) as trail:
        _save_row(trail, assignment)
        patterns = assignment.model.assignments.values_list("pattern", flat=True)
        _named("pattern", partial(rules.check_assignments, patterns))


def _save_row(trail: Trail, row: Endpoint | PatternAssignment) -> None:
    trail.model, trail.target = row.model.slug, str(row)
    trail.before = plain(row.model_id)
    store(row)
    trail.after = plain(row.model_id)


def delete_endpoints(endpoint_ids: Collection[int], *, actor: str, reason: str = "") -> None:
    """Remove endpoints; what their breakers did stays on record."""
    with write("delete_endpoints", actor=actor, reason=checked_reason(reason, required=False)) as trail:
        endpoints = _endpoints(endpoint_ids)
        _name(trail, endpoints)
        trail.before = {e.model.slug: plain(e.model_id) for e in endpoints}
        Endpoint.objects.filter(pk__in=[e.pk for e in endpoints]).delete()
        trail.after = {e.model.slug: plain(e.model_id) for e in endpoints}


def delete_models(slugs: Collection[str], *, actor: str, reason: str = "") -> None:
    """Remove models with their endpoints and assignments. Their records of calls stay."""
    with write("delete_models", actor=actor, reason=checked_reason(reason, required=False)) as trail:
        models = [_model(slug) for slug in slugs]
        trail.before = {m.slug: plain(m.pk) for m in models}
        trail.target = ", ".join(slugs)
        trail.model = models[0].slug if len(models) == 1 else ""
        ModelConfig.objects.filter(slug__in=slugs).delete()


def assign_patterns(model: str, patterns: Sequence[str], *, actor: str, reason: str = "") -> None:
    """Give a model these patterns, in this order. One that it has already keeps its own settings."""
    with write("assign_patterns", actor=actor, reason=checked_reason(reason, required=False)) as trail:
        row = _model(model)
        trail.model = trail.target = row.slug
        trail.before = plain(row.pk)["patterns"]
        row.assignments.exclude(pattern__in=patterns).delete()
        own = {a.pattern: a for a in row.assignments.all()}
        for position, pattern in enumerate(patterns):
            assignment = own.get(pattern) or PatternAssignment(model=row, pattern=pattern)
            assignment.position = position
            _named("patterns", partial(assignment.full_clean, validate_constraints=False, validate_unique=False))
            assignment.save()
            own[pattern] = assignment
        _named("patterns", partial(rules.check_assignments, patterns))
        trail.after = plain(row.pk)["patterns"]


def drain_model(model: str, *, actor: str, reason: str) -> None:
    """Refuse a model's live calls and hold its queued work, until undrained."""
    _drain(model, True, actor=actor, reason=checked_reason(reason, required=True))


def undrain_model(model: str, *, actor: str, reason: str = "") -> None:
    """Let a drained model work again."""
    _drain(model, False, actor=actor, reason=checked_reason(reason, required=False))


def _drain(slug: str, draining: bool, *, actor: str, reason: str) -> None:
    with write("drain_model" if draining else "undrain_model", actor=actor, reason=reason) as trail:
        row = _model(slug)
        trail.model = trail.target = row.slug
        trail.before = {"draining": row.draining, "drain_reason": row.drain_reason}
        row.draining, row.drain_reason = draining, reason if draining else ""
        row.save(update_fields=["draining", "drain_reason"])
        trail.after = {"draining": row.draining, "drain_reason": row.drain_reason}


def purge_cache(model: str, *, actor: str, reason: str) -> None:
    """Forget every vector that the cache has of a model. What Redis holds of it is found no more, and expires."""
    with write("purge_cache", actor=actor, reason=checked_reason(reason, required=True)) as trail:
        row = _model(model)
        trail.model = trail.target = row.slug
        trail.before = {"cache_epoch": row.cache_epoch}
        row.cache_epoch += 1
        row.save(update_fields=["cache_epoch"])
        trail.after = {"cache_epoch": row.cache_epoch}


def _model(slug: str) -> ModelConfig:
    row = ModelConfig.objects.filter(slug=slug).first()
    if row is None:
        raise ValidationError({"model": f"No model is called “{slug}”."})
    return row


def _refuse_errors(pk: int) -> None:
    """Judge the model as it now stands in the database, by the rules that look over several rows."""
    errors = rules.errors_of(ModelConfig.objects.get(pk=pk))
    if errors:
        raise ValidationError(errors)


def _named(field: str, check: "partial[None]") -> None:
    """Run a check of which every message belongs to `field`, as the caller knows it."""
    try:
        check()
    except ValidationError as error:
        raise ValidationError({field: error.messages}) from error


# --- Many models at once ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChange:
    """What a sync did to one model: its document before (None: it is new) and after, as plain values."""

    slug: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any]


def sync(
    documents: Sequence[ModelDocument], *, actor: str, reason: str = "", dry_run: bool = False
) -> tuple[ModelChange, ...]:
    """Make each of these models as its document says, all or none; return those that this changes.

    Models that are not among them stay as they are, and so does each model's present state (drained, tripped).
    `dry_run` does the same and then takes it back. Raises ValidationError with keys such as "phi3: endpoints[0].url".
    """
    with write("sync_models", actor=actor, reason=checked_reason(reason, required=False)) as trail:
        before = {d.slug: plain(slug=d.slug) for d in documents}
        errors = apply(documents)
        if errors:
            raise ValidationError(errors)
        after = {d.slug: plain(slug=d.slug) for d in documents}
        changed = [slug for slug in after if after[slug] != before[slug]]
        if not dry_run:
            trail.target = ", ".join(changed)
            trail.before = {slug: before[slug] for slug in changed}
            trail.after = {slug: after[slug] for slug in changed}
        transaction.set_rollback(dry_run)
    return tuple(ModelChange(slug=slug, before=before[slug], after=after[slug]) for slug in changed)


# --- Keys ------------------------------------------------------------------------------------------------------------


def create_key(
    client: str,
    scopes: Collection[str],
    *,
    actor: str,
    expires_at: datetime | None = None,
    models: Collection[str] = (),
    requests_per_minute: int | None = None,
    texts_per_minute: int | None = None,
    texts_per_day: int | None = None,
    key: str = "",
) -> str:
    """Make an API key and return it. It is shown now or never: only its SHA-256 is stored.

    models: the only ones it is for, all where empty. Of each limit None is no limit. key: one that new_key() made.
    """
    if expires_at is not None and expires_at <= timezone.now():
        raise ValidationError({"expires_at": "This time has passed."})
    if not scopes:
        raise ValidationError({"scopes": "Choose at least one."})
    key = key or new_key()
    row = ApiKey(client=client.strip(), prefix=key[:12], hash=hash_key(key), scopes=sorted(set(scopes)))
    row.expires_at, row.allowed_models = expires_at, sorted(set(models))
    row.requests_per_minute, row.texts_per_minute = requests_per_minute, texts_per_minute
    row.texts_per_day = texts_per_day
    with write("create_key", actor=actor) as trail:
        for slug in row.allowed_models:
            _model(slug)
        row.full_clean()
        row.save()
        trail.target, trail.after = str(row), _key(row)
    return key


def revoke_keys(key_ids: Collection[int], *, actor: str, reason: str = "") -> None:
    """Make API keys worthless, for good. Their rows stay, so that nobody wonders what a prefix was."""
    with write("revoke_keys", actor=actor, reason=checked_reason(reason, required=False)) as trail:
        rows = list(ApiKey.objects.filter(pk__in=key_ids))
        if not rows or len(rows) < len(set(key_ids)):
            raise ValidationError({"keys": "Choose keys that exist."})
        trail.target = ", ".join(str(row) for row in rows)
        trail.before = [_key(row) for row in rows]
        ApiKey.objects.filter(pk__in=key_ids).update(enabled=False)
        trail.after = [{**_key(row), "enabled": False} for row in rows]


def _key(row: ApiKey) -> Mapping[str, Any]:
    return {
        "client": row.client,
        "prefix": row.prefix,
        "scopes": list(row.scopes),
        "enabled": row.enabled,
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "models": list(row.allowed_models),
        **{name: getattr(row, name) for name in ApiKey.LIMITS},
    }
