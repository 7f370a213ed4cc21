"""Structured logs."""

import logging
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")


class RequestIdFilter(logging.Filter):
    """Puts the id of the request being served on each line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add request_id; keep every line."""
        record.request_id = getattr(record, "request_id", "") or request_id.get()
        return True
