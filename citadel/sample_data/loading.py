"""Fills a database that has no records of its own yet."""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from django.db import connection, transaction

from batches import ended
from batches.models import BatchJob
from citadel.sample_data import sql
from integrations import histogram, marks
from integrations.models import CallRecord, ModelConfig
from integrations.rollups import EVER, MINUTES_KEPT
from integrations.values import Model

# pattern -> (mode, a usual duration in ms, weight)
_MODES: Final = {
    "real_time": (("live", 90.0, 10),),
    "hybrid": (("live", 140.0, 5), ("queued", 8.0, 1), ("bulk", 400.0, 1)),
    "bulk_only": (("queued", 8.0, 1), ("bulk", 900.0, 2)),
}
_NO_ENDPOINT: Final = "http://127.0.0.1:11434"


def real_records() -> bool:
    """Whether the database has calls or batches that this module did not make."""
    calls = CallRecord.objects.exclude(request_id__startswith=sql.PREFIX)
    return calls.exists() or BatchJob.objects.exclude(batch_id__startswith=sql.PREFIX).exists()


def load(
    models: Sequence[Model], *, calls: int, batches: int, days: float, say: Callable[[str], None] = lambda line: None
) -> None:
    """Make `calls` call records and `batches` batches of the last `days`, with rollups, transitions and audit entries.

    Sample data that is there already is replaced. `say` hears what was made and how long it took.
    """
    span = days * 86400
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT setseed(0.42)")  # the same numbers each time
        ended.forget_all()
        for name, statement, values in _steps(models, calls=calls, batches=batches, span=span):
            started = time.monotonic()
            cursor.execute(statement, values or None)
            say(f"{name}: {cursor.rowcount:,} rows in {time.monotonic() - started:.1f} s")
        now = datetime.now(UTC)
        marks.make_all(now)
        ended.count_between(now - timedelta(seconds=span), now)
    with connection.cursor() as cursor:
        for table in sql.TABLES:
            cursor.execute(f"VACUUM (ANALYZE) {table}")


def _steps(
    models: Sequence[Model], *, calls: int, batches: int, span: float
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    ways = orjson.dumps(ways_of(models)).decode()
    shared = {"ways": ways, "seconds": span}
    for statement in sql.REMOVE:
        yield "removed", statement, {}
    yield "calls", sql.CALLS, shared | {"count": calls, "batches": max(1, batches)}
    for width, unit, since, until in _stretches():
        values = {"width": width, "unit": unit, "since": since, "until": until, "bounds": list(histogram.BOUNDS)}
        yield f"rollups by {width}", sql.ROLLUPS, values
    yield "totals", sql.TOTALS, {"ever": EVER}
    yield "batches", sql.BATCHES, shared | {"count": max(1, batches)}
    yield "chunks", sql.CHUNKS, {}
    yield "counts", sql.COUNTS, {}
    yield "transitions", sql.EVENTS, shared | {"count": 400}
    yield "audit entries", sql.AUDIT, shared | {"count": 600}


def _stretches() -> Iterator[tuple[str, str, datetime, datetime]]:
    """Minutes as long as they are kept, and hours before that."""
    now = datetime.now(UTC)
    edge, ends = (now - MINUTES_KEPT).replace(minute=0, second=0, microsecond=0), now + timedelta(minutes=1)
    yield "minute", "minute", edge, ends
    yield "hour", "hour", EVER, edge


def ways_of(models: Sequence[Model]) -> list[dict[str, Any]]:
    """Return the ways in which calls to these models are made, each with the share of 1 up to which it is taken."""
    ways = [
        ({"model": m.slug, "pattern": a.pattern, "mode": mode, "ms": ms, **_servers(m, mode)}, weight)
        for m in models
        for a in m.assignments
        for mode, ms, weight in _MODES[a.pattern]
    ]
    whole, upto, shared = sum(weight for _, weight in ways), 0, []
    for way, weight in ways:
        upto += weight
        shared.append(way | {"share": upto / whole})
    return shared


def _servers(model: Model, mode: str) -> dict[str, str]:
    if mode == "queued":
        return {"endpoint": "", "spare": ""}
    urls = [endpoint.url for endpoint in model.endpoints] or [_NO_ENDPOINT]
    return {"endpoint": urls[0], "spare": urls[1] if len(urls) > 1 else ""}


def models_stored() -> bool:
    """Whether there is any model to make calls of."""
    return ModelConfig.objects.exists()
