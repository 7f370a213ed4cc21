"""The composition root: which handler answers which address.

`integrations` knows nothing of the queue; what its views need of it is handed to them here.
"""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView

from batches import backlog, heartbeats
from batches.counts import counts_by_model
from batches.lifecycle import cancel
from batches.patterns import bulk, hybrid
from batches.submission import submit, submit_lines
from citadel.console.urls import console_urls
from integrations.api.status import status_urls
from integrations.api.urls import api_urls
from integrations.live import real_time
from integrations.patterns import Accepted, EmbedCall, Pattern

handler400 = "integrations.api.problems.handler400"
handler403 = "integrations.api.problems.handler403"
handler404 = "integrations.api.problems.handler404"
handler500 = "integrations.api.problems.handler500"


def queue_takeover(call: EmbedCall) -> Accepted:
    """What a drill asks of the queue: a real batch, cancelled at once."""
    accepted = submit(call)
    cancel(accepted.batch_id)
    return accepted


urlpatterns: list[URLPattern | URLResolver] = [
    path("", RedirectView.as_view(url="/admin/"), name="home"),
    *console_urls(),
    path("admin/", admin.site.urls),
    *status_urls(counts_by_model, queue=backlog.present),
    path("api/v1/external/", include("batches.api.urls")),
    path("v1/", include("integrations.openai_door.urls")),
    path("v1/", include("batches.openai_door.urls")),
    *api_urls(
        handlers={Pattern.REAL_TIME: real_time, Pattern.HYBRID: hybrid, Pattern.BULK_ONLY: bulk},
        lines_handler=submit_lines,
        workers_alive=heartbeats.workers_alive,
        queue_takeover=queue_takeover,
    ),
]
