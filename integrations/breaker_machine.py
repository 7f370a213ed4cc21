"""pybreaker's state machine over a mirror in memory: what one process knows of one breaker."""

import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import pybreaker

from integrations.breaker_sharing import Shared
from integrations.errors import CitadelError
from integrations.values import Endpoint

STATE_CLOSED: str = pybreaker.STATE_CLOSED
STATE_OPEN: str = pybreaker.STATE_OPEN
STATE_HALF_OPEN: str = pybreaker.STATE_HALF_OPEN


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerView:
    """An endpoint's breaker as operators see it."""

    status: str  # closed, open, half_open or forced_open
    failure_count: int
    reason: str = ""
    until: datetime | None = None
    by: str = ""
    opened_at: datetime | None = None
    # False: Redis is away and this is only what this process has seen.
    shared: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A breaker went from one state to another; told once among all processes."""

    endpoint: Endpoint
    from_state: str
    to_state: str
    reason: str
    until: datetime | None


class Mirror(pybreaker.CircuitBreakerStorage):
    """pybreaker's storage: this process's copy of one breaker."""

    def __init__(self) -> None:
        super().__init__("mirror")
        self.current = STATE_CLOSED
        self.count = 0
        self.opens = 0
        self.epoch = 0
        self.open_until = 0.0  # time.monotonic()
        self.since: datetime | None = None
        self.reason = ""
        self.trial = False  # this process is making the trial
        self.pending_fails = 0

    @property
    def state(self) -> str:
        return self.current

    @state.setter
    def state(self, state: str) -> None:
        self.current = state

    @property
    def counter(self) -> int:
        return self.count

    def increment_counter(self) -> None:
        self.count += 1

    def reset_counter(self) -> None:
        # pybreaker does this at each success and when it closes.
        if self.current == STATE_CLOSED:
            self.count = 0

    @property
    def success_counter(self) -> int:
        return 1

    @property
    def opened_at(self) -> datetime | None:
        return self.since

    @opened_at.setter
    def opened_at(self, at: datetime) -> None:
        self.since = at

    def left(self) -> float:
        """Seconds until a trial may be made."""
        return max(0.0, self.open_until - time.monotonic())

    def close(self) -> None:
        """Forget every failure."""
        self.current, self.count, self.opens, self.reason, self.since = STATE_CLOSED, 0, 0, "", None

    def follow(self, epoch: int) -> None:
        """Forget everything if an operator has reset the breaker since."""
        if epoch > self.epoch:
            self.close()
            self.epoch, self.trial = epoch, False

    def take(self, shared: Shared) -> None:
        """Become what all processes together know, unless this process is just making the trial."""
        self.follow(shared.epoch)
        if self.trial or shared.epoch < self.epoch:
            return
        self.current = STATE_OPEN if shared.state == "open" else STATE_CLOSED
        self.count = shared.count + (self.pending_fails if shared.state == "closed" else 0)
        self.opens, self.reason = shared.opens, shared.reason
        self.open_until = time.monotonic() + shared.left
        self.since = datetime.fromtimestamp(shared.opened_at, UTC) if shared.state == "open" else None


class Breaker:
    """A mirror and pybreaker's machine over it."""

    def __init__(self) -> None:
        self.endpoint: Endpoint | None = None  # None: known only from other processes so far
        self.mirror = Mirror()
        self.machine = pybreaker.CircuitBreaker(state_storage=self.mirror, throw_new_error_on_trip=False)

    def report(self, error: CitadelError | None) -> None:
        """Tell the machine how a call went."""
        with contextlib.suppress(CitadelError, pybreaker.CircuitBreakerError), self.machine.calling():
            if error is not None:
                raise error
