"""What two operators did to one model: what a form began from, what is stored now, what the form says.

All three are plain documents, as applying.plain gives them. A form carries the first one along, signed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.core import signing

ABSENT: Final = "–"
_SALT: Final = "integrations.model-form"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field as it was, as it is and as the form has it, each as text; ABSENT where it has its default."""

    field: str
    seen: str
    stored: str
    mine: str

    @property
    def kept(self) -> bool:
        """Whether saving the form leaves this field as it is stored."""
        return self.mine == self.stored


def seal(document: Any) -> str:
    """Return a document as a form carries it."""
    return signing.dumps(document, salt=_SALT, compress=True)


def unseal(text: str) -> Any:
    """Return the document that a form carried; an empty one when it is none of ours (a new SECRET_KEY, say)."""
    try:
        return signing.loads(text, salt=_SALT)
    except signing.BadSignature:
        return {}


def differences(seen: Any, stored: Any, mine: Any) -> list[Difference]:
    """Return each field that somebody else has changed, or that `mine` has otherwise than it is stored."""
    flat = [_flat(document or {}) for document in (seen, stored, mine)]
    fields = list(dict.fromkeys(field for document in (flat[1], flat[0], flat[2]) for field in document))
    rows = (Difference(field=f, seen=_get(flat[0], f), stored=_get(flat[1], f), mine=_get(flat[2], f)) for f in fields)
    return [row for row in rows if len({row.seen, row.stored, row.mine}) > 1]


def _get(document: Mapping[str, str], field: str) -> str:
    return document.get(field, ABSENT)


def _flat(document: Mapping[str, Any]) -> dict[str, str]:
    rows = {"patterns": "pattern", "endpoints": "url"}
    flat = {name: _text(value) for name, value in document.items() if name not in rows}
    for name, key in rows.items():
        listed = [row if isinstance(row, dict) else {key: row} for row in document.get(name, [])]
        flat[name] = ", ".join(str(row[key]) for row in listed) or ABSENT
        for row in listed:
            flat.update({f"{row[key]}: {field}": _text(value) for field, value in row.items() if field != key})
    return flat


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or ABSENT
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value) or ABSENT
