"""Every address of the API, every method, every kind of key: who may do what. A new address needs its rows here."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import pytest
from django.db import transaction
from django.test import Client

from batches.models import BatchJob
from integrations import operations, snapshot
from integrations.models import ApiKey
from tests.access.routes import Route, routes
from tests.made_api import serve
from tests.made_batches import a_batch
from tests.made_files import a_file, a_file_batch
from tests.upstreams import Upstream

pytestmark = pytest.mark.usefixtures("records", "redis_db")

CALLERS: Final = ("nobody", "embed", "batch", "read", "operate", "all", "revoked", "unknown")
METHODS: Final = ("get", "post", "put", "patch", "delete", "options")
PUBLIC: Final = "200 200 200 200 200 200 200 200"
READ: Final = "401 403 403 200 403 200 401 401"
BATCH: Final = "401 403 200 403 200 200 401 401"
# Of files and their batches a client sees its own alone, whatever its scopes.
FILES: Final = "401 403 200 403 403 200 401 401"
NOT_FOUND: Final = "401 403 404 403 403 404 401 401"
OTHERS: Final = "401 403 404 403 200 200 401 401"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What CALLERS get, in their order, for one request to the address called `name`."""

    name: str
    expected: str
    method: str = "get"
    batch: str = "own-queued"
    body: Any = None
    kind: str = "application/json"
    query: str = ""
    values: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.name} {self.batch if self.name.startswith('batch-') else ''}{self.kind[12:]}"


ORDER: Final = {"input_file_id": "own-queued", "endpoint": "/v1/embeddings", "completion_window": "24h"}
FORM: Final = (
    b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{}\r\n--x--\r\n'
)
ROWS: Final = (
    Row(name="embed", method="post", body={"text": "a"}, expected="401 200 403 403 403 200 401 401"),
    Row(name="embed", method="post", body={"text": "a", "urgent": False}, expected="401 403 202 403 403 202 401 401"),
    Row(
        name="embed",
        method="post",
        body=b'{"text": "a"}\n',
        kind="application/x-ndjson",
        expected="401 403 202 403 403 202 401 401",
    ),
    Row(name="patterns-status", expected=READ),
    Row(name="patterns-metrics", expected=READ),
    Row(name="metrics", expected=READ),
    Row(name="batch-list", expected=BATCH),
    Row(name="batch-queue-status", expected=READ),
    Row(name="batch-detail", expected=BATCH),
    Row(name="batch-detail", batch="others-queued", expected=OTHERS),
    Row(name="batch-detail", batch="nobodys-queued", expected=OTHERS),
    Row(name="batch-detail", method="delete", expected=BATCH),
    Row(name="batch-detail", method="delete", batch="others-queued", expected=OTHERS),
    Row(name="batch-results", expected=BATCH),
    Row(name="batch-results", batch="others-queued", expected=OTHERS),
    Row(name="batch-cancel", method="post", expected=BATCH),
    Row(name="batch-cancel", method="post", batch="others-queued", expected=OTHERS),
    Row(name="batch-retry", method="post", batch="own-failed", expected=BATCH.replace("200", "202")),
    Row(name="batch-retry", method="post", batch="others-failed", expected=OTHERS.replace("200", "202")),
    Row(
        name="drill",
        method="post",
        body={"model": "m", "simulate_failure": False},
        expected="401 403 403 403 200 200 401 401",
    ),
    Row(
        name="openai-embeddings",
        method="post",
        body={"model": "m", "input": "a"},
        expected="401 200 403 403 403 200 401 401",
    ),
    Row(name="openai-models", expected=READ),
    Row(name="openai-model", expected=READ),
    Row(name="openai-files", expected=FILES),
    Row(name="openai-files", method="post", body=FORM, kind="multipart/form-data; boundary=x", expected=FILES),
    Row(name="openai-file", expected=FILES),
    Row(name="openai-file", batch="others", expected=NOT_FOUND),
    Row(name="openai-file", method="delete", batch="free", expected=FILES),
    Row(name="openai-file", method="delete", batch="others", expected=NOT_FOUND),
    Row(name="openai-file-content", expected=FILES),
    Row(name="openai-file-content", batch="others", expected=NOT_FOUND),
    Row(name="openai-batches", expected=FILES),
    Row(name="openai-batches", method="post", body=ORDER, expected=FILES),
    Row(name="openai-batches", method="post", body=ORDER | {"input_file_id": "others"}, expected=NOT_FOUND),
    Row(name="openai-batch", expected=FILES),
    Row(name="openai-batch", batch="others-queued", expected=NOT_FOUND),
    Row(name="openai-batch-cancel", method="post", expected=FILES),
    Row(name="openai-batch-cancel", method="post", batch="others-queued", expected=NOT_FOUND),
    Row(name="openai-batch-retry", method="post", batch="own-failed", expected=FILES),
    Row(name="openai-batch-retry", method="post", batch="others-failed", expected=NOT_FOUND),
    Row(name="health-live", expected=PUBLIC),
    Row(name="health-ready", expected=PUBLIC),
    Row(name="schema", query="?format=json", expected=PUBLIC),
    Row(name="docs", expected=PUBLIC),
    Row(name="docs-errors", expected=PUBLIC),
    Row(name="home", expected=PUBLIC.replace("200", "302")),
)
# Plain views that give any method the same page.
ANY_METHOD: Final = ("home", "docs-errors")


def api_routes() -> dict[str, Route]:
    return {route.name: route for route in routes() if not route.pattern.startswith("admin/")}


@pytest.fixture
def world(settings: Any) -> Iterator[dict[str, Client]]:
    """One client a caller; the model m live and queued; batches and files of team-a (ours), of team-z and of nobody."""
    settings.WHITENOISE_AUTOREFRESH = True
    logging.disable(logging.WARNING)
    with Upstream() as upstream:
        serve("m", "real_time hybrid", upstream)
        for owner, client in (("own", "team-a"), ("others", "team-z"), ("nobodys", "")):
            a_batch(batch_id=f"{owner}-queued", client=client)
            a_batch(batch_id=f"{owner}-failed", client=client, failed=3, state=BatchJob.State.FAILED)
            a_file_batch(f"{owner}-queued", client)
            parent = a_file_batch(f"{owner}-failed", client, state="completed")
            a_batch(batch_id=f"{owner}-of-file", client=client, failed=3, state="failed", file_batch=parent)
        for name, client in (("own-queued", "team-a"), ("free", "team-a"), ("others", "team-z")):
            a_file(name, client)
        yield {caller: Client(raise_request_exception=False, headers=_key(caller)) for caller in CALLERS}
    logging.disable(logging.NOTSET)


def _key(caller: str) -> dict[str, str]:
    if caller in ("nobody", "unknown"):
        key = "ck_nobody-ever-had-this" if caller == "unknown" else ""
    else:
        every = ("embed", "batch", "read", "operate")
        key = operations.create_key("team-a", [caller] if caller in every else every, actor="tests")
    if caller == "revoked":
        operations.revoke_keys([ApiKey.objects.latest("id").pk], actor="tests")
    snapshot.load()
    return {"Authorization": f"Bearer {key}"} if key else {}


def ask(client: Client, route: Route, row: Row) -> Any:
    """Ask as the row says; what that changes is taken back."""
    path = route.path({"batch_id": row.batch, "file_id": row.batch, "model": "m", **row.values}) + row.query
    body = row.body if isinstance(row.body, bytes) else orjson.dumps(row.body)
    given = {"data": body, "content_type": row.kind} if row.body is not None else {}
    with transaction.atomic():
        answer = getattr(client, row.method)(path, **given)
        if answer.streaming:
            b"".join(answer.streaming_content)
        transaction.set_rollback(True)
    return answer


def test_every_address_has_its_rows() -> None:
    missing = set(api_routes()) - {row.name for row in ROWS}

    assert missing == set(), "say in ROWS who may use these addresses"
    assert {row.name for row in ROWS} <= set(api_routes())


def test_each_caller_may_do_what_its_key_says_and_no_more(world: dict[str, Client]) -> None:
    found = api_routes()
    wrong = []
    for row in ROWS:
        got = " ".join(str(ask(world[caller], found[row.name], row).status_code) for caller in CALLERS)
        if got != row.expected:
            wrong.append(f"{row}: {got} instead of {row.expected}")
    assert wrong == []


def test_no_address_has_a_method_without_a_row(world: dict[str, Client]) -> None:
    rows = {(row.name, row.method) for row in ROWS}
    answered = []
    for route in api_routes().values():
        for method in METHODS:
            if (route.name, method) in rows or route.name in ANY_METHOD:
                continue
            row = Row(name=route.name, method=method, expected="")
            status = ask(world["all"], route, row).status_code
            if status != 405:
                answered.append(f"{row}: {status}")
    assert answered == []
