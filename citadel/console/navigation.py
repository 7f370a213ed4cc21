"""The sidebar: what operators look at most comes first. An entry is shown to those who may see its page."""

from collections.abc import Callable, Mapping
from typing import Any

from django.http import HttpRequest
from django.urls import reverse_lazy

Item = Mapping[str, Any]


def _may(permission: str) -> Callable[[HttpRequest], bool]:
    return lambda request: request.user.has_perm(permission)


def _page(title: str, icon: str, app: str, model: str) -> Item:
    """The list of one table."""
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{app}_{model}_changelist"),
        "permission": _may(f"{app}.view_{model}"),
    }


NAVIGATION: tuple[Mapping[str, Any], ...] = (
    {
        "items": (
            {"title": "Dashboard", "icon": "monitoring", "link": reverse_lazy("admin:index")},
            _page("Models", "deployed_code", "integrations", "modelconfig"),
            {
                "title": "Breakers",
                "icon": "electric_bolt",
                "link": reverse_lazy("breakers"),
                "permission": _may("integrations.view_endpoint"),
            },
            _page("Canaries", "raven", "integrations", "canary"),
        ),
    },
    {
        "title": "Queue",
        "separator": True,
        "items": (
            _page("Batches", "stacks", "batches", "batchjob"),
            _page("File batches", "upload_file", "batches", "filebatch"),
            _page("Files", "draft", "batches", "storedfile"),
            {
                "title": "Queue and workers",
                "icon": "engineering",
                "link": reverse_lazy("admin:batches_queue"),
                "permission": _may("batches.view_batchjob"),
            },
        ),
    },
    {
        "title": "Records",
        "separator": True,
        "items": (
            _page("Calls", "call_log", "integrations", "callrecord"),
            _page("Transitions", "timeline", "integrations", "breakerevent"),
            _page("Audit", "history_edu", "integrations", "auditentry"),
        ),
    },
    {
        "title": "Access",
        "separator": True,
        "items": (
            _page("API keys", "key", "integrations", "apikey"),
            _page("Users", "person", "auth", "user"),
            _page("Groups", "group", "auth", "group"),
        ),
    },
)
