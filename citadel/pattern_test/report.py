"""The report, as text in the shape that operators know, and as JSON."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from citadel.pattern_test.circuit import NOTHING_TO_FAIL_OVER_TO, Drill, Line, lines
from citadel.pattern_test.rows import Kind, Result
from citadel.pattern_test.run import Outcome

_TITLES = {
    "real_time": "Real-time Pattern Tests:",
    "hybrid": "Hybrid Pattern Tests:",
    "bulk_only": "Bulk Pattern Tests:",
}
_UNITS = {
    Kind.LIVE: "requests successful",
    Kind.QUEUED: "requests queued successfully",
    Kind.BATCH: "batches processed successfully",
}
_MARKS = {True: "✅", False: "❌", None: "➖"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that was measured; a row passes with at least `min_success` percent."""

    url: str
    outcome: Outcome
    drills: Sequence[Drill]
    min_success: float
    seconds: float

    def row_passed(self, result: Result) -> bool:
        """Whether enough of the row's units succeeded."""
        return result.success_rate >= self.min_success

    @property
    def circuit(self) -> Sequence[Line]:
        """The lines on breakers."""
        return lines(self.drills) if self.drills else ()

    @property
    def passed(self) -> bool:
        """Whether every line passed."""
        rows = all(self.row_passed(result) for result in self.outcome.results)
        return rows and all(line.passed is not False for line in self.circuit)

    # --- figures ---

    def latency_ms(self, pattern: str) -> float | None:
        """Mean of the live requests of a pattern, as the client saw them."""
        found = [ms for r in self.outcome.results if _is_live(r, pattern) for ms in r.latencies]
        return sum(found) / len(found) if found else None

    @property
    def items_per_minute(self) -> float | None:
        """Texts that came back with a vector, over the time from the first submission to the last result."""
        items = sum(r.items for r in self.outcome.results if r.row.kind is Kind.BATCH)
        return 60 * items / self.outcome.bulk_seconds if items and self.outcome.bulk_seconds else None

    @property
    def success_rate(self) -> float | None:
        """Percentage of all units that succeeded."""
        total = sum(r.row.total for r in self.outcome.results)
        return 100 * sum(r.succeeded for r in self.outcome.results) / total if total else None

    # --- text ---

    def text(self, *, verbose: bool) -> str:
        """The report to read."""
        parts = [["Integration Pattern Test Results:", "=" * 32]]
        for pattern, title in _TITLES.items():
            found = [r for r in self.outcome.results if r.row.pattern == pattern]
            if found:
                parts.append([title, *(line for r in found for line in self._row(r, verbose=verbose))])
        if self.drills:
            circuit = [f"{_MARKS[line.passed]} {line.name}: {line.says}" for line in self.circuit]
            parts.append(["Circuit Breaker Tests:", *circuit, *(_details(self.drills) if verbose else ())])
        parts.append(["Performance Summary:", *self._summary()])
        return "\n\n".join("\n".join(part) for part in parts)

    def _row(self, result: Result, *, verbose: bool) -> Iterator[str]:
        row, passed = result.row, self.row_passed(result)
        counted = f"{result.succeeded}/{row.total} {_UNITS[row.kind]} ({math.floor(result.success_rate)}%)"
        error = f" - {result.first_error}" if not passed or (verbose and result.first_error) else ""
        yield f"{_MARKS[passed]} {row.label}: {counted}{error}"
        if verbose and result.latencies:
            p50, p95 = (percentile(result.latencies, share) for share in (50, 95))
            yield f"   p50 {p50:.1f}ms, p95 {p95:.1f}ms"

    def _summary(self) -> Iterator[str]:
        yield f"- Real-time average latency: {_or_na(self.latency_ms('real_time'), 'ms')}"
        yield f"- Hybrid real-time average latency: {_or_na(self.latency_ms('hybrid'), 'ms')}"
        yield f"- Bulk processing throughput: {_or_na(self.items_per_minute, ' items/minute')}"
        rate = self.success_rate
        # Rounded down: 99.96 % is not 100 %.
        yield f"- Overall success rate: {_or_na(None if rate is None else math.floor(rate * 10) / 10, '%')}"

    # --- JSON ---

    def json(self) -> dict[str, Any]:
        """The report for a program."""
        return {
            "url": self.url,
            "passed": self.passed,
            "seconds": round(self.seconds, 1),
            "rows": [self._row_json(result) for result in self.outcome.results],
            "circuit_breakers": {
                "lines": [asdict(line) for line in self.circuit],
                "drills": {d.model: d.answer.json or {"error": d.answer.error} for d in self.drills},
            },
            "summary": {
                "real_time_latency_ms": _rounded(self.latency_ms("real_time")),
                "hybrid_latency_ms": _rounded(self.latency_ms("hybrid")),
                "bulk_items_per_minute": _rounded(self.items_per_minute),
                "success_rate": _rounded(self.success_rate),
            },
        }

    def _row_json(self, result: Result) -> Mapping[str, Any]:
        row = result.row
        return {
            "pattern": row.pattern,
            "model": row.model,
            "kind": row.kind,
            "succeeded": result.succeeded,
            "total": row.total,
            "passed": self.row_passed(result),
            "first_error": result.first_error or None,
            "p50_ms": _rounded(percentile(result.latencies, 50)) if result.latencies else None,
            "p95_ms": _rounded(percentile(result.latencies, 95)) if result.latencies else None,
        }


def _details(drills: Sequence[Drill]) -> Iterator[str]:
    for drill in drills:
        steps = ", ".join(f"{s['step']} {s['duration_ms']:.0f}ms" for s in drill.steps)
        takes_over = "nothing to fail over to" if drill.failover == NOTHING_TO_FAIL_OVER_TO else drill.failover
        yield f"   {drill.model}: {drill.answer.error or f'{steps} ({takes_over})'}"


def _is_live(result: Result, pattern: str) -> bool:
    return result.row.pattern == pattern and result.row.kind is Kind.LIVE


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _or_na(value: float | None, unit: str) -> str:
    return "n/a" if value is None else f"{value:.1f}{unit}"
