"""POST …/embed through Django alone, without the live door: what queued work and plain servers get."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.db import connections

from batches.models import BatchJob
from tests.made_api import ALL_SCOPES, Api, problem, serve
from tests.made_batches import texts_of
from tests.spec_shape import SPEC, differences
from tests.upstreams import Upstream, vector_of

pytestmark = pytest.mark.usefixtures("records", "redis_db")

SAME = ("status", "model", "pattern", "processing_mode", "pattern_type", "urgent", "batch_size", "items_count")
NDJSON = "application/x-ndjson"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(protocol="ollama") as server:
        yield server


@pytest.fixture
def api(upstream: Upstream, transactional_db: None) -> Api:
    serve("phi3", "real_time", upstream)
    serve("hermes", "hybrid", upstream)
    serve("mixtral", "bulk_only", upstream)
    return Api(*ALL_SCOPES)


def test_a_text_comes_back_as_its_own_vector_in_the_promised_document(api: Api, upstream: Upstream) -> None:
    answer = api.embed("phi3", text="test embedding", urgent=True)

    assert answer.status_code == 200
    body = orjson.loads(answer.content)
    promised = SPEC["real_time"] | {"endpoint": upstream.url}
    assert differences(promised, body, same=(*SAME, "endpoint")) == []
    assert np.allclose(body["embedding"], vector_of("test embedding", upstream.dimensions), atol=1e-6)
    assert body["metadata"]["request_id"] == answer.headers["X-Request-ID"]


def test_several_texts_come_back_in_their_order(api: Api, upstream: Upstream) -> None:
    texts = [f"text {i}" for i in range(20)]

    body = orjson.loads(api.embed("phi3", texts=texts).content)

    assert np.allclose(body["embeddings"], [vector_of(t, upstream.dimensions) for t in texts], atol=1e-6)


def test_hybrid_answers_urgent_work_live_and_queues_the_rest(api: Api) -> None:
    live = api.embed("hermes", text="test embedding", urgent=True)
    queued = api.embed("hermes", text="test embedding", urgent=False)

    assert (live.status_code, queued.status_code) == (200, 202)
    assert differences(SPEC["hybrid_live"], orjson.loads(live.content), same=SAME) == []
    assert differences(SPEC["hybrid_queued"], orjson.loads(queued.content), same=SAME) == []


def test_bulk_stores_the_texts_and_says_where_to_ask_for_them(api: Api) -> None:
    answer = api.embed("mixtral", texts=["text1", "text2", "text3"], batch=True)

    assert answer.status_code == 202
    body = orjson.loads(answer.content)
    assert differences(SPEC["bulk"], body, same=SAME) == []
    assert answer.headers["Location"] == f"/api/v1/external/batch/{body['batch_id']}"
    assert texts_of(body["batch_id"]) == ["text1", "text2", "text3"]
    assert BatchJob.objects.get().client == "team-a"


def test_the_same_idempotency_key_answers_the_first_batch(api: Api) -> None:
    answers = [
        orjson.loads(api.raw("mixtral", b'{"text": "a"}', **{"Idempotency-Key": "k-1"}).content) for _ in range(2)
    ]

    assert answers[0]["batch_id"] == answers[1]["batch_id"]
    assert BatchJob.objects.count() == 1


# --- NDJSON ---


def test_lines_are_stored_with_the_fields_of_the_query(api: Api) -> None:
    body = b'{"text": "a"}\n\n{"text": "\xc3\xa4"}\r\n{"text": "c"}'

    answer = api.raw("mixtral", body, kind=f"{NDJSON}; charset=utf-8", query='?priority=9&client_metadata={"a":"b"}')

    assert answer.status_code == 202, answer.content
    job = BatchJob.objects.get()
    assert (job.priority, job.client_metadata, job.total) == (9, {"a": "b"}, 3)
    assert texts_of(job.batch_id) == ["a", "ä", "c"]


def test_json_may_be_named_in_any_case_and_accept_does_not_matter(api: Api) -> None:
    answer = api.raw("phi3", b'{"text": "a"}', kind="Application/JSON; charset=UTF-8", Accept="text/html")

    assert answer.status_code == 200


# --- scopes ---


def test_live_work_needs_embed_and_queued_work_needs_batch(api: Api) -> None:
    embeds, queues, reads = Api("embed"), Api("batch"), Api("read")

    assert embeds.embed("phi3", text="a").status_code == 200
    assert queues.embed("mixtral", text="a").status_code == 202
    for answer in (
        embeds.embed("mixtral", text="a"),
        embeds.raw("mixtral", b'{"text": "a"}\n', kind=NDJSON),
        queues.embed("phi3", text="a"),
        reads.embed("phi3", text="a"),
    ):
        assert problem(answer)["code"] == "not_permitted"
    assert problem(Api().embed("phi3", text="a"))["code"] == "not_authenticated"


def test_hybrid_falls_back_to_the_queue_only_for_those_who_may_queue(api: Api, upstream: Upstream) -> None:
    upstream.status(500)

    assert problem(Api("embed").embed("hermes", text="a"))["code"] == "upstream_failed"
    assert not BatchJob.objects.exists()
    assert Api("embed", "batch", name="team-b").embed("hermes", text="a").status_code == 202


def test_retryable_errors_say_when_to_come_back(api: Api, upstream: Upstream) -> None:
    upstream.status(429, headers={"Retry-After": "7"})

    answer = api.embed("phi3", text="a")

    assert problem(answer)["code"] == "overloaded"
    assert answer.headers["Retry-After"] == "7"


# --- behind the door ---


def asgi(scope: dict[str, Any], body: bytes) -> tuple[int, dict[str, str], Any]:
    """What Django's own ASGI application answers to this scope."""

    async def exchange() -> tuple[Any, Any]:
        application = ApplicationCommunicator(get_asgi_application(), scope)
        await application.send_input({"type": "http.request", "body": body})
        start, content = await application.receive_output(10), await application.receive_output(10)
        await application.wait(10)
        return start, content

    start, content = asyncio.run(exchange())
    headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, orjson.loads(content["body"])


def a_scope(api: Api, model: str, **more: Any) -> dict[str, Any]:
    key = api.http.defaults["HTTP_AUTHORIZATION"]
    headers = {"host": "localhost", "content-type": "application/json", "authorization": key}
    return {
        "type": "http",
        "method": "POST",
        "path": f"/api/v1/external/{model}/embed",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        **more,
    }


@pytest.fixture
def connections_of_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ASGI each request has a thread of its own: a connection kept longer would never be used or closed."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 0)


@pytest.mark.usefixtures("connections_of_one_request")
def test_what_the_door_has_tried_live_in_vain_goes_to_the_queue_untried(api: Api, upstream: Upstream) -> None:
    scope = a_scope(api, "hermes", **{"citadel.live_failed": True, "citadel.request_id": "from-the-door"})

    status, headers, body = asgi(scope, b'{"text": "a", "urgent": true}')

    assert (status, body["metadata"]["urgent"]) == (202, True)
    assert headers["x-request-id"] == body["metadata"]["request_id"] == "from-the-door"
    assert upstream.calls == 0


@pytest.mark.usefixtures("connections_of_one_request")
def test_a_body_of_unknown_length_is_read_to_its_end(api: Api) -> None:
    status, _, body = asgi(a_scope(api, "phi3"), b'{"text": "a"}')  # no Content-Length, as when it comes chunked

    assert status == 200, body
