"""What is wrong, worst first, each as a sentence with the page where something can be done about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlencode

from django.urls import reverse

from citadel.console.board import Board, Breaker, Row
from integrations.canaries import Seen
from integrations.templatetags.console import duration, percent

# Below this share of good answers, over at least so many, a model is called ailing.
GOOD_SUCCESS: Final = 95.0
ENOUGH_REQUESTS: Final = 20
# A text that has waited for longer than this many times its release interval is late.
LATE: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A link that leads to a remedy."""

    label: str
    url: str
    operates: bool = False  # shown only to those who may trip and reset


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is wrong. `tone`: bad or warn."""

    key: str
    tone: str
    title: str
    detail: str
    actions: tuple[Action, ...] = ()


def find(board: Board) -> list[Problem]:
    """Return what is wrong, the worst first."""
    found = [*_infrastructure(board), *_canaries(board), *_models(board)]
    return sorted(found, key=lambda problem: problem.tone != "bad")


def _infrastructure(board: Board) -> Iterator[Problem]:
    if not board.redis:
        yield Problem(
            key="redis",
            tone="bad",
            title="Redis does not answer",
            detail="Live calls go on. Workers get no new batches, each process counts failures by itself, and active "
            "calls below are those of one process.",
        )
    elif not board.shared:
        yield Problem(
            key="shared",
            tone="warn",
            title="Breakers are not shared",
            detail="The states below are what this process has seen; others may know more.",
        )
    if not board.workers:
        waiting = sum(row.queue.waiting for row in board.rows if row.queue)
        yield Problem(
            key="workers",
            tone="bad" if waiting else "warn",
            title="No worker is alive",
            detail=f"Queued work waits ({waiting:,} texts). Start one: manage.py worker",
        )
    if not board.schedulers:
        yield Problem(
            key="schedulers",
            tone="warn",
            title="No scheduler is alive",
            detail="Nothing is released by time, rescued or expired. Start one: manage.py scheduler",
        )
    if board.dropped:
        yield Problem(
            key="dropped",
            tone="warn",
            title=f"{board.dropped:,} call records were lost",
            detail="PostgreSQL was away for longer than their buffer lasts; the figures below lack those calls.",
        )


def _canaries(board: Board) -> Iterator[Problem]:
    page = reverse("admin:integrations_canary_changelist")
    for breaker, seen in board.astray:
        unlike = seen.state == "unlike"
        endpoint = breaker.endpoint
        trip = () if breaker.shut else (_endpoint_action("Trip", "breakers-trip", breaker),)
        yield Problem(
            key=f"canary-{endpoint.id}",
            tone="warn" if breaker.shut or unlike else "bad",
            title=f"{endpoint.model}: an endpoint gives other vectors than {'its replica' if unlike else 'before'}",
            detail=f"{endpoint.url}: {_doubt(board, seen)}{'' if breaker.shut else ' It is still being asked.'}",
            actions=(Action(label="Canaries", url=f"{page}?state={seen.state}"), *trip),
        )


def _doubt(board: Board, seen: Seen) -> str:
    if seen.state == "unlike":
        return "calls that it and the others answer do not go together."
    how = "another length" if seen.cosine is None else f"cosine {seen.cosine:.4f} to its reference"
    last = f" It was as it should be {duration(_age(board, seen.well_at))} ago." if seen.well_at else ""
    return f"{how}.{last} What it gave since is in doubt."


def _age(board: Board, then: datetime) -> float:
    return (board.at - then).total_seconds()


def _models(board: Board) -> Iterator[Problem]:
    yield from _without_endpoints(board)
    seen: set[str] = set()
    for row in board.rows:
        if row.model.slug not in seen:
            seen.add(row.model.slug)
            yield from _model(row)
        yield from _service(row)
    yield from _late(board)


def _without_endpoints(board: Board) -> Iterator[Problem]:
    """All of them in one: a new installation has many."""
    slugs = list(dict.fromkeys(row.model.slug for row in board.rows if row.state == "none"))
    if slugs:
        yield Problem(
            key="none",
            tone="warn",
            title=f"{len(slugs)} model{'s have' if len(slugs) > 1 else ' has'} no enabled endpoint",
            detail=f"Their live calls are refused, their queued work waits: {', '.join(slugs)}.",
            actions=(Action(label="Models", url=reverse("admin:integrations_modelconfig_changelist")),),
        )


def _late(board: Board) -> Iterator[Problem]:
    """All of them in one, the oldest first: where workers are missing, every model is late."""
    waited = {row.model.slug: row.queue.oldest_seconds or 0 for row in board.rows if row.queue and _is_late(row)}
    if waited:
        oldest = sorted(waited.items(), key=lambda item: -item[1])
        yield Problem(
            key="late",
            tone="warn",
            title=f"The oldest waiting text is {duration(oldest[0][1])} old",
            detail=f"Workers do not keep up with {', '.join(f'{slug} ({duration(age)})' for slug, age in oldest)}.",
            actions=(Action(label="Batches", url=reverse("admin:batches_batchjob_changelist")),),
        )


def _is_late(row: Row) -> bool:
    oldest = row.queue.oldest_seconds if row.queue else None
    interval = row.model.queue_assignment.processing_interval if row.model.queue_assignment else 0
    return oldest is not None and oldest > max(60.0, LATE * interval) and row.state not in ("drained", "disabled")


def _model(row: Row) -> Iterator[Problem]:
    slug = row.model.slug
    if row.state == "disabled":
        return
    if row.state == "drained":
        yield Problem(
            key=f"drained-{slug}",
            tone="warn",
            title=f"{slug} is drained",
            detail=f"Live calls are refused, queued work waits: {row.model.drain_reason}",
        )
    for breaker in row.shut:
        yield _shut(row, breaker)


def _shut(row: Row, breaker: Breaker) -> Problem:
    slug, view = row.model.slug, breaker.view
    others = len(row.breakers) - len(row.shut)
    tripped = view.status == "forced_open"
    end = f", {duration(breaker.left)} left" if breaker.left is not None else ", until it is reset" if tripped else ""
    who = f" by {view.by}" if tripped and view.by else ""
    rest = f"{others} other endpoint{'s answer' if others > 1 else ' answers'}." if others else "No endpoint is left."
    return Problem(
        key=f"breaker-{breaker.endpoint.id}",
        tone="warn" if others else "bad",
        title=f"{slug}: breaker {'tripped' + who if tripped else 'open'}{end}",
        detail=f"{breaker.endpoint.url}: {view.reason or 'no reason given'}. {rest}",
        actions=(_endpoint_action("Reset", "breakers-reset", breaker),),
    )


def _endpoint_action(label: str, name: str, breaker: Breaker) -> Action:
    return Action(label=label, url=f"{reverse(name)}?endpoint={breaker.endpoint.id}", operates=True)


def _service(row: Row) -> Iterator[Problem]:
    slug = row.model.slug
    if row.success is not None and row.success < GOOD_SUCCESS and row.requests >= ENOUGH_REQUESTS:
        calls = reverse("admin:integrations_callrecord_changelist")
        query = urlencode({"model": slug, "outcome": "failed"})
        yield Problem(
            key=f"success-{slug}-{row.pattern}",
            tone="warn",
            title=f"{slug}: only {percent(row.success)} of {row.pattern} calls succeed",
            detail=f"{row.requests:,} requests in the last 5 minutes.",
            actions=(Action(label="See the failed calls", url=f"{calls}?{query}"),),
        )
