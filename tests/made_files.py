"""Batch files for tests: lines as OpenAI's documentation has them, and what came of them."""

import base64
import io
import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import numpy as np
from django.core.files.base import ContentFile
from openai import OpenAI
from openai.types import Batch

from batches import clock, file_store
from batches.models import FileBatch, StoredFile
from tests.processes import wait_until

ENDED = ("completed", "failed", "expired", "cancelled")


def a_line(custom_id: Any, text: Any, *, model: str = "m", body: dict[str, Any] | None = None, **fields: Any) -> bytes:
    """One line; `body` and `fields` say what is different."""
    whole = {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": model, "input": text, **(body or {})},
    }
    return json.dumps(whole | fields).encode() + b"\n"


def a_file(file_id: str, client: str = "team-a") -> StoredFile:
    """Store a file, in the storage too, under this very id."""
    row = file_store.add(ContentFile(a_line("a", "text")), client=client, filename="in.jsonl", kept=3600)
    row.file_id = file_id
    row.save()
    return row


def a_file_batch(
    batch_id: str, client: str = "team-a", *, input_file_id: str = "own-queued", **fields: Any
) -> FileBatch:
    """Store a batch's row, made just now."""
    now = clock.now()
    values = {"created_at": now, "available_at": now, "expires_at": now + timedelta(days=1)} | fields
    return FileBatch.objects.create(
        batch_id=batch_id,
        client=client,
        endpoint="/v1/embeddings",
        completion_window="24h",
        window_seconds=86_400,
        request_id="req-1",
        input_file_id=input_file_id,
        groups=[{"model": "m", "dimensions": None, "input_type": "", "job": "batch_m_1"}],
        **values,
    )


def upload(client: OpenAI, lines: Iterable[bytes], name: str = "in.jsonl") -> str:
    """Upload these lines; return the file's id."""
    return client.files.create(file=(name, io.BytesIO(b"".join(lines))), purpose="batch").id


def create(client: OpenAI, lines: Iterable[bytes], **options: Any) -> Batch:
    """Upload these lines and make a batch of them."""
    options = {"completion_window": "24h", "endpoint": "/v1/embeddings"} | options
    return client.batches.create(input_file_id=upload(client, lines), **options)


def ended(client: OpenAI, batch: Batch | str, seconds: float = 30) -> Batch:
    """Wait until a batch has ended; return it."""
    batch_id = batch if isinstance(batch, str) else batch.id
    wait_until(lambda: client.batches.retrieve(batch_id).status in ENDED, seconds, every=0.1)
    return client.batches.retrieve(batch_id)


def read(client: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output or error file; none where there is no file."""
    if file_id is None:
        return []
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def vectors(line: dict[str, Any]) -> list[list[float]]:
    """The vectors of a line of output, whichever form they have."""
    return [_floats(item["embedding"]) for item in line["response"]["body"]["data"]]


def _floats(embedding: str | list[float]) -> list[float]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), "<f4").tolist()  # type: ignore[no-any-return]
    return np.array(embedding, "<f4").tolist()  # type: ignore[no-any-return]
