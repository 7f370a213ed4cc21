"""The addresses of this app. What they need of the queue is handed in by the composition root."""

from collections.abc import Callable, Mapping

from django.urls import URLPattern, path

from integrations.api import health, schema
from integrations.api.drill_view import DrillView
from integrations.api.views import EmbedView, Handler, LinesHandler
from integrations.drill import QueueTakeover
from integrations.patterns import Pattern


def api_urls(
    *,
    handlers: Mapping[Pattern, Handler],
    lines_handler: LinesHandler,
    workers_alive: Callable[[], object],
    queue_takeover: QueueTakeover,
) -> list[URLPattern]:
    """Return the routes of embedding, drill, health and documentation.

    handlers: what carries out each pattern. lines_handler: what takes an NDJSON body. workers_alive: whether (or how
    many) workers were seen lately. queue_takeover: what a drill asks of the queue.
    """
    checks = {
        name: health.Check(name, ask)
        for name, ask in (
            ("database", health.database_answers),
            ("redis", health.redis_answers),
            ("workers", workers_alive),
        )
    }
    embed = EmbedView.as_view(handlers=handlers, lines_handler=lines_handler)
    return [
        path("api/v1/external/<str:model>/embed", embed, name="embed"),
        path("api/v1/external/test/failover", DrillView.as_view(queue_takeover=queue_takeover), name="drill"),
        path("health/live", health.LiveView.as_view(), name="health-live"),
        path("health/ready", health.ReadyView.as_view(checks=checks), name="health-ready"),
        path("api/schema/", schema.SchemaView.as_view(), name="schema"),
        path("api/docs/", schema.DocsView.as_view(), name="docs"),
        path("api/docs/errors", schema.errors_page, name="docs-errors"),
    ]
