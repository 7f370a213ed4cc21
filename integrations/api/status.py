"""GET patterns/status and patterns/metrics: how the patterns do, from the rollups alone."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from django.db import InterfaceError, OperationalError
from django.urls import URLPattern, path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from integrations import canaries, gauges, snapshot, statistics
from integrations.api import figures, status_schema
from integrations.api.figures import CountBatches, Document, ReadQueue
from integrations.api.prometheus import PrometheusView
from integrations.errors import InvalidRequest, Unavailable
from integrations.patterns import Pattern
from integrations.values import Model

log = logging.getLogger(__name__)

DEFAULT_WINDOW: Final = 300
# As patterns/metrics names them.
WINDOWS: Final[Mapping[str, int]] = {"5m": 300, "1h": 3600, "24h": 86400}

_WINDOW: Final = re.compile(r"([0-9]{1,6})([smh]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}

T = TypeVar("T")


def no_batches(window: timedelta) -> Mapping[str, figures.BatchCounts]:
    """What is known of batches where no queue is wired in: none."""
    return {}


class PatternStatusView(APIView):
    """The three patterns and every breaker, for the last 5 minutes or `?window=`."""

    # Given by the composition root: the queue is not this app's.
    batch_counts: CountBatches = staticmethod(no_batches)

    required_scope = "read"

    @status_schema.status
    def get(self, request: Request) -> Response:
        """Answer from rollups, breakers and gauges; with PostgreSQL away its figures are null, as `degraded` says."""
        window = parse_window(request.query_params.get("window"))
        models = [m for m in snapshot.current().models.values() if m.enabled]
        period = _if_database(lambda: statistics.window(window))
        batches = _if_database(lambda: self.batch_counts(timedelta(seconds=window))) if period is not None else None
        known = _if_database(canaries.seen) if batches is not None else None
        in_flight = gauges.in_flight()
        views = {model.slug: figures.views_of(model) for model in models}
        active = sum(n for (_, pattern), n in in_flight.counts.items() if pattern == Pattern.REAL_TIME)
        return Response(
            {
                "patterns": {
                    "real_time": figures.real_time(models, period, active=active),
                    "hybrid": figures.hybrid(models, period),
                    "bulk_only": figures.bulk_only(models, batches),
                },
                "circuit_breakers": {slug: figures.circuit_breaker(found, known) for slug, found in views.items()},
                "window_seconds": window,
                "records_dropped": period.dropped if period else None,
                "degraded": _degraded(
                    database=batches is not None,
                    redis=in_flight.shared and all(view.shared for found in views.values() for _, view in found),
                ),
                "generated_at": datetime.now(UTC),
            }
        )


class PatternMetricsView(APIView):
    """Requests, errors, latencies, retries and failovers by pattern, model and endpoint."""

    required_scope = "read"

    @status_schema.metrics
    def get(self, request: Request) -> Response:
        """Answer with the three windows, or with the one that `?window=` names. Raises Unavailable."""
        wanted = request.query_params.get("window")
        windows = WINDOWS if wanted is None else {wanted: parse_window(wanted)}
        models = [m for m in snapshot.current().models.values() if m.enabled]
        found = _if_database(lambda: [_window(models, seconds) for seconds in windows.values()])
        if found is None:
            raise Unavailable("The figures are kept in the database, which does not answer.", retry_after=5)
        document = {"generated_at": datetime.now(UTC), "windows": dict(zip(windows, found, strict=True))}
        return Response(document)


def _window(models: Sequence[Model], seconds: int) -> Document:
    return {"seconds": seconds, **figures.metrics(models, statistics.window(seconds))}


def parse_window(given: str | None) -> int:
    """Return the seconds of "5m", "1h", "24h", "90s" or "90"; 300 for None. Raises InvalidRequest."""
    if given is None:
        return DEFAULT_WINDOW
    match = _WINDOW.fullmatch(given)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not statistics.SHORTEST <= seconds <= statistics.LONGEST:
        message = "Must be from 60 seconds to 24 hours, as 300, 5m, 1h or 24h."
        raise InvalidRequest(errors={"window": [message]})
    return seconds


def _if_database(ask: Callable[[], T]) -> T | None:
    """What `ask` returns; None while PostgreSQL is away."""
    try:
        return ask()
    except (OperationalError, InterfaceError) as error:
        log.warning("figures without the database: %s", type(error).__name__)
        return None


def _degraded(**answers: bool) -> list[str]:
    return [part for part, well in answers.items() if not well]


def status_urls(batch_counts: CountBatches, *, queue: ReadQueue) -> list[URLPattern]:
    """Return the routes of status and metrics. batch_counts, queue: how to ask for batches and workers."""
    wired: dict[str, Any] = {"batch_counts": batch_counts}
    return [
        path("api/v1/external/patterns/status", PatternStatusView.as_view(**wired), name="patterns-status"),
        path("api/v1/external/patterns/metrics", PatternMetricsView.as_view(), name="patterns-metrics"),
        path("metrics", PrometheusView.as_view(**wired, queue=queue), name="metrics"),
    ]
