"""The read side of the rollups: what happened in a window of time, by pattern, model and endpoint.

Three queries at most read a window, whatever the number of models; what is asked for is then added up here. Calls are
never scanned. A window is made of whole minutes and the running one: 5 minutes are between 5 and 6. It is read as the
sum of these, or, where there is a mark near its beginning, as what the totals have more than that (integrations.marks).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final, TypeVar

from django.db import connection

from integrations import errors, histogram, marks
from integrations.rollups import EVER, KEY, summed

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


@dataclass(frozen=True)
class Totals:
    """What some cells add up to, figure by figure as asked for. Times in ms, rates in percent; None without data."""

    cells: tuple[Cell, ...] = ()

    @cached_property
    def count(self) -> int:
        """How many calls or attempts."""
        return sum([cell.count for cell in self.cells])

    @property
    def texts(self) -> int:
        """Texts of all of them."""
        return sum([cell.texts for cell in self.cells])

    @property
    def retries(self) -> int:
        """Attempts at the same endpoint again."""
        return sum([cell.retries for cell in self.cells])

    @property
    def failovers(self) -> int:
        """Attempts at the next endpoint."""
        return sum([cell.failovers for cell in self.cells])

    @cached_property
    def total_ms(self) -> float:
        """Duration of all of them together."""
        return sum([cell.total_ms for cell in self.cells])

    @cached_property
    def histogram(self) -> list[int]:
        """How many took how long (integrations.histogram)."""
        return histogram.merge(*[cell.histogram for cell in self.cells])

    @cached_property
    def codes(self) -> dict[str, int]:
        """How many ended how."""
        codes: Counter[str] = Counter()
        for cell in self.cells:
            codes[cell.code] += cell.count
        return codes

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
    return Totals(tuple(cells))


def grouped(cells: Iterable[Cell], key: Callable[[Cell], Key]) -> Mapping[Key, list[Cell]]:
    """Return the cells by `key`, keys in order of first appearance."""
    groups: defaultdict[Key, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[key(cell)].append(cell)
    return groups


_MINUTES: Final = f"""
    SELECT {KEY}, {summed()}
    FROM integrations_callstats WHERE width = 'minute' AND bucket >= %(since)s
    GROUP BY {KEY}
    ORDER BY {KEY}
"""  # nosec B608 # made of constants

# One statement, and so of one moment: no minute is taken off that is not in the totals. Materialized, or PostgreSQL
# would at times start two processes for these few hundred rows, which takes as long as all the rest.
_SINCE_MARK: Final = f"""
    WITH parts AS MATERIALIZED (
        SELECT *, CASE width WHEN 'total' THEN 1 ELSE -1 END AS sign
        FROM integrations_callstats
        WHERE width = 'total' OR width = 'before' AND bucket = %(mark)s
            OR width = 'minute' AND bucket >= %(mark)s AND bucket < %(since)s
    )
    SELECT {KEY}, {summed("sign")} FROM parts
    GROUP BY {KEY}
    HAVING sum(sign * count) > 0
    ORDER BY {KEY}
"""  # nosec B608 # made of constants

# Nothing is added up: there is one row for each key.
_EVER: Final = f"""
    SELECT {KEY}, count, texts, retries, failovers, total_ms, histogram
    FROM integrations_callstats WHERE width = 'total' ORDER BY {KEY}
"""  # nosec B608 # made of constants


def window(seconds: float, *, now: datetime | None = None) -> Period:
    """Return what happened in the last `seconds` (60 to 86,400). Raises django.db.DatabaseError."""
    if not SHORTEST <= seconds <= LONGEST:
        raise ValueError(f"a window has from {SHORTEST} to {LONGEST} seconds, not {seconds}")
    minute = (now or datetime.now(UTC)).replace(second=0, microsecond=0)
    since = minute - timedelta(seconds=seconds)
    # To take off a quarter as many minutes as the window has is still worth it. In less there need not be a mark.
    near = timedelta(seconds=seconds / 4)
    mark = marks.newest(since - near, since) if near >= marks.EVERY else None
    return _read(_SINCE_MARK if mark else _MINUTES, since, {"since": since, "mark": mark})


def since_ever() -> Period:
    """Return the totals since ever. Raises django.db.DatabaseError."""
    return _read(_EVER, EVER, {})


def _read(statement: str, since: datetime, values: dict[str, Any]) -> Period:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
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
