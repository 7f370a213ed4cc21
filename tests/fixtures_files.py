"""Files and their batches over Django's whole stack, the clerk's and the workers' parts taken by the test itself."""

import json
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from batches.models import BatchChunk, BatchJob
from integrations import operations, snapshot
from tests.made_batches import configure, finish
from tests.made_files import a_line

FILES, BATCHES = "/v1/files", "/v1/batches"


@pytest.fixture
def file_api(records: None, redis_db: object, settings: Any) -> Client:
    """A client of the API that may make batches; there are the models m (bulk_only), n (hybrid) and live."""
    settings.WHITENOISE_AUTOREFRESH = True
    configure("m")
    configure("n", pattern="hybrid")
    configure("live", pattern="real_time")
    return client_of()


def client_of(name: str = "team-a", **fields: Any) -> Client:
    """A client that shows a key of its own for batches, with these fields."""
    key = operations.create_key(name, ("batch",), actor="test", **fields)
    snapshot.load()
    return Client(headers={"Authorization": f"Bearer {key}"})


def upload(api: Client, *lines: bytes, **fields: Any) -> str:
    """Upload these lines; return the file's id."""
    content = SimpleUploadedFile("in.jsonl", b"".join(lines))
    answer = api.post(FILES, {"file": content, "purpose": "batch", **fields})
    assert answer.status_code == 200, answer.content
    return str(answer.json()["id"])


def order(file_id: str, **fields: Any) -> bytes:
    """The body that orders a batch of this file."""
    whole = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    return json.dumps(whole | fields).encode()


def create(api: Client, *lines: bytes, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    """Upload these lines and make a batch of them; return it."""
    body = order(upload(api, *lines), **fields)
    answer = api.post(BATCHES, body, content_type="application/json", headers=headers or {})
    assert answer.status_code == 200, answer.content
    return answer.json()  # type: ignore[no-any-return]


def get(api: Client, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch as it is now."""
    return api.get(f"{BATCHES}/{batch['id']}").json()  # type: ignore[no-any-return]


def post(api: Client, batch: dict[str, Any], verb: str) -> Any:
    """The answer to this verb: cancel or retry."""
    return api.post(f"{BATCHES}/{batch['id']}/{verb}")


def content(api: Client, file_id: str | None) -> dict[str, Any]:
    """The lines of a file by custom_id, in order; none where there is no file."""
    if file_id is None:
        return {}
    answer = api.get(f"{FILES}/{file_id}/content")
    lines = b"".join(answer.streaming_content).splitlines()  # type: ignore[attr-defined]
    return {line["custom_id"]: line for line in map(json.loads, lines)}


def error(answer: Any) -> tuple[int, str, str | None]:
    """Status, code and param of a refusal in OpenAI's shape."""
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["param"]


def released(batch: dict[str, Any]) -> list[BatchJob]:
    """The queue's batches that were made of this one."""
    return list(BatchJob.objects.filter(file_batch__batch_id=batch["id"]).order_by("id"))


def work(batch: dict[str, Any], *failing: str) -> None:
    """Do what workers do: each text gets its vector, those named an error."""
    for chunk in BatchChunk.objects.filter(batch__file_batch__batch_id=batch["id"], state="waiting"):
        finish(chunk, failed=[p for p in chunk.pending_positions() if chunk.texts[p] in failing])


LINES = (
    a_line("a", "one"),
    a_line("b", ["two", "three"], model="n"),
    a_line("c", "four", body={"input_type": "query"}),
    a_line("d", "five"),
)
