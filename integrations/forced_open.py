"""The operator's own state of a breaker, a row that came with the snapshot; and what is said of an open one."""

from datetime import UTC, datetime

from django.conf import settings

from integrations.errors import CircuitOpen
from integrations.values import Endpoint, Forced

# How often processes tell each other of their breakers, in seconds: nothing about one changes sooner.
SYNC_INTERVAL = 0.25


def refuse(endpoint: Endpoint) -> None:
    """Raise CircuitOpen where an operator holds the breaker open."""
    if forced := now(endpoint):
        left = (forced.until - datetime.now(UTC)).total_seconds() if forced.until else settings.BREAKER_RESET_TIMEOUT
        raise open_error(endpoint, forced.reason, left)


def now(endpoint: Endpoint) -> Forced | None:
    """Return what the operator has said, while it holds."""
    forced = endpoint.forced
    if forced is None or (forced.until is not None and forced.until <= datetime.now(UTC)):
        return None
    return forced


def open_error(endpoint: Endpoint, reason: str, left: float) -> CircuitOpen:
    """Return the refusal of a call to this endpoint, whose breaker stays open for `left` seconds."""
    why = f" ({reason})" if reason else ""
    return CircuitOpen(f"The breaker of {endpoint.url} is open{why}.", retry_after=max(left, SYNC_INTERVAL))
