"""GET /metrics for Prometheus.

Counters and histograms are the totals in PostgreSQL, the same from whichever process is asked; prometheus_client only
writes its text format, and nothing is counted in a process. Gauges are as of now.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from django.db import InterfaceError, OperationalError
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from integrations import canaries, gauges, histogram, snapshot, statistics
from integrations.api import figures, status_schema
from integrations.api.figures import CountBatches, Queue, ReadQueue
from integrations.canaries import Seen
from integrations.models import Canary
from integrations.statistics import Cell, Period

log = logging.getLogger(__name__)

# Prometheus's usual ones in ms, from 1 ms to 100 s: all 117 bounds would be a series each for every label.
BUCKETS_MS: Final = (1.0, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000)
# Gauges need no window; batches that ended are counted by nobody here.
_ANY_WINDOW: Final = timedelta(minutes=5)


class PrometheusRenderer(BaseRenderer):
    """text/plain, ready as it comes."""

    media_type = "text/plain"
    format = "txt"
    charset = None

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        """Return the bytes as they are."""
        return b"" if data is None else bytes(data)


class PrometheusView(APIView):
    """Everything that is counted and measured, in Prometheus's text format."""

    # Given by the composition root: the queue is not this app's.
    batch_counts: CountBatches | None = None
    queue: ReadQueue | None = None

    required_scope = "read"
    renderer_classes = (PrometheusRenderer,)

    @status_schema.prometheus
    def get(self, request: Request) -> Response:
        """Answer; with PostgreSQL away only the gauges, and citadel_up says which part is missing."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Now(self.batch_counts, self.queue))
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


class Now(Collector):
    """All families as of one moment."""

    def __init__(self, batch_counts: CountBatches | None, queue: ReadQueue | None) -> None:
        self._batch_counts, self._queue = batch_counts, queue

    def collect(self) -> Iterator[Metric]:
        """Yield each family once."""
        in_flight = gauges.in_flight()
        stored = self._stored()
        parts = {("database",): bool(stored), ("redis",): in_flight.shared}
        yield _gauge("up", "Whether a part answers.", "part", parts)
        yield _gauge("calls_in_flight", "Calls under way.", "model pattern", in_flight.counts)
        yield from _configured()
        yield from stored

    def _stored(self) -> list[Metric]:
        try:
            families = _counted(statistics.since_ever())
            if self._batch_counts is not None:
                families.append(_queue(self._batch_counts(_ANY_WINDOW)))
            if self._queue is not None:
                families.extend(_waiting(self._queue()))
            families.extend(_canaries(canaries.seen()))
        except (OperationalError, InterfaceError) as error:
            log.warning("metrics without the database: %s", type(error).__name__)
            return []
        return families


def _counted(ever: Period) -> list[Metric]:
    calls, attempts = ever.select(), ever.select("attempt")
    by_mode, by_code, by_endpoint = "model pattern mode", "model pattern mode code", "model endpoint"
    return [
        _counter("calls", "Calls by outcome.", by_code, calls, lambda c: c.count),
        _judged(calls),
        _counter("call_texts", "Texts of these calls.", by_code, calls, lambda c: c.texts),
        _counter("call_retries", "Attempts at the same endpoint again.", by_mode, calls, lambda c: c.retries),
        _counter("call_failovers", "Attempts at the next endpoint.", by_mode, calls, lambda c: c.failovers),
        _durations("call_duration", "Duration of whole calls.", by_mode, calls),
        _counter("attempts", "Exchanges by outcome.", f"{by_endpoint} code", attempts, lambda c: c.count),
        _counter(
            "cache_texts",
            "Texts of live calls for models with a cache, by code: hit or miss.",
            by_code,
            ever.select("cache"),
            lambda c: c.count,
        ),
        _durations("attempt_duration", "Duration of exchanges.", by_endpoint, attempts),
        CounterMetricFamily(
            "citadel_records_dropped", "Calls that all other figures lack, lost to a full buffer.", value=ever.dropped
        ),
    ]


def _counter(name: str, text: str, labels: str, cells: Iterable[Cell], value: Callable[[Cell], int]) -> Metric:
    names = labels.split()
    family = CounterMetricFamily(f"citadel_{name}", text, labels=names)
    for key, found in statistics.grouped(cells, lambda c: _values(c, names)).items():
        family.add_metric(key, sum(map(value, found)))
    return family


def _judged(calls: Iterable[Cell]) -> Metric:
    """Both kinds always, so that a share of them can be had before the first failure."""
    names = ("model", "pattern", "mode")
    family = CounterMetricFamily(
        "citadel_calls_judged", "Calls that say how well they were served, see success_rate.", labels=(*names, "ok")
    )
    for key, found in statistics.grouped(calls, lambda c: _values(c, names)).items():
        judged = [cell for cell in found if cell.code not in statistics.NOT_JUDGED]
        good = sum(cell.count for cell in judged if cell.code == statistics.OK)
        family.add_metric((*key, "true"), good)
        family.add_metric((*key, "false"), sum(cell.count for cell in judged) - good)
    return family


def _durations(name: str, text: str, labels: str, cells: Iterable[Cell]) -> Metric:
    names = labels.split()
    family = HistogramMetricFamily(f"citadel_{name}_seconds", text, labels=names)
    for key, found in statistics.grouped(cells, lambda c: _values(c, names)).items():
        totals = statistics.total(found)
        counts = histogram.cumulative(totals.histogram, BUCKETS_MS)
        buckets = [(str(ms / 1000), float(n)) for ms, n in zip(BUCKETS_MS, counts, strict=True)]
        family.add_metric(key, [*buckets, ("+Inf", float(totals.count))], totals.total_ms / 1000)
    return family


def _values(cell: Cell, names: Sequence[str]) -> tuple[str, ...]:
    return tuple([getattr(cell, name) for name in names])


def _gauge(name: str, text: str, labels: str, values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(f"citadel_{name}", text, labels=labels.split())
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _configured() -> Iterator[Metric]:
    current = snapshot.current()
    views = [view for model in current.models.values() if model.enabled for view in figures.views_of(model)]
    yield GaugeMetricFamily("citadel_config_version", "The configuration acted upon.", value=current.version)
    yield _gauge(
        "breaker_state",
        "1 for the state that an endpoint's breaker is in.",
        "model endpoint state",
        {(e.model, e.url, state): view.status == state for e, view in views for state in figures.STATES},
    )
    yield _gauge(
        "breaker_failures",
        "Consecutive failures that an endpoint's breaker has counted.",
        "model endpoint",
        {(e.model, e.url): view.failure_count for e, view in views},
    )


def _queue(batches: Mapping[str, figures.BatchCounts]) -> Metric:
    values = {(model, state): getattr(c, state) for model, c in batches.items() for state in ("queued", "processing")}
    return _gauge("queue_batches", "Batches in the queue now.", "model state", values)


def _waiting(queue: Queue) -> list[Metric]:
    alive = {("worker",): queue.workers, ("scheduler",): queue.schedulers}
    return [
        _gauge("processes", "Workers and schedulers that have lately said that they are alive.", "kind", alive),
        _gauge(
            "queue_oldest_seconds",
            "How long ago the oldest batch that has not ended was released.",
            "model",
            {(model,): seconds for model, seconds in queue.oldest_seconds.items()},
        ),
    ]


def _canaries(known: Mapping[int, Seen]) -> list[Metric]:
    models = (model for model in snapshot.current().models.values() if model.enabled)
    found = [(e, known[e.id]) for model in models for e in model.endpoints if e.id in known]
    return [
        _gauge(
            "canary_state",
            "1 for what an endpoint's last answer to the fixed text was.",
            "model endpoint state",
            {(e.model, e.url, s): s == seen.state for e, seen in found for s in Canary.State.values},
        ),
        _gauge(
            "canary_cosine",
            "Cosine of that vector to the endpoint's reference.",
            "model endpoint",
            {(e.model, e.url): seen.cosine for e, seen in found if seen.cosine is not None},
        ),
        _gauge(
            "canary_well_timestamp_seconds",
            "The last time that an endpoint's vector was as it should be.",
            "model endpoint",
            {(e.model, e.url): seen.well_at.timestamp() for e, seen in found if seen.well_at is not None},
        ),
    ]
