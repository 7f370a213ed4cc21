"""Every page of the console, every role: who may see it, and who may send to it. A new page needs its row here."""

import logging
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from django.contrib import admin
from django.db import transaction
from django.db.models import Model
from django.test import Client

from batches import queues
from integrations import snapshot
from tests.access.callers import ROLES, clients, rows
from tests.access.console_table import GET, PATHS, POST
from tests.access.routes import Route, routes

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_db")]

JOB: Final = "batch_phi3_0"
OTHERS: Final = ("queue_index", "scheduler_index", "connection_index", "content_type_id")


def console_routes() -> list[Route]:
    return [route for route in routes() if route.pattern.startswith("admin/")]


@pytest.fixture
def quiet(settings: Any) -> Iterator[None]:
    """Refusals are what is asked for here: not each of them in the log. No reading of every static file either."""
    settings.WHITENOISE_AUTOREFRESH = True
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def address(route: Route, made: dict[type[Model], Model]) -> str:
    """A path at which there is something to see."""
    values: dict[str, Any] = dict.fromkeys(OTHERS, 0) | {"job_id": JOB, "result_id": "x", "key": "x"}
    values |= {"scheduler_name": "x", "cron_job_name": "x", "object_id": 1, "id": 1, "pk": 1, "path": "x"}
    for model in admin.site._registry:
        own = f"admin/{model._meta.app_label}/{model._meta.model_name}/"
        if route.pattern.startswith(own) and model in made:
            values |= dict.fromkeys(("object_id", "id", "pk"), made[model].pk)
    return PATHS.get(route.name) or route.path(values)


def ask(client: Client, session: str, method: str, path: str) -> str:
    """The status, "login" for who is sent there; what the request changes in PostgreSQL is taken back."""
    client.cookies.clear()
    if session:
        client.cookies["sessionid"] = session
    queues.enqueue(JOB)  # in Redis, where nothing is taken back
    with transaction.atomic():
        answer = getattr(client, method)(path)
        transaction.set_rollback(True)
    return "login" if urlsplit(answer.headers.get("Location", "")).path == "/admin/login/" else str(answer.status_code)


def expected(table: dict[str, str]) -> dict[str, str]:
    return {name: statuses for statuses, names in table.items() for name in names.split()}


def test_every_page_has_its_row() -> None:
    names = {route.name for route in console_routes()}

    for table in (GET, POST):
        listed = [name for names in table.values() for name in names.split()]
        assert len(listed) == len(set(listed))
        assert names - set(listed) == set(), "say in tests/access/console_table.py who may open these pages"
        assert set(listed) - names == set(), "there are no such pages any more"


@pytest.mark.parametrize("method", ["get", "post"])
def test_each_role_may_do_what_it_is_for_and_no_more(quiet: None, method: str) -> None:
    made, who = rows(), clients()
    sessions = {role: who[role].cookies["sessionid"].value if role != "anonymous" else "" for role in ROLES}
    snapshot.load()
    table, wrong = expected({"get": GET, "post": POST}[method]), {}
    for route in console_routes():
        path = address(route, made)
        got = " ".join(ask(who[role], sessions[role], method, path) for role in ROLES)
        if got != table.get(route.name):
            wrong[route.name] = got
    assert wrong == {}
