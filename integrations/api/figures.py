"""What patterns/status and patterns/metrics say, as plain values for the renderer."""

from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any, Protocol

from integrations import breakers, statistics
from integrations.breaker_machine import BreakerView
from integrations.canaries import Seen
from integrations.patterns import Mode, Pattern
from integrations.statistics import Cell, Period, Totals
from integrations.values import Endpoint, Model

Document = dict[str, Any]

# From the breaker that lets most calls through to the one that lets none.
STATES = ("closed", "half_open", "open", "forced_open")


class BatchCounts(Protocol):
    """One model's batches: queued and processing now, the others as they ended within a window."""

    @property
    def queued(self) -> int: ...
    @property
    def processing(self) -> int: ...
    @property
    def completed(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def completed_texts(self) -> int: ...
    @property
    def failed_texts(self) -> int: ...
    @property
    def avg_processing_ms(self) -> float | None: ...


class Queue(Protocol):
    """What waits, and who is there to work on it."""

    @property
    def workers(self) -> int: ...
    @property
    def schedulers(self) -> int: ...
    @property
    def oldest_seconds(self) -> Mapping[str, float]:
        """By model: how long ago the oldest batch that has not ended was released."""
        ...


class ReadQueue(Protocol):
    """How /metrics asks for the queue; raises django.db.DatabaseError."""

    def __call__(self) -> Queue: ...


class CountBatches(Protocol):
    """How views ask for batches, which are not this app's; raises django.db.DatabaseError."""

    def __call__(self, window: timedelta) -> Mapping[str, BatchCounts]: ...


def rounded(value: float | None) -> float | None:
    """Return a time with the tenth of a millisecond, which is all it is good for."""
    return None if value is None else round(value, 1)


def with_pattern(models: Iterable[Model], pattern: str) -> list[str]:
    """Return the models that have this assignment, in the configuration's order."""
    return [m.slug for m in models if any(a.pattern == pattern for a in m.assignments)]


# --- patterns/status -------------------------------------------------------------------------------------------------


def real_time(models: Collection[Model], period: Period | None, *, active: int) -> Document:
    """Return the block of the real_time pattern; figures that nobody knows now are null."""
    calls = statistics.total(period.select(pattern=Pattern.REAL_TIME, mode=Mode.LIVE)) if period else None
    return {
        "models": with_pattern(models, Pattern.REAL_TIME),
        "active_requests": active,
        "success_rate": calls.success_rate if calls else None,
        "avg_response_time_ms": rounded(calls.mean_ms) if calls else None,
    }


def hybrid(models: Collection[Model], period: Period | None) -> Document:
    """Return the block of the hybrid pattern: both kinds of requests, the response time of the live ones."""
    cells = period.select(pattern=Pattern.HYBRID) if period else []
    live = statistics.total(c for c in cells if c.mode == Mode.LIVE)
    queued = statistics.total(c for c in cells if c.mode == Mode.QUEUED)
    both = statistics.total(c for c in cells if c.mode != Mode.BULK)
    return {
        "models": with_pattern(models, Pattern.HYBRID),
        "real_time_requests": live.count if period else None,
        "bulk_requests": queued.count if period else None,
        "success_rate": both.success_rate,
        "avg_response_time_ms": rounded(live.mean_ms),
    }


def bulk_only(models: Collection[Model], batches: Mapping[str, BatchCounts] | None) -> Document:
    """Return the block of the bulk_only pattern: batches now and as they ended, the rate that of their texts."""
    slugs = with_pattern(models, Pattern.BULK_ONLY)
    found = [batches[slug] for slug in slugs if slug in batches] if batches is not None else []
    completed = sum(c.completed_texts for c in found)
    known = batches is not None
    return {
        "models": slugs,
        "queued_batches": sum(c.queued for c in found) if known else None,
        "processing_batches": sum(c.processing for c in found) if known else None,
        "completed_batches": sum(c.completed for c in found) if known else None,
        "success_rate": statistics.percentage(completed, completed + sum(c.failed_texts for c in found)),
        "avg_batch_processing_time_ms": rounded(_mean_processing_ms(found)),
    }


def _mean_processing_ms(found: Iterable[BatchCounts]) -> float | None:
    """The mean over all batches, from each model's mean."""
    known = [(c.avg_processing_ms, c.completed + c.failed) for c in found if c.avg_processing_ms is not None]
    ended = sum(count for _, count in known)
    return sum(mean * count for mean, count in known) / ended if ended else None


def circuit_breaker(
    views: Collection[tuple[Endpoint, BreakerView]], canaries: Mapping[int, Seen] | None = None
) -> Document:
    """Return a model's breaker: its best endpoint's, for that one will answer; null for a model without endpoints.

    canaries: by the endpoints' ids; None while nobody knows.
    """
    known = canaries or {}
    best = min((view for _, view in views), key=lambda v: (STATES.index(v.status), v.failure_count), default=None)
    return {
        "status": best.status if best else None,
        "failure_count": best.failure_count if best else 0,
        "endpoints": [_endpoint(endpoint, view, known.get(endpoint.id)) for endpoint, view in views],
    }


def views_of(model: Model) -> list[tuple[Endpoint, BreakerView]]:
    """Return the breaker of each of the model's endpoints, in order of preference."""
    return [(endpoint, breakers.state_of(endpoint)) for endpoint in model.endpoints]


def _endpoint(endpoint: Endpoint, view: BreakerView, canary: Seen | None) -> Document:
    return {
        "url": endpoint.url,
        "state": view.status,
        "failure_count": view.failure_count,
        "reason": view.reason,
        "until": view.until,
        "by": view.by,
        "opened_at": view.opened_at,
        "canary": canary and _canary(canary),
    }


def _canary(seen: Seen) -> Document:
    return {
        "state": seen.state,
        "cosine": None if seen.cosine is None else round(seen.cosine, 6),
        "asked_at": seen.asked_at,
        "well_at": seen.well_at,
        "since": seen.since,
    }


# --- patterns/metrics ------------------------------------------------------------------------------------------------


def metrics(models: Collection[Model], period: Period) -> Document:
    """Return one window's figures by pattern, model and endpoint: all that are configured, and others with calls."""
    calls = period.select()
    by_pattern = statistics.grouped(calls, lambda c: c.pattern)
    by_model = statistics.grouped(calls, lambda c: c.model)
    return {
        "since": period.since,
        "records_dropped": period.dropped,
        "patterns": {p: _requests(by_pattern.get(p, [])) for p in _all(map(str, Pattern), by_pattern)},
        "models": {m: _requests(by_model.get(m, [])) for m in _all((m.slug for m in models), by_model)},
        "endpoints": _endpoints(models, period),
        "cache": _cache(models, period),
    }


def _cache(models: Iterable[Model], period: Period) -> Document:
    """Texts of live calls by whether they came from the cache, of the models that have one or had."""
    used = statistics.grouped(period.select("cache"), lambda c: c.model)
    return {slug: _hits(used.get(slug, [])) for slug in _all((m.slug for m in models if m.cache), used)}


def _hits(cells: Iterable[Cell]) -> Document:
    codes = statistics.total(cells).codes
    hits, misses = codes.get("hit", 0), codes.get("miss", 0)
    return {"hits": hits, "misses": misses, "hit_rate": statistics.percentage(hits, hits + misses)}


def _all(configured: Iterable[str], seen: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*configured, *seen]))


def _requests(cells: Collection[Cell]) -> Document:
    """Clients' requests, live and queued, and beside them the calls to model servers that the queue made."""
    modes = statistics.grouped(cells, lambda c: c.mode)
    totals = {mode: statistics.total(modes.get(mode, [])) for mode in Mode}
    requests = statistics.total(c for c in cells if c.mode != Mode.BULK)
    of = next((mode for mode in (Mode.LIVE, Mode.BULK) if totals[mode].count), None)
    return {
        "requests": requests.count,
        "errors": requests.errors,
        "success_rate": requests.success_rate,
        **_latency(totals[of] if of else Totals()),
        "latency_of": of.value if of else None,
        "retries": sum(t.retries for t in totals.values()),
        "failovers": sum(t.failovers for t in totals.values()),
        "texts": _served(c for c in cells if c.mode != Mode.BULK).texts,
        "batches": _served(modes.get(Mode.QUEUED, [])).count,
        "modes": {mode.value: _mode(totals[mode], modes.get(mode, [])) for mode in Mode},
    }


def _mode(totals: Totals, cells: Iterable[Cell]) -> Document:
    return {
        "requests": totals.count,
        "errors": totals.errors,
        "success_rate": totals.success_rate,
        **_latency(totals),
        "retries": totals.retries,
        "failovers": totals.failovers,
        "texts": _served(cells).texts,
    }


def _served(cells: Iterable[Cell]) -> Totals:
    return statistics.total(c for c in cells if c.code == statistics.OK)


def _latency(totals: Totals) -> Document:
    quantiles = {f"p{q}_ms": rounded(totals.quantile_ms(q / 100)) for q in (50, 95, 99)}
    return {"mean_ms": rounded(totals.mean_ms), **quantiles}


def _endpoints(models: Iterable[Model], period: Period) -> list[Document]:
    attempts = statistics.grouped(period.select("attempt"), lambda c: (c.model, c.endpoint))
    ended = statistics.grouped(period.select(), lambda c: (c.model, c.endpoint))
    configured = [(m.slug, e.url) for m in models for e in m.endpoints]
    return [
        {"model": model, "endpoint": url, **_attempts(attempts.get((model, url), []), ended.get((model, url), []))}
        for model, url in dict.fromkeys([*configured, *attempts])
    ]


def _attempts(attempts: Iterable[Cell], ended: Collection[Cell]) -> Document:
    """Exchanges with one endpoint, and what of the calls that ended there only the calls know."""
    made, calls = statistics.total(attempts), statistics.total(ended)
    return {
        "requests": made.count,
        "errors": made.errors,
        "success_rate": made.success_rate,
        **_latency(made),
        "retries": calls.retries,
        "failovers": calls.failovers,
        "texts": _served(ended).texts,
    }
