"""Rows of the configuration, written: the lower half of operations, which alone calls this, in its transactions."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from django.db import models

from integrations import rules
from integrations.configuration import (
    ENDPOINT_FIELDS,
    MODEL_FIELDS,
    PATTERN_FIELDS,
    Fields,
    ModelDocument,
    describe,
)
from integrations.models import Endpoint, ModelConfig, PatternAssignment

# What an edit may change of a row that exists. The rest is state (drained, tripped), which the form or the document may
# have read before somebody else changed it: writing it back would undo a trip.
_EDITED: Mapping[type[models.Model], tuple[str, ...]] = {
    ModelConfig: ("slug", *MODEL_FIELDS),
    Endpoint: ("position", *ENDPOINT_FIELDS),
    PatternAssignment: ("position", *PATTERN_FIELDS),
}


def store(row: ModelConfig | Endpoint | PatternAssignment) -> None:
    """Check a row and write it. Raises ValidationError."""
    row.full_clean()
    row.save(update_fields=None if row._state.adding else _EDITED[type(row)])


def plain(pk: int | None = None, *, slug: str = "") -> Any:
    """Return the stored model's document as plain values, None if there is none."""
    row = ModelConfig.objects.filter(models.Q(slug=slug) if slug else models.Q(pk=pk)).first()
    return describe(row).plain() if row else None


def apply(documents: Sequence[ModelDocument]) -> rules.Errors:
    """Make the database's models as the documents say; return what is refused, by "slug: field"."""
    errors: rules.Errors = {}
    for document in documents:
        rules.collect(errors, partial(_apply_one, document, errors), prefix=f"{document.slug}: ")
    if not errors:
        # Fallbacks last: they may name models that the same documents make.
        for document in documents:
            _apply_fallbacks(document, errors)
    if not errors:
        for document in documents:
            found = rules.errors_of(ModelConfig.objects.get(slug=document.slug))
            errors.update({f"{document.slug}: {path}": messages for path, messages in found.items()})
    return errors


def _apply_one(document: ModelDocument, errors: rules.Errors) -> None:
    model = ModelConfig.objects.filter(slug=document.slug).first() or ModelConfig(slug=document.slug)
    _set(model, document.fields)
    store(model)
    _apply_rows(Endpoint, model, document.endpoints, key="url", errors=errors)
    _apply_rows(PatternAssignment, model, document.patterns, key="pattern", errors=errors)


def _apply_rows(
    kind: type[Endpoint] | type[PatternAssignment],
    model: ModelConfig,
    rows: Sequence[Fields],
    *,
    key: str,
    errors: rules.Errors,
) -> None:
    """Make the model's endpoints or assignments these; one that stays, by its key, keeps its row and its state."""
    stored = {getattr(row, key): row for row in kind._default_manager.filter(model=model)}
    for gone in stored.keys() - {row[key] for row in rows}:
        stored[gone].delete()
    name = "endpoints" if kind is Endpoint else "patterns"
    for position, fields in enumerate(rows):
        row = stored.get(fields[key]) or kind(model=model)
        _set(row, {**fields, "position": position})
        rules.collect(errors, partial(store, row), prefix=f"{model.slug}: {name}[{position}].")


def _set(row: models.Model, fields: Fields) -> None:
    for name, value in fields.items():
        setattr(row, name, value)


def _apply_fallbacks(document: ModelDocument, errors: rules.Errors) -> None:
    known = {m.slug: m for m in ModelConfig.objects.filter(slug__in=document.fallbacks)}
    missing = [f"There is no model “{slug}”." for slug in document.fallbacks if slug not in known]
    if missing:
        errors[f"{document.slug}: fallbacks"] = missing
        return
    ModelConfig.objects.get(slug=document.slug).fallbacks.set(known.values())
