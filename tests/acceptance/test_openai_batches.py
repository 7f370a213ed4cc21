"""OpenAI's own client of today over files and batches, against real processes that are killed on the way."""

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import openai
import pytest
from django.db import connection
from openai import OpenAI
from openai.types import Batch

from batches.models import BatchChunk, BatchJob, FileBatch, StoredFile
from integrations import operations, snapshot
from integrations.models import Endpoint
from tests.made_api import serve
from tests.made_files import a_line, create, ended, read, upload, vectors
from tests.made_openai import Clients, a_key, clients
from tests.processes import Process, Stack, wait_until
from tests.upstreams import Upstream, vector_of

CHUNK, IN_FLIGHT = 10, 4
# Calls of a killed worker that are made again: those under way, and those that came back and were not stored yet.
AT_STAKE = 2 * IN_FLIGHT
# Lines that take so long to read and to write that a kill comes in between.
LARGE = 8_000


@dataclass(frozen=True, kw_only=True)
class House:
    """A running Citadel: models m and large (bulk_only), n (hybrid), all at `upstream`, and sized, at `sized`."""

    clients: Clients
    stack: Stack
    upstream: Upstream
    sized: Upstream
    scheduler: Process
    worker: Process

    @property
    def client(self) -> OpenAI:
        return self.clients.plain


@pytest.fixture
def house(stack: Stack) -> Iterator[House]:
    stack.common.update(CHUNK_LEASE="3", WORKER_HEARTBEAT_INTERVAL="0.5")
    with Upstream() as upstream, Upstream("openai") as sized:
        serve("m", "bulk_only", upstream, batch_size=CHUNK)
        Endpoint.objects.update(max_in_flight=IN_FLIGHT)
        serve("n", "hybrid", upstream, batch_size=CHUNK)
        serve("large", "bulk_only", upstream, batch_size=1000)
        serve("sized", "bulk_only", sized, batch_size=CHUNK)
        key = a_key()
        with clients(stack.web()[1], key) as made:
            yield House(
                clients=made,
                stack=stack,
                upstream=upstream,
                sized=sized,
                scheduler=stack.scheduler(),
                worker=stack.worker(),
            )


def right(text: str) -> list[float]:
    return [float(x) for x in vector_of(text, 8)]


def test_the_stock_clients_have_files_embedded_from_upload_to_delete(house: House) -> None:
    client = house.client
    house.upstream.poison("too long")
    lines = [
        a_line("a", "one", body={"encoding_format": "base64"}),
        a_line("b", ["two", "three"], model="n"),
        b"\n",
        a_line("c", "too long"),
        a_line("d", "four", body={"encoding_format": "float"}),
    ]
    batch = create(client, lines, metadata={"job": "nightly"}, completion_window="90m")
    assert (batch.status, batch.object, batch.endpoint) == ("validating", "batch", "/v1/embeddings")
    assert (batch.expires_at or 0) - batch.created_at == 90 * 60

    batch = ended(client, batch)

    assert (batch.status, batch.metadata) == ("completed", {"job": "nightly"})
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 4, "completed": 3, "failed": 1}
    output = {line["custom_id"]: vectors(line) for line in read(client, batch.output_file_id)}
    assert output == {"a": [right("one")], "b": [right("two"), right("three")], "d": [right("four")]}
    (failed,) = read(client, batch.error_file_id)
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("c", 400)

    house.upstream.clear()
    again = client.post(f"/batches/{batch.id}/retry", cast_to=Batch)
    assert again.status == "in_progress"
    batch = ended(client, again)
    assert [line["custom_id"] for line in read(client, batch.output_file_id)] == ["a", "b", "c", "d"]
    assert house.upstream.embedded["one"] == house.upstream.embedded["two"] == 1

    assert [b.id for b in client.batches.list()] == [batch.id]
    assert {f.purpose for f in client.files.list()} == {"batch", "batch_output"}
    assert client.files.retrieve(batch.input_file_id).filename == "in.jsonl"
    with pytest.raises(openai.ConflictError, match="completed already"):
        client.batches.cancel(batch.id)
    short = client.files.create(
        file=io.BytesIO(b"{}"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert (short.expires_at or 0) - short.created_at == 7200
    assert short.filename == "upload"
    for file in client.files.list():
        assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(batch.input_file_id)

    the_asynchronous_client_works_on_several_batches_at_once(house)
    dimensions_go_to_the_server_and_those_it_does_not_give_fail_alone(house)
    the_client_hears_of_a_wrong_file_and_of_a_cancel(house)
    the_client_is_told_how_long_its_limit_lasts(house)


def the_asynchronous_client_works_on_several_batches_at_once(house: House) -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> list[float]:
        content = io.BytesIO(a_line("x", f"text {number}", model="mn"[number % 2]))
        file = await client.files.create(file=("in.jsonl", content), purpose="batch")
        batch = await client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        while batch.status not in ("completed", "failed"):
            await asyncio.sleep(0.1)
            batch = await client.batches.retrieve(batch.id)
        assert batch.output_file_id is not None, batch
        (line,) = (await client.files.content(batch.output_file_id)).text.splitlines()
        return vectors(json.loads(line))[0]

    async def all_of_them() -> list[list[float]]:
        async with house.clients.asynchronous() as client:
            return await asyncio.wait_for(asyncio.gather(*(one(client, n) for n in range(6))), 60)

    assert asyncio.run(all_of_them()) == [right(f"text {n}") for n in range(6)]


def test_processes_killed_on_the_way_cost_no_text_and_nearly_none_twice(house: House) -> None:
    # Meanwhile another client is over its limit, and gets its answer in the next minute.
    with ThreadPoolExecutor(1) as pool:
        limited = pool.submit(the_client_waits_for_its_limit_and_asks_again_by_itself, house)
        a_killed_worker_costs_no_text(house)
        assert limited.result() == "1"


def the_client_waits_for_its_limit_and_asks_again_by_itself(house: House) -> str:
    """How often the client had asked before it got the first answer that its limit kept it waiting for."""
    try:
        key = operations.create_key("team-c", ["embed", "read"], actor="tests", requests_per_minute=1)
        snapshot.bump()
    finally:
        connection.close()
    client = house.clients.one(key=key, max_retries=1)
    wait_until(lambda: _known(client.models.list), 10)
    for _ in range(3):  # the second, unless a minute begins between the two
        answer = client.embeddings.with_raw_response.create(model="n", input="limited")
        retries = answer.http_request.headers["x-stainless-retry-count"]
        if retries != "0":
            break
    assert len(answer.parse().data) == 1
    return retries


def a_killed_worker_costs_no_text(house: House) -> None:
    house.upstream.delay = 0.1
    texts = [f"text {number}" for number in range(400)]
    batch = create(house.client, [a_line(str(n), text) for n, text in enumerate(texts)])
    wait_until(lambda: BatchChunk.objects.filter(state="done").count() >= 8, 30)

    house.worker.kill()
    house.scheduler.kill()

    assert BatchChunk.objects.filter(state="done").count() < len(texts) / CHUNK
    scheduler, worker = house.stack.scheduler(), house.stack.worker()
    batch = ended(house.client, batch, seconds=60)
    assert (batch.status, batch.error_file_id) == ("completed", None), worker.tail()
    output = read(house.client, batch.output_file_id)
    assert [(line["custom_id"], vectors(line)[0]) for line in output] == [
        (str(n), right(text)) for n, text in enumerate(texts)
    ]
    assert sum(count - 1 for count in house.upstream.texts.values()) <= AT_STAKE * CHUNK
    house.upstream.delay = 0
    a_scheduler_killed_while_it_reads_or_writes_a_file_leaves_it_to_the_next(house, scheduler)


def a_scheduler_killed_while_it_reads_or_writes_a_file_leaves_it_to_the_next(house: House, first: Process) -> None:
    jobs, outputs = BatchJob.objects.count(), StoredFile.objects.filter(state="ready", purpose="batch_output")
    before = outputs.count()
    batch = create(house.client, [a_line(str(n), f"more {n}", model="large") for n in range(LARGE)])
    held = FileBatch.objects.filter(batch_id=batch.id, lease_token__isnull=False)
    wait_until(lambda: held.filter(state="validating").exists(), 30, every=0.002)
    first.kill()
    assert house.client.batches.retrieve(batch.id).status == "validating"
    assert BatchJob.objects.count() == jobs

    second = house.stack.scheduler()
    wait_until(lambda: held.filter(state="finalizing").exists(), 60, every=0.002)
    second.kill()
    assert house.client.batches.retrieve(batch.id).status == "finalizing"
    house.stack.scheduler()

    batch = ended(house.client, batch, seconds=60)
    assert batch.status == "completed"
    output = read(house.client, batch.output_file_id)
    assert [line["custom_id"] for line in output] == [str(n) for n in range(LARGE)]
    assert vectors(output[-1])[0] == right(f"more {LARGE - 1}")
    assert {house.upstream.texts[f"more {n}"] for n in range(LARGE)} == {1}
    assert outputs.count() == before + 1


def dimensions_go_to_the_server_and_those_it_does_not_give_fail_alone(house: House) -> None:
    client = house.client
    house.sized.fail("wrong_dimension")  # gives vectors of 9 numbers, whatever it is asked for
    lines = [
        a_line("shorter", "a", model="sized", body={"dimensions": 9}),
        a_line("ignored", "b", model="sized", body={"dimensions": 4}),
        a_line("own", "c", model="sized"),
    ]
    batch = ended(client, create(client, lines))
    output = {line["custom_id"]: vectors(line)[0] for line in read(client, batch.output_file_id)}
    failed = {line["custom_id"]: line["response"] for line in read(client, batch.error_file_id)}

    bodies = [json.loads(request.body) for request in house.sized.requests if request.method == "POST"]
    asked = {text: body.get("dimensions") for body in bodies for text in body["input"] if text in "abc"}
    assert asked == {"a": 9, "b": 4, "c": None}
    assert {name: len(vector) for name, vector in output.items()} == {"shorter": 9, "own": 9}
    assert failed["ignored"]["status_code"] == 400
    assert failed["ignored"]["body"]["error"]["code"] == "invalid_request"


def the_client_hears_of_a_wrong_file_and_of_a_cancel(house: House) -> None:
    client = house.client
    house.upstream.hang()
    batch = create(client, [a_line(str(n), f"text {n}") for n in range(30)])
    wait_until(lambda: client.batches.retrieve(batch.id).status == "in_progress", 30)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = ended(client, batch)
    assert (batch.status, batch.output_file_id) == ("cancelled", None)
    assert len(read(client, batch.error_file_id)) == 30

    batch = ended(client, create(client, [a_line("a", "x"), b"{", a_line("a", "x", model="nobody")]))
    assert batch.status == "failed"
    assert batch.errors is not None
    assert [(e.code, e.line) for e in batch.errors.data or []] == [("invalid_json_line", 2)]


def the_client_is_told_how_long_its_limit_lasts(house: House) -> None:
    key = operations.create_key("team-b", ["batch"], actor="tests", requests_per_minute=1)
    snapshot.bump()
    client = house.clients.one(key=key)
    wait_until(lambda: _known(client.files.list), 10)
    file_id = upload(client, [a_line("a", "x")])
    order = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    client.batches.create(**order)  # type: ignore[call-overload]
    with pytest.raises(openai.RateLimitError) as limited:
        client.batches.create(**order)  # type: ignore[call-overload]
    assert 0 < int(limited.value.response.headers["retry-after-ms"]) <= 60_000


def _known(ask: Callable[[], object]) -> bool:
    """Whether the web process knows the key by now with which this asks."""
    try:
        ask()
    except openai.AuthenticationError:
        return False
    return True
