"""Charts as plain geometry for a template that draws them as SVG: no script, nothing to load, and read out as text.

The drawing is WIDTH by HEIGHT units and stretched to its place; labels are text beside it, at percentages.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.utils import timezone

from integrations.series import Point
from integrations.templatetags.console import NOTHING, count, ms, rate

WIDTH: Final = 600
HEIGHT: Final = 120
_TOP: Final = 1.0  # so that a line at the top is not cut in half

Value = float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """An axis from 0 to `top`; from `bottom` on by powers of ten where that is given."""

    top: float
    bottom: float = 0.0

    def share(self, value: float) -> float:
        """How far up a value stands, from 0 to 1."""
        if not self.bottom:
            return value / self.top
        return max(0.0, math.log10(max(value, self.bottom) / self.bottom) / math.log10(self.top / self.bottom))

    def value(self, share: float) -> float:
        """The value that stands so far up."""
        return self.bottom * (self.top / self.bottom) ** share if self.bottom else self.top * share


Write = Callable[[Value], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line, or one colour of bars. `latest` is its last whole step, as text."""

    name: str
    tone: str
    latest: str
    path: str = ""
    bars: tuple[tuple[float, float, float, float], ...] = ()  # x, y, width, height


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One step: where it stands, and all its values as text."""

    x: float
    width: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A label on an axis, at a percentage from the left or from the top."""

    at: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One drawing."""

    key: str
    title: str
    series: tuple[Series, ...]
    columns: tuple[Column, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    empty: bool
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What one chart draws: `values` of each point by name and tone; bars are stacked, lines are not."""

    key: str
    title: str
    names: tuple[tuple[str, str], ...]
    values: Callable[[Point, float], Sequence[Value]]
    write: Write
    bars: bool = False
    logarithmic: bool = False  # one timeout of 30 s would press all else flat


KINDS: Final = (
    Kind(
        key="requests",
        title="Requests per second",
        names=(("answered", "blue"), ("failed", "red")),
        values=lambda p, seconds: ((p.requests - p.errors) / seconds, p.errors / seconds),
        write=rate,
        bars=True,
    ),
    Kind(
        key="errors",
        title="Errors",
        names=(("errors", "red"),),
        values=lambda p, seconds: (p.errors,),
        write=count,
        bars=True,
    ),
    Kind(
        key="latency",
        title="Latency of live calls",
        names=(("p50", "blue"), ("p95", "amber"), ("p99", "red")),
        values=lambda p, seconds: [p.quantile_ms(q) for q in (0.5, 0.95, 0.99)],
        write=ms,
        logarithmic=True,
    ),
    Kind(
        key="queue",
        title="Texts per second from the queue",
        names=(("texts", "green"),),
        values=lambda p, seconds: (p.queue_texts / seconds,),
        write=rate,
        bars=True,
    ),
)


def draw(kind: Kind, points: Sequence[Point], *, step: timedelta, now: datetime) -> Chart:
    """Draw these points, each of which lasts `step`; the last one until `now`."""
    rows = [kind.values(p, _lasted(p, step=step, now=now)) for p in points]
    highest = max((sum(v or 0 for v in row) if kind.bars else max(v or 0 for v in row) for row in rows), default=0)
    scale = _scale(kind, rows, highest)
    top = scale.top
    width = WIDTH / max(1, len(points))
    whole = rows[-2] if len(rows) > 1 else rows[-1]
    series = tuple(
        Series(
            name=name,
            tone=tone,
            latest=kind.write(whole[n]),
            path="" if kind.bars else line([row[n] for row in rows], scale=scale),
            bars=_bars(rows, n, top=top, width=width) if kind.bars else (),
        )
        for n, (name, tone) in enumerate(kind.names)
    )
    return Chart(
        key=kind.key,
        title=kind.title,
        series=series,
        columns=tuple(
            Column(x=round(n * width, 2), width=round(width, 2), words=_words(kind, point, row))
            for n, (point, row) in enumerate(zip(points, rows, strict=True))
        ),
        x_ticks=_x_ticks(points),
        y_ticks=tuple(
            Tick(at=round(100 * (1 - share), 1), label=kind.write(scale.value(share))) for share in (1.0, 0.5, 0.0)
        ),
        empty=highest <= 0,
        summary=_summary(kind, series, highest),
    )


def _lasted(point: Point, *, step: timedelta, now: datetime) -> float:
    """The running step has lasted for less: its rate is taken over the time that has passed, at least a few seconds."""
    return max(5.0, min(step.total_seconds(), (now - point.start).total_seconds()))


def nice(highest: float) -> float:
    """The next of 1, 2, 5, 10, 20 … that is not lower: the top of an axis."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= highest * (1 - 1e-9))


def _scale(kind: Kind, rows: Sequence[Sequence[Value]], highest: float) -> Scale:
    if not kind.logarithmic:
        return Scale(top=nice(highest))
    lowest = min((v for row in rows for v in row if v), default=1.0)
    top, bottom = (10.0**e for e in (math.ceil(math.log10(highest or 1.0)), math.floor(math.log10(lowest))))
    return Scale(top=max(top, bottom * 10), bottom=bottom)


def line(values: Sequence[Value], *, scale: Scale) -> str:
    """Return an SVG path through the middles of the steps; where there is no value, it is interrupted."""
    width, parts, pen = WIDTH / max(1, len(values)), [], "M"
    for n, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        x, y = round((n + 0.5) * width, 2), round(_TOP + (HEIGHT - _TOP) * (1 - scale.share(value)), 2)
        alone = pen == "M" and (n + 1 == len(values) or values[n + 1] is None)
        parts.append(f"{pen}{x} {y}" + ("h0.1" if alone else ""))
        pen = "L"
    return " ".join(parts)


def _bars(
    rows: Sequence[Sequence[Value]], place: int, *, top: float, width: float
) -> tuple[tuple[float, float, float, float], ...]:
    bars = []
    for n, row in enumerate(rows):
        value, below = row[place] or 0, sum(v or 0 for v in row[:place])
        if value:
            height = HEIGHT * value / top
            y = HEIGHT - HEIGHT * below / top - height
            bars.append((round(n * width + width * 0.1, 2), round(y, 2), round(width * 0.8, 2), round(height, 2)))
    return tuple(bars)


def _words(kind: Kind, point: Point, row: Sequence[Value]) -> str:
    values = ", ".join(f"{name} {kind.write(value)}" for (name, _), value in zip(kind.names, row, strict=True))
    return f"{timezone.localtime(point.start):%H:%M}: {values}"


def _x_ticks(points: Sequence[Point]) -> tuple[Tick, ...]:
    places = [0, len(points) // 3, 2 * len(points) // 3]
    return tuple(
        Tick(at=round(100 * n / len(points), 1), label=f"{timezone.localtime(points[n].start):%H:%M}")
        for n in dict.fromkeys(places)
        if n < len(points)
    )


def _summary(kind: Kind, series: Sequence[Series], highest: float) -> str:
    latest = ", ".join(f"{s.name} {s.latest}" for s in series if s.latest != NOTHING)
    return f"{kind.title}. Lately: {latest or 'nothing'}. Highest: {kind.write(highest)}."
