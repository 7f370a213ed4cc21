"""The batch addresses, asked over Django's whole stack with real keys."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import orjson
import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.handlers.asgi import ASGIHandler
from django.db import connection, connections
from django.test import Client

from batches import clock
from batches.models import BatchChunk, BatchJob
from integrations import operations, snapshot
from tests.made_batches import State, a_batch, a_chunk, a_vector, at_once, configure, finish
from tests.postgres_proxy import PostgresProxy, connections_through

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_db")]

ROOT = "/api/v1/external/batch"


@pytest.fixture(autouse=True)
def model(db: None) -> None:
    configure()


def client_of(name: str = "team-a", *scopes: str) -> Client:
    key = operations.create_key(name, scopes or ("batch", "read"), actor="test")
    snapshot.load()
    return Client(headers={"Authorization": f"Bearer {key}"})


@pytest.fixture
def api(model: None) -> Client:
    return client_of()


def a_finished_batch(total: int = 7, size: int = 3, **fields: Any) -> BatchJob:
    """Texts t0, t1, …; the second one failed."""
    job = a_batch(total=total, **fields)
    for number, first in enumerate(range(0, total, size)):
        texts = [f"t{i}" for i in range(first, min(first + size, total))]
        finish(a_chunk(job, number=number, first=first, texts=texts), failed=[1] if number == 0 else [])
    job.refresh_from_db()
    return job


def code(response: Any) -> tuple[int, str]:
    assert response["Content-Type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


# --- One batch -------------------------------------------------------------------------------------------------------


def test_a_batch_says_where_it_stands(api: Client) -> None:
    a_batch(total=30)
    job = a_batch(client_metadata={"run": "7"}, input_type="query")
    body = api.get(f"{ROOT}/{job.batch_id}").json()
    assert body["batch_id"] == job.batch_id
    assert (body["status"], body["model"], body["pattern"]) == ("queued", "m", "bulk_only")
    assert body["counts"] == {"total": 3, "completed": 0, "failed": 0}
    assert (body["progress"], body["queue_position"]) == (0, 2)
    assert body["queued_at"] == job.queued_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert (body["released_at"], body["finished_at"]) == (None, None)
    assert body["metadata"]["client_metadata"] == {"run": "7"}
    assert body["metadata"] | {"input_type": "query", "request_id": "req-1", "batch_size": 3} == body["metadata"]


def test_progress_counts_each_text_with_an_outcome(api: Client) -> None:
    job = a_batch(total=8)
    finish(a_chunk(job, number=0, first=0, texts=["a", "b"]), failed=[0])
    body = api.get(f"{ROOT}/{job.batch_id}").json()
    assert (body["status"], body["progress"], body["queue_position"]) == ("processing", 0.25, None)
    assert body["counts"] == {"total": 8, "completed": 1, "failed": 1}


def test_another_clients_batch_is_not_found_by_any_method(api: Client) -> None:
    other = a_finished_batch(client="team-b")
    anonymous = a_finished_batch(client="")
    for batch_id in (other.batch_id, anonymous.batch_id, "batch_m_20250715_143000"):
        path = f"{ROOT}/{batch_id}"
        answers = [
            api.get(path),
            api.get(f"{path}/results"),
            api.post(f"{path}/cancel"),
            api.post(f"{path}/retry"),
            api.delete(path),
        ]
        assert [code(answer) for answer in answers] == [(404, "batch_not_found")] * 5
    assert api.get(ROOT).json()["batches"] == []
    assert BatchChunk.objects.count() == 6


def test_an_operator_sees_everybodys_batches() -> None:
    job = a_finished_batch(client="team-b")
    operator = client_of("ops", "operate")
    assert operator.get(f"{ROOT}/{job.batch_id}").status_code == 200
    assert len(operator.get(ROOT).json()["batches"]) == 1


def test_a_key_without_the_scope_may_not_ask() -> None:
    reader, worker = client_of("team-a", "read"), client_of("team-a", "batch")
    assert code(reader.get(ROOT)) == (403, "not_permitted")
    assert code(worker.get(f"{ROOT}/queue/status")) == (403, "not_permitted")
    assert code(Client().get(ROOT)) == (401, "not_authenticated")


def test_a_client_without_a_key_sees_what_was_submitted_without_one(settings: Any) -> None:
    settings.CITADEL_ANONYMOUS_SCOPES = ["batch"]
    mine, theirs = a_batch(client=""), a_batch()
    assert Client().get(f"{ROOT}/{mine.batch_id}").status_code == 200
    assert code(Client().get(f"{ROOT}/{theirs.batch_id}")) == (404, "batch_not_found")


# --- Acts ------------------------------------------------------------------------------------------------------------


def test_cancel_answers_the_cancelled_batch_and_then_a_conflict(api: Client) -> None:
    path = f"{ROOT}/{a_batch().batch_id}/cancel"
    body = api.post(path).json()
    assert (body["status"], body["queue_position"], body["estimated_completion"]) == ("cancelled", None, None)
    assert code(api.post(path)) == (409, "batch_not_cancellable")
    assert code(api.get(path)) == (405, "method_not_allowed")


def test_retry_queues_the_failed_texts_again(api: Client) -> None:
    job = a_finished_batch()
    path = f"{ROOT}/{job.batch_id}"
    response = api.post(f"{path}/retry")
    assert response.status_code == 202
    body = response.json()
    assert (body["status"], body["counts"]) == ("queued", {"total": 7, "completed": 6, "failed": 0})
    assert code(api.post(f"{path}/retry")) == (409, "batch_not_retryable")


def test_delete_leaves_the_record_and_no_vector(api: Client) -> None:
    job = a_finished_batch()
    path = f"{ROOT}/{job.batch_id}"
    assert api.delete(path).status_code == 200
    body = api.get(path).json()
    assert (body["status"], body["counts"]["completed"], body["purged_at"] is None) == ("completed", 6, False)
    page = api.get(f"{path}/results?limit=2").json()
    assert page["results"] == [{"index": 0, "status": "purged"}, {"index": 1, "status": "purged"}]
    assert page["total"] == 7
    assert api.delete(path).status_code == 200
    assert code(api.post(f"{path}/retry")) == (409, "batch_not_retryable")


# --- Results ---------------------------------------------------------------------------------------------------------


def test_pages_give_every_result_once_in_order(api: Client) -> None:
    job = a_finished_batch()
    path, rows = f"{ROOT}/{job.batch_id}/results?limit=2", []
    while path:
        page = api.get(path).json()
        assert page["total"] == 7
        assert len(page["results"]) <= 2
        rows += page["results"]
        path = page["next"]
    assert [row["index"] for row in rows] == list(range(7))
    assert [row["status"] for row in rows] == ["completed", "failed", *["completed"] * 5]
    source = {"endpoint": "http://127.0.0.1:11400", "upstream_model": "test-model"}
    assert (
        rows[1] == {"index": 1, "status": "failed", "error": {"code": "text_rejected", "detail": "too long"}} | source
    )
    for row in rows[2:]:
        assert row == {"index": row["index"], "status": "completed", "embedding": a_vector(f"t{row['index']}")} | source


def test_vectors_are_printed_as_the_shortest_float32(api: Client) -> None:
    job = a_finished_batch()
    content = api.get(f"{ROOT}/{job.batch_id}/results?offset=3&limit=1").content
    printed = ",".join(map(str, a_vector("t3")))
    assert f'"embedding":[{printed}]'.encode() in content


def test_results_are_readable_while_the_batch_is_in_work(api: Client) -> None:
    job = a_batch(total=4)
    finish(a_chunk(job, number=0, first=0, texts=["a", "b"]))
    a_chunk(job, number=1, first=2, texts=["c", "d"])
    rows = api.get(f"{ROOT}/{job.batch_id}/results").json()["results"]
    assert [row["status"] for row in rows] == ["completed", "completed", "pending", "pending"]
    assert rows[2] == {"index": 2, "status": "pending"}


@pytest.mark.parametrize("query", ["offset=-1", "limit=0", "limit=1001", "limit=x", "offset=99999999999999999999"])
def test_a_wrong_page_is_refused_with_its_field(api: Client, query: str) -> None:
    response = api.get(f"{ROOT}/{a_finished_batch().batch_id}/results?{query}")
    assert code(response) == (400, "invalid_request")
    assert list(response.json()["errors"]) == [query.partition("=")[0]]


def test_a_page_beyond_the_end_is_empty(api: Client) -> None:
    page = api.get(f"{ROOT}/{a_finished_batch().batch_id}/results?offset=7").json()
    assert page == {"results": [], "total": 7, "next": None}


def test_ndjson_gives_the_same_results_one_a_line(api: Client) -> None:
    job = a_finished_batch(total=31, size=3)
    path = f"{ROOT}/{job.batch_id}/results"
    response = api.get(path, headers={"Accept": "application/x-ndjson"})
    assert response["Content-Type"] == "application/x-ndjson"
    lines = b"".join(response.streaming_content).splitlines()  # type: ignore[attr-defined]  # a stream
    assert [orjson.loads(line) for line in lines] == api.get(path).json()["results"]


def test_a_batch_purged_under_a_stream_says_so_for_the_rest() -> None:
    job = a_finished_batch(total=60, size=3)
    stream = iter(client_of().get(f"{ROOT}/{job.batch_id}/results", headers={"Accept": "application/x-ndjson"}))
    rows = [orjson.loads(line) for line in next(stream).splitlines()]
    BatchChunk.objects.all().delete()
    rows += [orjson.loads(line) for block in stream for line in block.splitlines()]
    assert [row["index"] for row in rows] == list(range(60))
    assert {row["status"] for row in rows[:24]} == {"completed", "failed"}
    assert {row["status"] for row in rows[24:]} == {"purged"}


@pytest.fixture
def connections_end_with_their_request() -> Iterator[None]:
    """Under ASGI each request has a thread of its own, and so a connection of its own: a kept one serves nobody."""
    options = connections.settings["default"]
    kept, options["CONN_MAX_AGE"] = options["CONN_MAX_AGE"], 0
    yield
    options["CONN_MAX_AGE"] = kept


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("connections_end_with_their_request")
def test_an_asgi_server_sends_ndjson_block_by_block() -> None:
    """Django collects a synchronous iterator whole before it sends the first byte; then there would be one block."""
    job = a_finished_batch(total=60, size=3)
    key = operations.create_key("team-a", ["batch"], actor="test")
    snapshot.load()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": f"{ROOT}/{job.batch_id}/results",
        "query_string": b"",
        "headers": [
            (b"host", b"localhost"),
            (b"accept", b"application/x-ndjson"),
            (b"authorization", f"Bearer {key}".encode()),
        ],
    }

    async def ask() -> list[bytes]:
        talk = ApplicationCommunicator(ASGIHandler(), scope)
        await talk.send_input({"type": "http.request", "body": b"", "more_body": False})
        start = await talk.receive_output(10)
        assert start["status"] == 200
        bodies = []
        while True:
            event = await talk.receive_output(10)
            bodies.append(event.get("body", b""))
            if not event.get("more_body"):
                await talk.wait(10)
                return bodies

    bodies = [body for body in asyncio.run(ask()) if body]
    assert len(bodies) == 3  # 20 chunks, eight in a block
    assert [orjson.loads(line)["index"] for line in b"".join(bodies).splitlines()] == list(range(60))


# --- The list --------------------------------------------------------------------------------------------------------


def test_the_list_pages_through_all_batches_the_newest_first(api: Client) -> None:
    ids = [a_batch().batch_id for _ in range(5)]
    path, found, pages = f"{ROOT}?limit=2", [], 0
    while path:
        page = api.get(path).json()
        found += [batch["batch_id"] for batch in page["batches"]]
        path, pages = page["next"], pages + 1
        a_batch()  # what comes meanwhile moves no page
    assert (found, pages) == (ids[::-1], 3)


def test_the_list_filters(api: Client) -> None:
    old = a_batch(age=3600)
    failed = a_batch(state=State.FAILED)
    other = a_batch("other")
    hour_ago = (clock.now() - timedelta(minutes=30)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def ids(query: str) -> set[str]:
        return {batch["batch_id"] for batch in api.get(f"{ROOT}?{query}").json()["batches"]}

    assert ids("model=other") == {other.batch_id}
    assert ids("state=failed") == {failed.batch_id}
    assert ids(f"created_before={hour_ago}") == {old.batch_id}
    assert ids(f"created_after={hour_ago}&model=m") == {failed.batch_id}


@pytest.mark.parametrize("query", ["state=done", "cursor=batch_m_9", "created_after=yesterday", "limit=0", "model=%00"])
def test_a_wrong_filter_is_refused_with_its_field(api: Client, query: str) -> None:
    response = api.get(f"{ROOT}?{query}")
    assert code(response) == (400, "invalid_request")
    assert list(response.json()["errors"]) == [query.partition("=")[0]]


# --- The queue -------------------------------------------------------------------------------------------------------


def test_the_queue_status_counts_as_the_contract_says(api: Client) -> None:
    configure("h", pattern="hybrid", max_waiting_texts=50)
    configure("live", pattern="real_time")
    now = clock.now()
    a_batch(total=10, age=100)
    a_batch("h", total=5, age=50)
    a_batch("h", total=10, completed=4, state=State.PROCESSING, started_at=now - timedelta(seconds=1))
    ended = {"started_at": now - timedelta(seconds=30), "finished_at": now - timedelta(seconds=10)}
    a_batch(total=100, completed=98, failed=2, state=State.COMPLETED, estimated_completion=now, **ended)
    a_batch(total=100, failed=100, state=State.FAILED, **ended)
    a_batch(total=7, state=State.CANCELLED, **ended)
    a_batch(total=7, state=State.EXPIRED, **ended)
    a_batch(total=7, completed=7, state=State.COMPLETED, finished_at=now - timedelta(days=2))
    body = api.get(f"{ROOT}/queue/status").json()
    assert body["queue_status"] == {
        "total_jobs": 5,
        "pending_jobs": 2,
        "processing_jobs": 1,
        "completed_jobs": 1,
        "failed_jobs": 1,
        "cancelled_jobs": 1,
        "expired_jobs": 1,
    }
    stats = body["processing_stats"]
    assert (stats["avg_processing_time_seconds"], stats["success_rate"]) == (20.0, 49.0)
    assert stats["estimate_error_median_seconds"] == 10.0
    # 200 texts in the same 20 s, and 4 more in about 1 s.
    assert 500 < stats["items_per_minute"] < 600
    assert body["model_queues"] == {"m": {"pending": 1, "processing": 0}, "h": {"pending": 1, "processing": 1}}
    assert body["limits"]["h"] == {"waiting_texts": 11, "max_waiting_texts": 50}
    assert 100 <= body["oldest_pending_seconds"] < 160
    assert body["window_seconds"] == 86400


def test_the_queue_status_without_data_has_no_rates(api: Client) -> None:
    a_batch(total=7, completed=7, state=State.COMPLETED, finished_at=clock.now() - timedelta(seconds=20))
    body = api.get(f"{ROOT}/queue/status?window=10s").json()
    assert set(body["processing_stats"].values()) == {None}
    assert (body["queue_status"]["total_jobs"], body["oldest_pending_seconds"], body["window_seconds"]) == (0, None, 10)


@pytest.mark.parametrize("window", ["0", "x", "-5m", "91d", "5w", ""])
def test_a_wrong_window_is_refused(api: Client, window: str) -> None:
    response = api.get(f"{ROOT}/queue/status?window={window}")
    assert code(response) == (400, "invalid_request")
    assert list(response.json()["errors"]) == ["window"]


@pytest.mark.django_db(transaction=True)
def test_a_database_that_goes_away_is_said_to_be(api: Client) -> None:
    with PostgresProxy(connection.settings_dict) as proxy, connections_through(proxy):
        proxy.swallow_before(b"batches_batchjob")
        (response,) = at_once(lambda: api.get(ROOT))
    assert code(response) == (503, "queue_unavailable")
    assert response["Retry-After"] == "5"
