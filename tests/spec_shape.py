"""Compares real answers with the documents that clients were promised (tests/spec_blocks.json), field by field.

    assert differences(SPEC["bulk"], answer, same=("status", "pattern")) == []

Every field of the promise must be there, of the same kind and in the promised order; further fields may follow. Kinds
are those of JSON, sharpened where the promise shows more: a time, a URL, a batch id, a whole number.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

SPEC: Final[Mapping[str, Any]] = json.loads((Path(__file__).parent / "spec_blocks.json").read_text())

_FORMS: Final = {
    "a time such as 2025-07-15T14:30:00Z": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    "a URL": re.compile(r"https?://[^/\s]+(/\S*)?"),
    # Ours end in six hexadecimal digits more: two batches of one second stay apart.
    "a batch id": re.compile(r"batch_[A-Za-z0-9_-]+_\d{8}_\d{6}(_[0-9a-f]{6})?"),
}


def differences(
    promised: Any, answer: Any, *, same: Collection[str] = (), nullable: Collection[str] = (), path: str = ""
) -> list[str]:
    """Return what in `answer` is not as promised, [] if nothing.

    `same` names the fields whose very value counts, `nullable` those that may be null (a rate without data); both by
    their last name ("success_rate"), wherever they stand.
    """
    return list(_differences(promised, answer, frozenset(same), frozenset(nullable), path or "$"))


def _differences(
    promised: Any, answer: Any, same: frozenset[str], nullable: frozenset[str], path: str
) -> Iterator[str]:
    name = path.rpartition(".")[2]
    if answer is None and name in nullable:
        return
    if (wanted := _kind(promised)) != (found := _kind(answer)) and not (wanted == "a number" and found == _WHOLE):
        yield f"{path}: {wanted} was promised, {answer!r} came"
    elif name in same and promised != answer:
        yield f"{path}: {promised!r} was promised, {answer!r} came"
    elif isinstance(promised, dict):
        yield from _fields(promised, answer, same, nullable, path)
    elif isinstance(promised, list) and promised and name not in same:
        if not answer:
            yield f"{path}: an empty list came"
        for index, item in enumerate(answer):
            yield from _differences(promised[0], item, same, nullable, f"{path}.{index}")


def _fields(
    promised: Mapping[str, Any], answer: Mapping[str, Any], same: frozenset[str], nullable: frozenset[str], path: str
) -> Iterator[str]:
    for name in promised.keys() - answer.keys():
        yield f"{path}.{name}: missing"
    both = [name for name in promised if name in answer]
    if both != (order := [name for name in answer if name in promised]):
        yield f"{path}: the order is {order}, promised was {both}"
    for name in both:
        yield from _differences(promised[name], answer[name], same, nullable, f"{path}.{name}")


_WHOLE: Final = "a whole number"


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return next((kind for kind, form in _FORMS.items() if form.fullmatch(value)), "a string")
    kinds = {bool: "true or false", int: _WHOLE, float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), "null")
