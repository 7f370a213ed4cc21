"""What is tested: each row is a line of the report."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

SECTIONS = ("real_time", "hybrid", "bulk_only")


class Kind(StrEnum):
    """What a row's unit is."""

    LIVE = "live"  # a request that is answered with a vector
    QUEUED = "queued"  # a request that is answered with a batch id
    BATCH = "batch"  # a batch from its submission to its checked results


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many units each kind of row has."""

    live: int = 50
    hybrid: int = 25
    batches: int = 5
    batch_texts: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model in one pattern; `pinned` rows name the pattern, for a model that has several."""

    pattern: str
    model: str
    kind: Kind
    total: int
    pinned: bool = False

    @property
    def label(self) -> str:
        """As the report names it."""
        if self.pattern != "hybrid":
            return self.model
        return f"{self.model} ({'urgent' if self.kind is Kind.LIVE else 'bulk'})"

    def body(self, number: int, *, batch_texts: int) -> dict[str, Any]:
        """The request of one unit."""
        named = {"pattern": self.pattern} if self.pinned else {}
        text = f"Pattern test of {self.model}, {self.pattern}, number {number}."
        match self.kind:
            case Kind.LIVE:
                return {"text": text, "urgent": True, **named}
            case Kind.QUEUED:
                return {"text": text, "urgent": False, **named}
        return {"texts": [f"{text} Text {n}." for n in range(batch_texts)], "batch": True, **named}


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of a row. `latencies` in ms, of the units that succeeded; `items` counts texts with a vector."""

    row: Row
    succeeded: int = 0
    latencies: list[float] = field(default_factory=list)
    first_error: str = ""
    items: int = 0

    def add(self, error: str, *, ms: float, items: int = 1) -> None:
        """Count one unit: right if `error` is empty."""
        if error:
            self.first_error = self.first_error or error
            return
        self.succeeded += 1
        self.items += items
        self.latencies.append(ms)

    @property
    def success_rate(self) -> float:
        """Percentage of the units that succeeded."""
        return 100 * self.succeeded / self.row.total


def rows_of(
    patterns: Mapping[str, Any], *, counts: Counts, only_patterns: Collection[str], only_models: Collection[str]
) -> Sequence[Row]:
    """Return the rows for what `patterns` (of patterns/status) says is configured; an empty choice means all."""
    models = {name: list(patterns[name]["models"]) for name in SECTIONS if name in patterns}
    found: list[Row] = []
    for pattern, slugs in models.items():
        for slug in slugs:
            if (only_patterns and pattern not in only_patterns) or (only_models and slug not in only_models):
                continue
            pinned = sum(slug in others for others in models.values()) > 1
            found.extend(_rows(pattern, slug, pinned=pinned, counts=counts))
    return found


def _rows(pattern: str, model: str, *, pinned: bool, counts: Counts) -> Iterator[Row]:
    match pattern:
        case "real_time":
            yield Row(pattern=pattern, model=model, kind=Kind.LIVE, total=counts.live, pinned=pinned)
        case "hybrid":
            yield Row(pattern=pattern, model=model, kind=Kind.LIVE, total=counts.hybrid, pinned=pinned)
            yield Row(pattern=pattern, model=model, kind=Kind.QUEUED, total=counts.hybrid, pinned=pinned)
        case _:
            yield Row(pattern=pattern, model=model, kind=Kind.BATCH, total=counts.batches, pinned=pinned)
