"""The read side of the rollups: what happened in a window of time, by pattern, model and endpoint.

One query reads the window, whatever the number of models; what is asked for is then added up here. Calls themselves are
never scanned. A window is made of whole minutes and the running one: 5 minutes are between 5 and 6.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from django.db import connection

from integrations import errors, histogram
from integrations.rollups import EVER, summed_histogram

Key = TypeVar("Key")

SHORTEST: Final = 60
LONGEST: Final = 24 * 3600

OK: Final = "ok"
# A call that ended so says nothing of how well it was served: the client was at fault, or went away.
NOT_JUDGED: Final = frozenset(
    {"cancelled"} | {kind.code for kind in errors.tree() if 400 <= kind.status < 500 and kind is not errors.QueueFull}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The calls, or the attempts, of one model, pattern, mode, endpoint and code."""

    kind: str  # call, attempt, cache or drop
    model: str
    pattern: str
    mode: str
    endpoint: str
    code: str
    count: int
    texts: int
    retries: int
    failovers: int
    total_ms: float
    histogram: list[int]


@dataclass(slots=True)
class Totals:
    """What some cells add up to. Times in ms, rates in percent; None without data."""

    count: int = 0
    texts: int = 0
    retries: int = 0
    failovers: int = 0
    total_ms: float = 0.0
    histogram: list[int] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)

    def add(self, cell: Cell) -> None:
        """Count the calls of one more cell."""
        self.count += cell.count
        self.texts += cell.texts
        self.retries += cell.retries
        self.failovers += cell.failovers
        self.total_ms += cell.total_ms
        self.histogram = histogram.merge(self.histogram, cell.histogram)
        self.codes[cell.code] = self.codes.get(cell.code, 0) + cell.count

    @property
    def errors(self) -> dict[str, int]:
        """How many ended with which error, the commonest first."""
        failed = ((code, count) for code, count in self.codes.items() if code != OK and count)
        return dict(sorted(failed, key=lambda pair: (-pair[1], pair[0])))

    @property
    def success_rate(self) -> float | None:
        """Share of those that went well among those that could (see NOT_JUDGED)."""
        judged = sum(count for code, count in self.codes.items() if code not in NOT_JUDGED)
        return percentage(self.codes.get(OK, 0), judged)

    @property
    def mean_ms(self) -> float | None:
        """Mean duration, of whatever outcome."""
        return self.total_ms / self.count if self.count else None

    def quantile_ms(self, q: float) -> float | None:
        """Duration that the share `q` did not exceed, of whatever outcome; off by at most 13 %."""
        return histogram.quantile(self.histogram, q)


def percentage(part: int, whole: int) -> float | None:
    """Return the share in percent, with two decimals; None of nothing."""
    return round(100 * part / whole, 2) if whole else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """What happened since `since`, in the cells' order of the query."""

    since: datetime
    cells: tuple[Cell, ...]

    def select(self, kind: str = "call", **fields: str) -> list[Cell]:
        """Return the cells of this kind whose fields have these values."""
        return [c for c in self.cells if c.kind == kind and all(getattr(c, k) == v for k, v in fields.items())]

    @property
    def dropped(self) -> int:
        """Records that were lost, so that the other figures lack their calls."""
        return sum(cell.count for cell in self.select("drop"))


def total(cells: Iterable[Cell]) -> Totals:
    """Add up cells."""
    totals = Totals()
    for cell in cells:
        totals.add(cell)
    return totals


def grouped(cells: Iterable[Cell], key: Callable[[Cell], Key]) -> Mapping[Key, list[Cell]]:
    """Return the cells by `key`, keys in order of first appearance."""
    groups: defaultdict[Key, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[key(cell)].append(cell)
    return groups


_SELECT: Final = f"""
    SELECT kind, model, pattern, mode, endpoint, code, sum(count)::bigint, sum(texts)::bigint, sum(retries)::bigint,
           sum(failovers)::bigint, sum(total_ms), {summed_histogram()}
    FROM integrations_callstats
    WHERE width = %s AND bucket >= %s
    GROUP BY kind, model, pattern, mode, endpoint, code
    ORDER BY kind, model, pattern, mode, endpoint, code
"""  # nosec B608 # made of constants


def window(seconds: float, *, now: datetime | None = None) -> Period:
    """Return what happened in the last `seconds` (60 to 86,400). Raises django.db.DatabaseError."""
    if not SHORTEST <= seconds <= LONGEST:
        raise ValueError(f"a window has from {SHORTEST} to {LONGEST} seconds, not {seconds}")
    minute = (now or datetime.now(UTC)).replace(second=0, microsecond=0)
    return _read("minute", minute - timedelta(seconds=seconds))


def since_ever() -> Period:
    """Return the totals since ever. Raises django.db.DatabaseError."""
    return _read("total", EVER)


def _read(width: str, since: datetime) -> Period:
    with connection.cursor() as cursor:
        cursor.execute(_SELECT, [width, since])
        return Period(since=since, cells=tuple([_cell(row) for row in cursor.fetchall()]))


def _cell(row: tuple[Any, ...]) -> Cell:
    kind, model, pattern, mode, endpoint, code, count, texts, retries, failovers, total_ms, places = row
    return Cell(
        kind=kind,
        model=model,
        pattern=pattern,
        mode=mode,
        endpoint=endpoint,
        code=code,
        count=count,
        texts=texts,
        retries=retries,
        failovers=failovers,
        total_ms=total_ms,
        histogram=histogram.trimmed(places),
    )
