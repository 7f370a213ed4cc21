"""The configuration of models as plain values: what YAML says, what the audit trail keeps, what a diff compares.

A document says everything about one model but its present state: who tripped a breaker or drained it is no
configuration and stays as it is when a document is applied. docs/configuration.md is the reference.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml
from django.core.exceptions import ValidationError
from django.db import models

from integrations.models import Endpoint, ModelConfig, PatternAssignment
from integrations.rules import Errors, base_url, collect

Value = str | int | float | bool | None
Fields = Mapping[str, Value]

_STATE = {"id", "model", "position", "slug", "draining", "drain_reason", "breaker_epoch", "cache_epoch"}


def _configured(row: type[models.Model]) -> dict[str, "models.Field[Any, Any]"]:
    names = [f for f in row._meta.concrete_fields if f.name not in _STATE and not f.name.startswith("forced_")]
    return {f.name: f for f in names}


MODEL_FIELDS = _configured(ModelConfig)
ENDPOINT_FIELDS = _configured(Endpoint)
PATTERN_FIELDS = _configured(PatternAssignment)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDocument:
    """One model. `fields`, and each endpoint and pattern, name every field, defaults included."""

    slug: str
    fields: Fields
    endpoints: tuple[Fields, ...] = ()
    patterns: tuple[Fields, ...] = ()
    fallbacks: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return it as YAML has it: what is as by default left out, a lone url or pattern written as text."""
        plain: dict[str, Any] = {"slug": self.slug, **_without_defaults(self.fields, MODEL_FIELDS)}
        plain["patterns"] = [_short(_without_defaults(p, PATTERN_FIELDS), "pattern") for p in self.patterns]
        plain["endpoints"] = [_short(_without_defaults(e, ENDPOINT_FIELDS), "url") for e in self.endpoints]
        if self.fallbacks:
            plain["fallbacks"] = list(self.fallbacks)
        return plain


def _without_defaults(fields: Fields, known: Mapping[str, "models.Field[Any, Any]"]) -> dict[str, Value]:
    return {name: value for name, value in fields.items() if value != default_of(known[name])}


def _short(fields: dict[str, Value], key: str) -> Any:
    return fields[key] if list(fields) == [key] else fields


def default_of(field: "models.Field[Any, Any]") -> Value:
    """Return what a field holds when nobody says otherwise."""
    value: Value = field.get_default()
    return str(value) if isinstance(value, str) else value


# --- From the database -----------------------------------------------------------------------------------------------


def describe(model: ModelConfig) -> ModelDocument:
    """Return a stored model as a document."""
    slugs = model.fallbacks.order_by("slug").values_list("slug", flat=True)
    return compose(model, endpoints=model.endpoints.all(), patterns=model.assignments.all(), fallbacks=slugs)


def compose(
    model: ModelConfig,
    *,
    endpoints: Iterable[Endpoint],
    patterns: Iterable[PatternAssignment],
    fallbacks: Iterable[str],
) -> ModelDocument:
    """Return a model with these rows, stored or not, as a document."""
    return ModelDocument(
        slug=model.slug,
        fields=_values(model, MODEL_FIELDS),
        endpoints=tuple(_values(e, ENDPOINT_FIELDS) for e in endpoints),
        patterns=tuple(_values(a, PATTERN_FIELDS) for a in patterns),
        fallbacks=tuple(fallbacks),
    )


def _values(row: models.Model, known: Iterable[str]) -> Fields:
    return {name: getattr(row, name) for name in known}


# --- To YAML ---------------------------------------------------------------------------------------------------------


def write(documents: Iterable[ModelDocument]) -> str:
    """Return the YAML that `read` reads back to the same documents."""
    plain = {"models": [d.plain() for d in documents]}
    return str(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120))


# --- From YAML -------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, where YAML's own loader keeps the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"“{key}” is given twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def read(text: str) -> tuple[ModelDocument, ...]:
    """Return the documents of a YAML text, each checked by itself.

    Raises ValidationError with a key for each fault: "phi3: endpoints[0].url".
    """
    try:
        content = yaml.load(text, Loader=_Loader)  # nosec B506 # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValidationError({"file": [f"not YAML: {' '.join(str(error).split())}"]}) from error
    return parse(content)


def parse(content: Any) -> tuple[ModelDocument, ...]:
    """Return the documents of what a YAML text holds. Raises ValidationError as `read` does."""
    if not isinstance(content, dict) or not isinstance(content.get("models"), list):
        raise ValidationError({"models": ["The file must hold “models:”, a list."]})
    errors: Errors = {}
    _refuse_unknown(content, ["models"], errors, "")
    documents = [_Reader(entry, index, errors).document() for index, entry in enumerate(content["models"])]
    _refuse_twice([d.slug for d in documents], errors)
    if errors:
        raise ValidationError(errors)
    return tuple(documents)


def _refuse_unknown(content: Mapping[Any, Any], known: Iterable[str], errors: Errors, prefix: str) -> None:
    names = list(known)
    for key in content:
        if key not in names:
            errors.setdefault(f"{prefix}{key}", []).append(f"There is no such key; known are: {', '.join(names)}.")


def _refuse_twice(slugs: Sequence[str], errors: Errors) -> None:
    lower = [slug.lower() for slug in slugs]
    for slug in sorted({s for s in slugs if lower.count(s.lower()) > 1}):
        errors.setdefault(f"{slug}: slug", []).append(f"Two models are called “{slug}”.")


class _Reader:
    """Reads one entry of the list; faults go to `errors`, and the document is then not used."""

    def __init__(self, entry: Any, index: int, errors: Errors) -> None:
        self.entry = entry if isinstance(entry, dict) else {}
        self.errors = errors
        slug = self.entry.get("slug")
        self.slug = slug if isinstance(slug, str) else ""
        self.name = self.slug or f"models[{index}]"
        if not isinstance(entry, dict):
            self.refuse("slug", "Each model is a mapping that begins with “slug:”.")
        elif not self.slug:
            self.refuse("slug", "Give the model's name as text.")

    def refuse(self, path: str, message: str) -> None:
        self.errors.setdefault(f"{self.name}: {path}", []).append(message)

    def document(self) -> ModelDocument:
        lists = ("patterns", "endpoints", "fallbacks")
        _refuse_unknown(self.entry, ["slug", *MODEL_FIELDS, *lists], self.errors, f"{self.name}: ")
        if self.slug:
            found: Errors = {}
            collect(found, partial(ModelConfig._meta.get_field("slug").clean, self.slug, None), field="slug")
            self.errors.update({f"{self.name}: {path}": messages for path, messages in found.items()})
        own = {k: v for k, v in self.entry.items() if k in MODEL_FIELDS}
        return ModelDocument(
            slug=self.slug,
            fields=self.fields({"upstream_model": self.slug, **own}, MODEL_FIELDS, ""),
            endpoints=self.rows("endpoints", key="url", known=ENDPOINT_FIELDS),
            patterns=self.rows("patterns", key="pattern", known=PATTERN_FIELDS),
            fallbacks=tuple(sorted(str(f) for f in self.list_of("fallbacks"))),
        )

    def list_of(self, name: str) -> list[Any]:
        content = self.entry.get(name, [])
        if not isinstance(content, list):
            self.refuse(name, "This must be a list.")
            return []
        return content

    def rows(self, name: str, *, key: str, known: Mapping[str, "models.Field[Any, Any]"]) -> tuple[Fields, ...]:
        rows: list[Fields] = []
        for index, given in enumerate(self.list_of(name)):
            path = f"{name}[{index}]"
            row = {key: given} if isinstance(given, str) else given
            if not isinstance(row, dict):
                self.refuse(path, f"This must be a mapping, or the {key} as text.")
                continue
            _refuse_unknown(row, known, self.errors, f"{self.name}: {path}.")
            if isinstance(row.get("url"), str):
                row = {**row, "url": base_url(row["url"])}
            if row.get(key) in [r[key] for r in rows]:
                self.refuse(f"{path}.{key}", f"“{row[key]}” is given twice.")
            rows.append(self.fields(row, known, f"{path}."))
        return tuple(rows)

    def fields(self, given: Mapping[Any, Any], known: Mapping[str, "models.Field[Any, Any]"], prefix: str) -> Fields:
        values: dict[str, Value] = {}
        for name, field in known.items():
            values[name] = given.get(name, default_of(field))
            problem = _type_problem(values[name], field) if name in given else ""
            if problem:
                self.refuse(f"{prefix}{name}", problem)
                continue
            found: Errors = {}
            collect(found, partial(field.clean, values[name], None), field=name)
            self.errors.update({f"{self.name}: {prefix}{path}": messages for path, messages in found.items()})
        return values


def _type_problem(value: Any, field: "models.Field[Any, Any]") -> str:
    """Say what is wrong with a value's type; Django's own conversion would take “yes” for True and 5.7 for 5."""
    if value is None:
        return "" if field.null else "This may not be empty."
    if isinstance(field, models.BooleanField):
        return "" if isinstance(value, bool) else "This must be true or false."
    if field.choices and value not in [key for key, _ in field.flatchoices]:
        return f"“{value}” is unknown; choose one of: {', '.join(str(key) for key, _ in field.flatchoices)}."
    if isinstance(field, models.CharField):
        return _text_problem(value)
    # The bound also refuses NaN, the infinities and integers that no float can hold.
    number = isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15
    if isinstance(field, models.FloatField):
        return "" if number else "This must be a number."
    return "" if number and isinstance(value, int) else "This must be a whole number."


def _text_problem(value: Any) -> str:
    if not isinstance(value, str):
        return "This must be text; put it in quotes."
    # Neither can be stored in PostgreSQL.
    return "This holds a character that cannot be stored." if "\0" in value or _surrogate(value) else ""


def _surrogate(value: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in value)
