"""The queue in the admin: what waits for which model, and who works on it."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from batches import clock, heartbeats, queues, waiting
from batches.models import WorkerHeartbeat
from integrations.admin_base import ReadOnlyAdmin, time_column


@admin.register(WorkerHeartbeat)
class WorkerHeartbeatAdmin(ReadOnlyAdmin):
    """Workers and schedulers, as they last said they were alive; and the page of the queue."""

    list_display = ("name", "kind", "host", "pid", time_column("started_at"), time_column("seen_at"), "batch_id")
    list_filter = ("kind",)
    ordering = ("-seen_at",)

    def get_urls(self) -> list[URLPattern]:
        """Django's, and those of the queue's page."""
        wrap = self.admin_site.admin_view
        own = [
            path("queue/", wrap(self.queue_view), name="batches_queue"),
            path("queue/live/", wrap(self.live_view), name="batches_queue_live"),
        ]
        return [*own, *super().get_urls()]

    def queue_view(self, request: HttpRequest) -> HttpResponse:
        """Show the queue."""
        context = {**self.admin_site.each_context(request), **_shown(request), "title": "Queue"}
        return TemplateResponse(request, "admin/batches/queue.html", context)

    def live_view(self, request: HttpRequest) -> HttpResponse:
        """Answer the live part of that page."""
        return TemplateResponse(request, "admin/batches/queue_live.html", _shown(request))


def _shown(request: HttpRequest) -> dict[str, Any]:
    if not request.user.has_perm("batches.view_batchjob"):
        raise PermissionDenied
    now, limit = clock.now(), heartbeats.alive_within()
    processes: list[dict[str, Any]] = [
        {"beat": beat, "alive": (now - beat.seen_at).total_seconds() < limit}
        for beat in WorkerHeartbeat.objects.order_by("-kind", "name")
    ]
    alive = {process["beat"].kind for process in processes if process["alive"]}
    return {
        "models": waiting.by_model(),
        "processes": processes,
        "workers_alive": heartbeats.WORKER in alive,
        "schedulers_alive": heartbeats.SCHEDULER in alive,
        "lists": queues.lengths(),
        "rq_url": reverse("admin:django_rq_dashboard_changelist"),
    }
