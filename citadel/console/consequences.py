"""What a trip will refuse and what a reset will let through, said before an operator confirms it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from citadel.console.board import Breaker, Row
from integrations.patterns import Pattern
from integrations.values import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What it means for one model. `refuses`: nobody answers its calls then."""

    model: str
    refuses: bool
    lines: tuple[str, ...]


def of_trip(rows: Sequence[Row], chosen: Collection[int], models: Mapping[str, Model]) -> list[Effect]:
    """Return what opening the breakers of the endpoints `chosen` (ids) does to each of their models."""
    return [
        _trip(slug, own, chosen, models)
        for slug, own in _by_model(rows).items()
        if any(b.endpoint.id in chosen for b in own[0].breakers)
    ]


def _by_model(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.model.slug, []).append(row)
    return found


def _trip(slug: str, rows: Sequence[Row], chosen: Collection[int], models: Mapping[str, Model]) -> Effect:
    left = [b for b in rows[0].breakers if b.endpoint.id not in chosen and not b.shut]
    spare = [name for name in rows[0].model.fallbacks if name in models and models[name].enabled]
    if left:
        lines = [f"{slug} goes on at {', '.join(b.endpoint.url for b in left)}."]
    elif spare:
        lines = [f"No endpoint of {slug} is left; its live calls go to {', '.join(spare)}, of the same space."]
    else:
        lines = [line for row in rows for line in _refused(slug, row)]
    return Effect(model=slug, refuses=not left and not spare, lines=tuple(lines))


def _refused(slug: str, row: Row) -> Iterator[str]:
    traffic = f"in the last 5 minutes there were {row.requests:,}, {row.active:,} are under way"
    if row.pattern == Pattern.REAL_TIME:
        yield f"Every real_time call to {slug} will be refused with 503 circuit_open ({traffic})."
    elif row.pattern == Pattern.HYBRID:
        yield f"Every hybrid call to {slug} will be queued instead of answered ({traffic})."
    if row.queue:
        texts = row.queue.waiting + row.queue.running
        yield f"{texts:,} {row.pattern} texts of {slug} will wait; none is lost, and none counts as failed."


def of_reset(chosen: Sequence[Breaker]) -> list[str]:
    """Return what closing these breakers means, endpoint by endpoint."""
    return [_reset(breaker) for breaker in chosen]


def _reset(breaker: Breaker) -> str:
    view, name = breaker.view, f"{breaker.endpoint.model} at {breaker.endpoint.url}"
    if view.status == "closed":
        counted = f"; the {view.failure_count} failures counted so far are forgotten" if view.failure_count else ""
        return f"{name} is closed already{counted}."
    why = f" ({view.reason})" if view.reason else ""
    return f"{name} gets calls again at once. It is {view.status.replace('_', ' ')}{why}."
