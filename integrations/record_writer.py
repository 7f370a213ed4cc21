"""Recorded calls on their way into PostgreSQL: made fit for its columns, then copied in, rollups and all, at once."""

import dataclasses
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from operator import attrgetter, gt
from typing import Any, Final

import orjson
from django.db import DataError, IntegrityError, InterfaceError, OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper

from integrations import rollups
from integrations.calls import BreakerChange, CacheUse, Call
from integrations.models import BreakerEvent, CallRecord
from integrations.patterns import Attempt

Item = Call | BreakerChange | CacheUse

# The row's own fault: sending it again cannot help.
REFUSED: Final = (DataError, IntegrityError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

_MAX_INTEGER: Final = 2**31 - 1
_MAX_DETAIL: Final = 200


def _limits(model: type[CallRecord] | type[BreakerEvent]) -> dict[str, int]:
    """The length of each column of text."""
    lengths = {f.name: getattr(f, "max_length", None) for f in model._meta.get_fields()}
    return {name: length for name, length in lengths.items() if length}


_CALL_LIMITS: Final = _limits(CallRecord)
_CHANGE_LIMITS: Final = _limits(BreakerEvent)


@dataclass(slots=True)
class Writer:
    """Writes from one thread, over that thread's own connection."""

    # A transaction of which we did not hear whether it committed.
    _unsure: str | None = None

    def write(self, items: Sequence[Item], *, dropped: int) -> None:
        """Write all of `items`, and that `dropped` others were lost, in one transaction.

        Raises one of REFUSED when an item cannot be stored, any other exception when the database cannot take it now;
        the same call may then be made again: what was committed after all is not written twice.
        """
        unsure, self._unsure = self._unsure, None
        if unsure is not None and self._committed(unsure):
            return
        try:
            self._write(items, dropped)
        except REFUSED:
            self._unsure = None
            raise
        except BaseException:
            self.close()
            raise

    def _write(self, items: Sequence[Item], dropped: int) -> None:
        calls = [tidy(item) for item in items if isinstance(item, Call)]
        minutes = rollups.collect(calls) | rollups.cached(item for item in items if isinstance(item, CacheUse))
        if dropped:
            minutes |= rollups.dropped(dropped, at=datetime.now(UTC))
        with transaction.atomic(), connection.cursor() as cursor:
            _copy_calls(cursor, calls)
            _insert_changes(cursor, [item for item in items if isinstance(item, BreakerChange)])
            rollups.upsert(cursor, minutes)
            cursor.execute("SELECT pg_current_xact_id()::text")
            self._unsure = cursor.fetchone()[0]
        self._unsure = None

    def _committed(self, transaction_id: str) -> bool:
        """Ask about a transaction whose connection was lost: the answer to COMMIT may be all that got lost."""
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_xact_status(%s::xid8)", [transaction_id])
                status = cursor.fetchone()[0]
        except (OperationalError, InterfaceError):
            self._unsure = transaction_id
            self.close()
            raise
        if status == "in progress":
            self._unsure = transaction_id
            raise OperationalError("the last transaction is still being committed")
        return bool(status == "committed")

    def give_up(self) -> None:
        """Do not ask about the last transaction: its items will not be sent again."""
        self._unsure = None

    def close(self) -> None:
        """Give the connection back."""
        connection.close()


_CALL_COLUMNS: Final = (
    "started_at, request_id, client, model, pattern, mode, code, duration_ms, texts, endpoint, failover_from, attempts,"
    " batch_id"
)
# COPY's text format. Hardly any line needs them.
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _copy_calls(cursor: CursorWrapper, calls: Sequence[Call]) -> None:
    """COPY, as this runs beside the live path: 500 rows cost 4 ms of this process, by bulk_create 31 ms (measured)."""
    if calls:
        lines = "".join([_line(call) for call in calls])
        copy = f"COPY integrations_callrecord ({_CALL_COLUMNS}) FROM STDIN"
        with connection.wrap_database_errors:
            cursor.copy_expert(copy, io.BytesIO(lines.encode()))


def _line(call: Call) -> str:
    strings = (
        call.started_at.isoformat(),
        call.request_id,
        call.client,
        call.model,
        call.pattern,
        call.mode,
        call.code,
        repr(call.duration_ms),
        str(call.texts),
        call.endpoint,
        call.failover_from,
        orjson.dumps([_attempt(a) for a in call.attempts]).decode(),
        call.batch_id,
    )
    line = "\t".join(strings)
    if "\\" in line or "\n" in line or "\r" in line or line.count("\t") >= len(strings):
        line = "\t".join([s.translate(_ESCAPES) for s in strings])
    return line + "\n"


def _attempt(attempt: Attempt) -> dict[str, Any]:
    told: dict[str, Any] = {"endpoint": attempt.endpoint, "outcome": attempt.outcome, "ms": round(attempt.ms, 2)}
    return told | {"detail": attempt.detail} if attempt.detail else told


_INSERT_CHANGES: Final = """
    INSERT INTO integrations_breakerevent
        (at, endpoint_id, model, url, from_state, to_state, reason, actor, until)
    VALUES (%s, (SELECT id FROM integrations_endpoint WHERE id = %s), %s, %s, %s, %s, %s, %s, %s)
"""


def _insert_changes(cursor: CursorWrapper, changes: Sequence[BreakerChange]) -> None:
    """An endpoint that was deleted meanwhile leaves its URL in the event."""
    for change in changes:
        row = {f.name: getattr(change, f.name) for f in dataclasses.fields(change)}
        values = [_text(v, _CHANGE_LIMITS[k]) if isinstance(v, str) else v for k, v in row.items()]
        cursor.execute(_INSERT_CHANGES, values)


# --- Making a call fit ------------------------------------------------------------------------------------------------


def tidy(call: Call) -> Call:
    """Return the call as its columns can hold it: texts cut and free of NUL, numbers finite and not negative."""
    if _fits(call) and all(map(_attempt_fits, call.attempts)):
        return call
    texts: dict[str, Any] = {name: _text(getattr(call, name), limit) for name, limit in _CALL_LIMITS.items()}
    duration, count = _duration(call.duration_ms), max(0, min(call.texts, _MAX_INTEGER))
    attempts = tuple([_tidy_attempt(a) for a in call.attempts])
    return replace(call, duration_ms=duration, texts=count, attempts=attempts, **texts)


_call_texts = attrgetter(*_CALL_LIMITS)


def _fits(call: Call) -> bool:
    texts = _call_texts(call)
    return (
        0 <= call.duration_ms < math.inf
        and 0 <= call.texts <= _MAX_INTEGER
        and not any(map(gt, map(len, texts), _CALL_LIMITS.values()))
        and _plain("".join(texts))
    )


def _attempt_fits(attempt: Attempt) -> bool:
    return (
        0 <= attempt.ms < math.inf
        and len(attempt.endpoint) <= _CALL_LIMITS["endpoint"]
        and len(attempt.outcome) <= _CALL_LIMITS["code"]
        and len(attempt.detail) <= _MAX_DETAIL
        and _plain(attempt.endpoint + attempt.outcome + attempt.detail)
    )


def _plain(text: str) -> bool:
    return text.isascii() and "\0" not in text


def _tidy_attempt(attempt: Attempt) -> Attempt:
    return Attempt(
        endpoint=_text(attempt.endpoint, _CALL_LIMITS["endpoint"]),
        outcome=_text(attempt.outcome, _CALL_LIMITS["code"]),
        ms=_duration(attempt.ms),
        detail=_text(attempt.detail, _MAX_DETAIL),
    )


def _duration(ms: float) -> float:
    """One NaN would make a total of it for ever; a clock that steps back can make a duration negative."""
    return float(ms) if math.isfinite(ms) and ms > 0 else 0.0


def _text(text: str, limit: int) -> str:
    text = text[:limit].replace("\0", "")
    # A lone surrogate is no Unicode; PostgreSQL would refuse the whole transaction for it.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
