"""Log-in that cannot be guessed at will: failed attempts are counted in PostgreSQL, before a password is looked at.

| at most | within WINDOW |
|---|---|
| 5 failed attempts | for one name from one address |
| 20 | from one address, for whatever names |
| 100 | for one name, from whatever addresses |

Locking a name for everybody after five would let a stranger lock an operator out. Ours, and no library, since all it
takes is one table and one form: nothing stands in the way of a request, and nothing else can fail, for a log-in needs
PostgreSQL in any case.
"""

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.translation import ngettext

from citadel.models import LogInAttempt

if TYPE_CHECKING:
    from django.contrib.auth.forms import AuthenticationForm
else:
    from unfold.forms import AuthenticationForm

log = logging.getLogger(__name__)

WINDOW: Final = timedelta(minutes=15)
OF_PAIR, OF_ADDRESS, OF_NAME = 5, 20, 100
# The two locks of an attempt are taken in the order of their numbers, so that two attempts never wait for each other.
_LOCK: Final = "SELECT pg_advisory_xact_lock(k) FROM unnest(%s::bigint[]) AS k ORDER BY k"


class LogInForm(AuthenticationForm):
    """The console's log-in."""

    def clean(self) -> dict[str, Any]:
        """Count the attempt, then look at the password. Raises ValidationError."""
        name = self.cleaned_data.get("username")
        if name is None or not self.cleaned_data.get("password") or self.request is None:
            return super().clean()
        attempt = begin(name, address_of(self.request))
        cleaned = super().clean()
        forget(attempt)
        return cleaned


def begin(name: str, address: str) -> LogInAttempt:
    """Count an attempt as failed until it succeeds. Raises ValidationError where there were too many."""
    attempt = LogInAttempt(at=timezone.now(), name=_digest("name", name.casefold()), address=_digest("from", address))
    with transaction.atomic():
        with connection.cursor() as cursor:
            # Of many attempts at the same moment each sees those before it.
            cursor.execute(_LOCK, [[int(digest[:15], 16) for digest in (attempt.name, attempt.address)]])
        wait = _wait(attempt)
        if not wait:
            attempt.save()
        LogInAttempt.objects.filter(at__lte=attempt.at - WINDOW).delete()
    if wait:
        minutes = -(-int(wait.total_seconds()) // 60) or 1
        log.warning("log-in refused: too many failed attempts", extra={"address": address})
        words = ngettext("Try again in %d minute.", "Try again in %d minutes.", minutes) % minutes
        raise ValidationError(f"Too many failed attempts. {words}", code="throttled")
    return attempt


def forget(attempt: LogInAttempt) -> None:
    """The attempt succeeded: it and the failures of the same name and address before it are forgotten."""
    LogInAttempt.objects.filter(name=attempt.name, address=attempt.address, at__lte=attempt.at).delete()


def address_of(request: HttpRequest) -> str:
    """Return who is asking: the peer, or what the last of CITADEL_PROXIES proxies in front saw of it."""
    peer = str(request.META.get("REMOTE_ADDR", ""))
    passed = [part.strip() for part in request.headers.get("X-Forwarded-For", "").split(",") if part.strip()]
    hops = settings.PROXIES
    return passed[-hops] if 0 < hops <= len(passed) else peer


def _wait(attempt: LogInAttempt) -> timedelta | None:
    """How long until this attempt would be let in; None if it is now."""
    recent = LogInAttempt.objects.filter(at__gt=attempt.at - WINDOW)
    by_name, by_address = recent.filter(name=attempt.name), recent.filter(address=attempt.address)
    counted = ((by_name.filter(address=attempt.address), OF_PAIR), (by_address, OF_ADDRESS), (by_name, OF_NAME))
    waits = [_until(rows, most, attempt.at) for rows, most in counted]
    return max((wait for wait in waits if wait), default=None)


def _until(rows: "QuerySet[LogInAttempt]", most: int, now: datetime) -> timedelta | None:
    # The attempt that has to grow old before there are fewer than `most`.
    at = rows.order_by("-at").values_list("at", flat=True)[most - 1 : most].first()
    return at + WINDOW - now if at is not None else None


def _digest(kind: str, value: str) -> str:
    return salted_hmac(f"citadel.log_in.{kind}", value, algorithm="sha256").hexdigest()
