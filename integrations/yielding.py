"""How much of an endpoint queued work takes beside live calls.

As long as nobody calls live, queued work takes as few calls at once as bring the most texts (controller.Target): those
that are in flight when a live call comes cannot be taken back. While live calls are there it yields to the delay that
it causes them: if they take clearly longer than alone it takes less, the less the slower they are, else more, quickly
at first and slowly near what was too much the last time. Below one call that one is smaller, so that a server which
works one call off at a time is free again sooner. When live calls come again it begins with what they bore before.
"""

from typing import Final

from django.conf import settings

from integrations.controller import Target

# Live calls take so many times what they take alone: queued work is in their way.
SLOWER: Final = 1.07
# What is left of it then: so much at most, and no less at once, since for a while what they take tells of before.
SHRINK: Final = 0.75
SHRINK_MOST: Final = 0.25
# A tick's growth: one call; below one call so much of it.
GROW: Final = 0.1
# Below this part of what was too much the last time it grows so quickly, above it by so little of that. That grows
# itself as long as live calls bear it, so that most of the time is spent just below what is too much.
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
        # In whole calls, below 1 a part of one: what live calls bear, or bore the last time. None: not known yet.
        self._borne: float | None = None
        self._too_much = 0.0
        self._least = 1
        self._hold = self._careful = 0
        self._live = self._blind = self._giving = False

    @property
    def calls(self) -> int:
        """Return how many calls it may have in flight now; 0 where another process has the last one."""
        if self._blind:
            return max(1, min(self.target.calls, settings.BULK_BLIND_CALLS))
        if not self._live or self._borne is None:
            return self.target.calls
        return min(self.target.calls, max(self._least, int(self._borne)))

    @property
    def portion(self) -> float:
        """Return which part of a whole call's texts its calls should hold, over 0 and up to 1."""
        return min(1.0, self._borne) if self._live and self._borne is not None else 1.0

    @property
    def yields(self) -> bool:
        """Whether it gives way to live calls now."""
        return self._blind or self._live

    def be_blind(self) -> None:
        """Take the fixed share: nobody can say how live calls fare."""
        self._blind = True

    def see(self, slowness: float | None, *, least: int = 1) -> None:
        """Learn how live calls fare in all processes: what they take, as a multiple of what they take alone.

        None: there are none. least: the calls that this process may always have; 1 in one process, 0 in the others.
        """
        self._blind, self._least = False, least
        came, self._live = not self._live, slowness is not None
        if slowness is None:
            return
        if self._borne is None or came:
            self._make_room()
        elif self._hold:
            self._hold -= 1
        elif slowness > SLOWER:
            self._give(self._borne, slowness)
        else:
            self._take(self._borne)

    def _make_room(self) -> None:
        """Somebody calls live: make room at once, before it is known how much it takes."""
        if self._borne is None:
            self._borne, self._too_much = self.target.calls / 2, float(self.target.calls)
        self._borne = min(self._borne, float(self.target.calls))
        self._hold, self._giving = HOLD, False

    def _give(self, borne: float, slowness: float) -> None:
        """Take less. What it does to live calls grows with what it has in flight."""
        if not self._giving:
            self._too_much = borne  # where it began to give: what follows is the way from there
        self._giving = True
        self._borne = max(LEAST_PORTION, borne * max(SHRINK_MOST, min(SHRINK, SLOWER / slowness)))
        self._hold, self._careful = HOLD, 0

    def _take(self, borne: float) -> None:
        self._giving = False
        step = 1.0 if borne >= 1 else GROW * borne
        if borne + step > NEAR * self._too_much:
            self._careful += 1
            step *= min(1.0, CAREFUL * (1 + self._careful / CAREFUL_TICKS))
        self._borne = min(float(self.target.calls), borne + step)
        self._too_much = max(self._too_much, self._borne)
