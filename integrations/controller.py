"""How many calls an endpoint should have in flight.

Model servers differ. One that works a call off at a time answers the most texts with few, large calls; one that forms
its own batches, or has several processors, wants many. Neither says so, and the time that a call takes does not tell it
either, since shared calls change in size. So what callers get is measured, and the number of calls climbs towards more
of it: texts a second, divided by the seconds that their callers wait (Kleinrock's power). Among numbers that bring the
same texts that prefers those with the least delay.
"""

from typing import Final

# Where an endpoint begins of which nothing is known.
START: Final = 8
STEP: Final = 1.5
# What a step must bring to be kept where it should bring something, and where it need not.
GAIN: Final = 1.03
TIE: Final = 1.0
# A step that brings this much is followed by a longer one.
LEAP: Final = 1.2
# A stretch is judged once it has so many calls for each in flight, and is so long in seconds.
ROUNDS: Final = 2
SHORTEST: Final = 0.1
# Stretches to rest after neither direction was better. Where few are wanted each further time twice as many, up to the
# most: a look down costs some of what the server does.
REST: Final = 8
REST_MOST: Final = 32
# A stretch of so many seconds is one of few calls that each take long.
LONG: Final = 1.0


class Target:
    """How many calls one process should have in flight to one endpoint.

    start: where it begins. fewest: of numbers that bring the same the least is wanted, as where nobody waits for the
    calls and others would stand behind them. It looks down first then, and a step up must bring something.
    """

    def __init__(self, *, start: int = START, fewest: bool = False) -> None:
        self._start, self._fewest = start, fewest
        # What part of the power before a step must at least bring to be kept.
        self._least_up, self._least_down = (GAIN, 1 / GAIN) if fewest else (TIE, GAIN)
        self._lowest, self._most = 1, 10**6
        self._base, self._base_power = float(start), 0.0
        self._trial = 0.0  # 0: none under way
        self._up, self._step = not fewest, STEP
        self._rest = self._failed = 0
        self._pause, self._took = REST, 0.0
        # The stretch under way: when it began, calls to pass over first, and what has ended in it.
        self._began, self._settling = 0.0, 0
        self._calls = self._texts = self._waited = self._peak = 0
        self._delays = 0.0

    @property
    def calls(self) -> int:
        """Return the target."""
        return max(self._lowest, min(round(self._trial or self._base), self._most))

    @property
    def most(self) -> int:
        """Return the most that it may ever be."""
        return self._most

    def within(self, lowest: int, most: int) -> None:
        """Keep it between these."""
        self._lowest, self._most = lowest, most

    def ended(self, texts: int, now: float, *, in_flight: int, waiting: bool, delay: float = 1.0) -> None:
        """Learn from a call that ended with vectors for so many texts.

        in_flight: calls under way, this one included. waiting: whether texts wait for it to end. delay: seconds that
        its callers have waited for it, on average; the same for all calls where nobody waits.
        """
        if self._settling > 0:  # left under the target before this one
            self._settling -= 1
            self._began = now
            return
        if not texts:  # what failed says nothing about how much the server can do
            self._begin(now, settling=0)
            return
        self._calls += 1
        self._texts += texts
        self._waited += waiting
        self._delays += delay * texts
        self._peak = max(self._peak, in_flight)
        if self._calls >= ROUNDS * min(self.calls, self._peak) + 1 and now - self._began >= SHORTEST:
            self._took = now - self._began
            power = self._texts / self._took / (self._delays / self._texts or 1.0)
            self._judge(power, limited=2 * self._waited >= self._calls)
            # Those under way still, and the first ones after, whose callers have waited for those.
            self._begin(now, settling=self._peak + min(self._peak, self.calls))

    def _begin(self, now: float, *, settling: int) -> None:
        self._began, self._settling = now, settling
        self._calls = self._texts = self._waited = self._peak = 0
        self._delays = 0.0

    def _judge(self, power: float, *, limited: bool) -> None:
        if self._trial:
            self._judge_trial(power, limited=limited)
        elif limited or self._peak > self._start:
            # What was not reached is no target: from there no step down would be felt.
            self._base = self._base if limited else min(self._base, float(self._peak))
            self._base_power = power
            if self._rest:
                self._rest -= 1
            else:
                self._try(up=self._up and limited)

    def _try(self, *, up: bool) -> None:
        self._up = up
        further = max(self._base * self._step, self._base + 1) if up else min(self._base / self._step, self._base - 1)
        self._trial = max(float(self._lowest), min(further, float(self._most)))
        if round(self._trial) == round(self._base):
            self._refuse()

    def _judge_trial(self, power: float, *, limited: bool) -> None:
        gain = power / self._base_power if self._base_power else 1.0
        if gain < (self._least_up if self._up else self._least_down):
            self._refuse()
            return
        self._base, self._base_power, self._trial = self._trial, power, 0.0
        self._failed, self._step = 0, STEP * STEP if gain > LEAP else STEP
        self._pause = REST
        if limited or not self._up:
            # A quick stretch may be the machine's doing. Where few are wanted and each is long in the way of others, a
            # step up must hold against the way back.
            self._try(up=self._up and not (self._fewest and self._took > LONG))

    def _refuse(self) -> None:
        """Go back to where it was; look in the other direction next, and rest once that is no better either."""
        self._trial, self._up, self._step = 0.0, not self._up, STEP
        self._failed += 1
        if self._failed >= 2:
            self._failed, self._rest = 0, self._pause
            self._pause = min(2 * self._pause, REST_MOST) if self._fewest else REST
