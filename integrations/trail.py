"""One write of an operator: one transaction, one audit row, one bump of the configuration's version."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection, transaction

from integrations import snapshot
from integrations.models import AuditEntry

# Any number, the same in every process: what operators' writes queue up behind.
_WRITERS = 0x63697461


class ConfigurationChanged(ValidationError):
    """Somebody else has changed this model since the operator's form was opened."""

    def __init__(self) -> None:
        super().__init__("Somebody else has changed this model since you opened it.", code="changed")


@dataclass(slots=True, kw_only=True)
class Trail:
    """What goes into the audit row of one write; the write fills it in."""

    model: str = ""
    target: str = ""
    before: Any = None
    after: Any = None


@contextmanager
def write(action: str, *, actor: str, reason: str = "") -> Iterator[Trail]:
    """One operator's write. Nothing is recorded, and no process reloads, when it turns out to change nothing."""
    if not actor:
        raise ValidationError({"actor": "Say who does this."})
    with transaction.atomic():
        # One writer at a time: the rules look over several rows (slugs, fallbacks, patterns) that two transactions
        # side by side would not see of each other, and `before` must be what this write really replaced.
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_WRITERS])
        trail = Trail()
        yield trail
        if trail.before != trail.after:
            AuditEntry.objects.create(
                actor=actor[:150],
                action=action,
                model=trail.model,
                target=trail.target[:300],
                before=trail.before,
                after=trail.after,
                reason=reason,
            )
            snapshot.bump()


def checked_reason(reason: str, *, required: bool) -> str:
    """Return a reason as it is stored. Raises ValidationError."""
    reason = reason.strip()
    if required and not reason:
        raise ValidationError({"reason": "Give a reason: others will see it."})
    if len(reason) > 200:
        raise ValidationError({"reason": "At most 200 characters."})
    return reason
