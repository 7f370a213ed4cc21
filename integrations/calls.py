"""What is recorded: calls and the breakers' changes, as values."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from integrations.patterns import Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call: a client's live request, a submission, or one upstream call made for the queue.

    The fields are CallRecord's, times aware; `retries` and `failovers` are what the attempts after the first one were.
    """

    started_at: datetime
    request_id: str
    client: str
    model: str
    pattern: str
    mode: str  # live, queued (a submission) or bulk (a call for the queue)
    code: str  # "ok" or the error's code
    duration_ms: float
    texts: int
    endpoint: str = ""  # the one that answered
    failover_from: str = ""
    attempts: tuple[Attempt, ...] = ()
    batch_id: str = ""
    retries: int = 0
    failovers: int = 0

    @property
    def ended_at(self) -> datetime:
        """When its outcome was known: this minute's rollup counts it."""
        return self.started_at + timedelta(milliseconds=self.duration_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """How many texts of one live call came from the cache, and how many did not."""

    at: datetime
    model: str
    pattern: str
    hits: int
    misses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChange:
    """An endpoint's breaker went from one state to another."""

    at: datetime
    endpoint_id: int | None
    model: str
    url: str
    from_state: str
    to_state: str
    reason: str = ""
    actor: str = ""  # "": Citadel itself
    until: datetime | None = None
