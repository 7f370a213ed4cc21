"""The first page of the admin, its part that refreshes itself every 2 s, and its charts every minute."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from citadel.console import board, problems
from citadel.console.charts import KINDS, draw
from integrations import series
from integrations.admin_breakers import may_trip


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """How far back the charts go."""

    key: str
    title: str
    step: timedelta
    steps: int


RANGES: Final = {
    r.key: r
    for r in (
        Range(key="hour", title="Last hour", step=timedelta(minutes=1), steps=60),
        Range(key="day", title="Last day", step=timedelta(minutes=15), steps=96),
    )
}


def context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Unfold's DASHBOARD_CALLBACK: what the page itself shows; its live part is in it from the start."""
    operates = may_trip(request)
    return context | _live(operates=operates) | {"title": "Dashboard", "range": "hour", "operates": operates}


def live(request: HttpRequest) -> HttpResponse:
    """The part that refreshes itself.

    Whether buttons are shown was settled when the page was opened (asking again would cost two queries every 2 s); what
    they lead to asks again.
    """
    return render(request, "citadel/live.html", _live(operates="operates" in request.GET))


def _live(*, operates: bool) -> dict[str, Any]:
    now = board.read()
    return {"board": now, "problems": problems.find(now), "operates": operates, "window": board.WINDOW // 60}


def charts(request: HttpRequest) -> HttpResponse:
    """The charts of the last hour, or of the last day."""
    chosen = RANGES.get(request.GET.get("range", ""), RANGES["hour"])
    now = datetime.now(UTC)
    points = series.read(step=chosen.step, steps=chosen.steps, now=now)
    drawn = [draw(kind, points, step=chosen.step, now=now) for kind in KINDS]
    shown = {"charts": drawn, "chosen": chosen, "ranges": RANGES.values()}
    return render(request, "citadel/charts.html", shown)
