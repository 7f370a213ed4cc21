"""What the dashboard shows of this moment, as plain values: one read of rollups, queue, breakers and gauges."""

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from batches import backlog
from batches.backlog import Backlog
from integrations import breakers, canaries, gauges, snapshot, statistics
from integrations.breaker_machine import BreakerView
from integrations.canaries import Seen
from integrations.patterns import Mode, Pattern
from integrations.statistics import Cell, Totals
from integrations.values import Endpoint, Model

WINDOW: Final = 300  # seconds
# From the breaker that lets most calls through to the one that lets none.
STATES: Final = ("closed", "half_open", "open", "forced_open")


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """One endpoint's breaker."""

    endpoint: Endpoint
    view: BreakerView

    @property
    def left(self) -> float | None:
        """Seconds until it lets a call through by itself; None where it does now, or never does."""
        until = self.view.until
        return max(0.0, (until - datetime.now(UTC)).total_seconds()) if until else None

    @property
    def shut(self) -> bool:
        """Whether no call gets through now."""
        return self.view.status in ("open", "forced_open")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model in one of its patterns. Rates a second over the window, times in ms; None without data."""

    model: Model
    pattern: str
    breakers: tuple[Breaker, ...]
    active: int
    requests: int
    per_second: float
    success: float | None
    p50: float | None
    p95: float | None
    queue: Backlog | None  # None: this pattern has no queue

    @property
    def state(self) -> str:
        """The state of its best breaker, or what keeps the model from being asked at all."""
        if not self.model.enabled:
            return "disabled"
        if self.model.draining:
            return "drained"
        return best(self.breakers)

    @property
    def shut(self) -> tuple[Breaker, ...]:
        """The breakers that let nothing through."""
        return tuple(b for b in self.breakers if b.shut)


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Everything that one refresh shows."""

    at: datetime
    patterns: tuple[tuple[str, tuple[Row, ...]], ...]
    workers: int
    schedulers: int
    redis: bool
    shared: bool  # whether this process knows what the others know of breakers
    database_ms: float
    dropped: int
    astray: tuple[tuple[Breaker, Seen], ...]  # endpoints whose canaries are not what they were

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows."""
        return tuple(row for _, rows in self.patterns for row in rows)


def best(found: Collection[Breaker]) -> str:
    """The state of the breaker that lets most through: a model answers as long as one endpoint does."""
    return min((b.view.status for b in found), key=STATES.index, default="none")


def breakers_of(model: Model) -> tuple[Breaker, ...]:
    """The breakers of a model's endpoints, in order of preference."""
    return tuple(Breaker(endpoint=e, view=breakers.state_of(e)) for e in model.endpoints)


def read() -> Board:
    """Read everything once. Raises django.db.DatabaseError."""
    models = list(snapshot.current().models.values())
    started = time.monotonic()
    period = statistics.window(WINDOW)
    queue = backlog.queue()
    took = (time.monotonic() - started) * 1000
    in_flight = gauges.in_flight()
    at = datetime.now(UTC)
    cells = statistics.grouped(period.select(), lambda c: (c.model, c.pattern))
    seconds = (at - period.since).total_seconds()
    rows = [
        _row(
            model,
            assignment.pattern,
            cells.get((model.slug, assignment.pattern), []),
            active=in_flight.counts.get((model.slug, assignment.pattern), 0),
            seconds=seconds,
            queue=queue.backlogs.get((model.slug, assignment.pattern), Backlog()) if assignment.queues else None,
        )
        for model in models
        for assignment in model.assignments
    ]
    return Board(
        at=at,
        patterns=tuple((p.value, tuple(r for r in rows if r.pattern == p)) for p in Pattern),
        workers=queue.workers,
        schedulers=queue.schedulers,
        redis=in_flight.shared,
        shared=all(b.view.shared for row in rows for b in row.breakers),
        database_ms=took,
        dropped=period.dropped,
        astray=_astray(models),
    )


def _astray(models: Collection[Model]) -> tuple[tuple[Breaker, Seen], ...]:
    known = canaries.seen()
    found = (b for model in models if model.enabled for b in breakers_of(model))
    return tuple((b, known[b.endpoint.id]) for b in found if b.endpoint.id in known and known[b.endpoint.id].astray)


def _row(
    model: Model, pattern: str, cells: Collection[Cell], *, active: int, seconds: float, queue: Backlog | None
) -> Row:
    """Clients' requests, live and queued; the times are those of live calls, or else of the calls for the queue."""
    asked = statistics.total(c for c in cells if c.mode != Mode.BULK)
    served = _served(cells)
    judged = served if pattern == Pattern.BULK_ONLY else asked
    return Row(
        model=model,
        pattern=pattern,
        breakers=breakers_of(model),
        active=active,
        requests=asked.count,
        per_second=asked.count / seconds,
        success=judged.success_rate,
        p50=served.quantile_ms(0.5),
        p95=served.quantile_ms(0.95),
        queue=queue,
    )


def _served(cells: Iterable[Cell]) -> Totals:
    by_mode: Mapping[str, list[Cell]] = statistics.grouped(cells, lambda c: c.mode)
    return statistics.total(by_mode.get(Mode.LIVE) or by_mode.get(Mode.BULK) or [])
