"""The rows' requests: a few at once, never so many that the test itself is the load."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from citadel.pattern_test import answers
from citadel.pattern_test.client import Answer, Citadel
from citadel.pattern_test.rows import Kind, Result, Row

Progress = Callable[[], object]
POLL_INTERVAL = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the rows are run; `wait` is how many seconds a batch may take from submission to its end."""

    at_once: int = 4
    wait: float = 600.0
    batch_texts: int = 3


@dataclass(slots=True, kw_only=True)
class _Batch:
    """A batch on its way."""

    result: Result
    batch_id: str
    submitted: float = field(default_factory=time.monotonic)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """All rows, and how long the batches took from the first submission to the last end, in seconds."""

    results: Sequence[Result]
    bulk_seconds: float


def run(citadel: Citadel, rows: Iterable[Row], *, settings: Settings, progress: Progress) -> Outcome:
    """Run the rows in order; the batches are submitted together at the end and waited for together."""
    results = [Result(row=row) for row in rows]
    with ThreadPoolExecutor(settings.at_once) as pool:
        for result in results:
            if result.row.kind is not Kind.BATCH:
                _requests(citadel, result, pool=pool, progress=progress)
        started = time.monotonic()
        batches = [r for r in results if r.row.kind is Kind.BATCH]
        _follow(citadel, _submit(citadel, batches, pool=pool, settings=settings, progress=progress),
                settings=settings, progress=progress)  # fmt: skip
    return Outcome(results=results, bulk_seconds=time.monotonic() - started if batches else 0.0)


def _requests(citadel: Citadel, result: Result, *, pool: Executor, progress: Progress) -> None:
    row = result.row
    check = answers.live if row.kind is Kind.LIVE else answers.queued
    for answer in pool.map(partial(_send, citadel, row, 1), range(row.total)):
        result.add(check(answer, row), ms=answer.ms)
        progress()


def _send(citadel: Citadel, row: Row, batch_texts: int, number: int) -> Answer:
    expected = 200 if row.kind is Kind.LIVE else 202
    return citadel.embed(row.model, row.body(number, batch_texts=batch_texts), expected=expected)


def _submit(
    citadel: Citadel, results: Iterable[Result], *, pool: Executor, settings: Settings, progress: Progress
) -> list[_Batch]:
    """Submit every batch; one that is refused is counted at once."""
    waiting = []
    for result in results:
        send = partial(_send, citadel, result.row, settings.batch_texts)
        for answer in pool.map(send, range(result.row.total)):
            if error := answers.queued(answer, result.row):
                result.add(error, ms=answer.ms)
                progress()
            else:
                waiting.append(_Batch(result=result, batch_id=answer.json["batch_id"]))
    return waiting


def _follow(citadel: Citadel, waiting: list[_Batch], *, settings: Settings, progress: Progress) -> None:
    """Ask for the batches until each has ended or used up its time."""
    while waiting:
        left = []
        for batch in waiting:
            error = _ended(citadel, batch, settings)
            if error is None:
                left.append(batch)
                continue
            batch.result.add(error, ms=(time.monotonic() - batch.submitted) * 1000, items=settings.batch_texts)
            progress()
        waiting = left
        if waiting:
            time.sleep(POLL_INTERVAL)


def _ended(citadel: Citadel, batch: _Batch, settings: Settings) -> str | None:
    """None while it goes on, "" when its results are right, else what is wrong."""
    answer = citadel.batch(batch.batch_id)
    if answer.error:
        return answer.error
    status = answer.json.get("status")
    if status == "completed":
        return answers.results(citadel.results(batch.batch_id), texts=settings.batch_texts)
    if status in answers.ENDED:
        return f"{status}: {batch.batch_id} ended as {status}"
    if time.monotonic() - batch.submitted > settings.wait:
        return f"too_late: {batch.batch_id} is still {status} after {settings.wait:.0f} s"
    return None
