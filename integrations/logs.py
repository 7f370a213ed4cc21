"""Structured logs, and the request id that ties a client's answer to their lines."""

import logging
import random
import re
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")

# Nothing that could end a log line, a header or a column early.
_VALID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def accept_request_id(sent: str | None) -> str:
    """Return the X-Request-ID that a client sent, or a new one (32 hex digits) for none or an unusable one."""
    return sent if sent and _VALID.fullmatch(sent) else f"{random.getrandbits(128):032x}"  # nosec B311 # no secret


class RequestIdFilter(logging.Filter):
    """Puts the id of the request being served on each line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add request_id; keep every line."""
        record.request_id = getattr(record, "request_id", "") or request_id.get()
        return True
