"""Breakers, failover and recovery, by the server's own drills: live traffic does not notice them."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from citadel.pattern_test.client import Answer, Citadel

# A drill keeps a few calls and a fraction of a second of waiting going; three at once are no load.
AT_ONCE = 3
NOTHING_TO_FAIL_OVER_TO = "none_configured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """What one model's drill found."""

    model: str
    answer: Answer

    @property
    def steps(self) -> Sequence[dict[str, Any]]:
        """Its steps, in order."""
        steps = self.answer.json.get("steps")
        return steps if isinstance(steps, list) else []

    @property
    def failover(self) -> str:
        """What takes over: endpoint, fallback, queue or none_configured."""
        return str(self.answer.json.get("failover", ""))

    def problem(self, *names: str) -> str:
        """What went wrong in these steps, "" if each of them was made and passed."""
        if self.answer.error:
            return self.answer.error
        found = {step["step"]: step for step in self.steps}
        for name in names:
            if name not in found:
                return f"{name}: not reached: {self._first_failure()}"
            if not found[name]["passed"]:
                return f"{name}: {found[name]['detail']}"
        return ""

    def _first_failure(self) -> str:
        failed = [f"{s['step']}: {s['detail']}" for s in self.steps if not s["passed"]]
        return failed[0] if failed else "the drill ended before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the report; `passed` is None where there is nothing to test."""

    name: str
    passed: bool | None
    says: str


def drill_all(citadel: Citadel, models: Iterable[str], *, progress: Callable[[], object]) -> Sequence[Drill]:
    """Drill these models."""
    slugs = list(models)
    drills = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for slug, answer in zip(slugs, pool.map(citadel.drill, slugs), strict=True):
            drills.append(Drill(model=slug, answer=answer))
            progress()
    return drills


def lines(drills: Sequence[Drill]) -> Sequence[Line]:
    """The three lines of the report."""
    covered = [d for d in drills if d.failover != NOTHING_TO_FAIL_OVER_TO]
    line = partial(_line, drills=drills)
    failover = _line("Failover", "Automatic failover working", ("takeover",), drills=covered)
    return (
        line("All models", "Circuit breakers functional", ("failure", "breaker_opens")),
        failover if covered else Line(name="Failover", passed=None, says="None of these models has one configured"),
        line("Recovery", "Circuit breaker recovery working", ("half_open", "closed")),
    )


def _line(name: str, says: str, steps: tuple[str, ...], *, drills: Sequence[Drill]) -> Line:
    problems = [f"{d.model}: {problem}" for d in drills if (problem := d.problem(*steps))]
    return Line(name=name, passed=not problems, says=problems[0] if problems else says)
