"""How much of an endpoint queued work takes beside live calls.

As long as nobody calls live, queued work takes as many calls at once as bring the most texts (controller.Target). While
live calls are there it yields to the delay that it causes them: if they take clearly longer than alone, its calls
shrink by a quarter, else they grow, quickly at first and slowly near the number that was too many the last time. At its
last call it makes that smaller, so that a server which works one call off at a time is free again sooner.
"""

from typing import Final

from django.conf import settings

from integrations.controller import Target

# Live calls take so many times what they take alone: queued work is in their way.
SLOWER: Final = 1.07
SHRINK: Final = 0.75
# Below this part of what was too many the last time it grows by one call a tick, above it by so little. That
# grows itself as long as live calls bear it, so that most of the time is spent just below what is too many.
NEAR: Final = 0.9
CAREFUL: Final = 0.02
CAREFUL_TICKS: Final = 20
# Ticks until what was changed can be seen in the live calls' times.
HOLD: Final = 3
LEAST_PORTION: Final = 1 / 16


class Share:
    """Queued work's part of one endpoint, in one process."""

    def __init__(self) -> None:
        # More calls that bring nothing would only stand in the way.
        self.target = Target(start=settings.BULK_CALLS_IN_FLIGHT, fewest=True)
        self._calls: float | None = None  # None: there are no live calls to yield to
        self._too_many = 0.0
        self._portion = 1.0
        self._hold = self._careful = 0
        self._blind = False

    @property
    def calls(self) -> int:
        """Return how many calls it may have in flight now; 0 where another process has the last one."""
        if self._blind:
            return max(1, min(self.target.calls, settings.BULK_BLIND_CALLS))
        return self.target.calls if self._calls is None else min(self.target.calls, int(self._calls))

    @property
    def portion(self) -> float:
        """Return which part of a whole call's texts its calls should hold, over 0 and up to 1."""
        return self._portion

    @property
    def yields(self) -> bool:
        """Whether it gives way to live calls now."""
        return self._blind or self._calls is not None

    def be_blind(self) -> None:
        """Take the fixed share: nobody can say how live calls fare."""
        self._blind = True

    def see(self, slowness: float | None, *, least: int = 1) -> None:
        """Learn how live calls fare in all processes: what they take, as a multiple of what they take alone.

        None: there are none. least: the calls that this process may always have; 1 in one process, 0 in the others.
        """
        self._blind = False
        if slowness is None:
            self._calls, self._portion = None, 1.0
        elif self._calls is None:
            # Somebody calls live: make room at once, before it is known how much it takes.
            self._calls, self._too_many, self._hold = max(least, self.target.calls / 2), float(self.target.calls), HOLD
        elif self._hold:
            self._hold -= 1
        elif slowness > SLOWER:
            self._give(least)
        else:
            self._take(self._calls)

    def _give(self, least: int) -> None:
        calls = self._calls or 0.0
        if calls < least + 1:
            self._portion = max(LEAST_PORTION, self._portion / 2)
        else:
            self._too_many = calls
        self._calls, self._hold, self._careful = max(float(least), calls * SHRINK), HOLD, 0

    def _take(self, calls: float) -> None:
        if self._portion < 1.0:
            self._portion = min(1.0, self._portion * 1.1)
            return
        step = 1.0
        if calls + 1 > NEAR * self._too_many:
            self._careful += 1
            step = min(step, CAREFUL * (1 + self._careful / CAREFUL_TICKS))
        self._calls = min(float(self.target.calls), calls + step)
        self._too_many = max(self._too_many, self._calls)
