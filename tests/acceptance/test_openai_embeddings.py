"""OpenAI's own client of today against /v1/embeddings and /v1/models of a real web process."""

import asyncio
import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import openai
import pytest
import requests
from openai import OpenAI

from batches.models import BatchJob
from integrations import snapshot
from integrations.models import CallRecord, ModelConfig
from tests.made_api import serve
from tests.made_openai import Clients, a_key, clients
from tests.processes import Stack, wait_until
from tests.running import answers, free_port
from tests.upstream_speech import ids_as_text
from tests.upstreams import Upstream, vector_of


@dataclass(frozen=True, kw_only=True)
class House:
    """A running Citadel: models live (Ollama), sized (OpenAI's protocol), mixed (hybrid) and bulk."""

    clients: Clients
    upstream: Upstream
    sized: Upstream

    @property
    def url(self) -> str:
        return self.clients.url

    @property
    def key(self) -> str:
        return self.clients.key

    @property
    def client(self) -> OpenAI:
        return self.clients.plain


@pytest.fixture
def models(stack: Stack) -> Iterator[tuple[Upstream, Upstream]]:
    with Upstream() as upstream, Upstream("openai") as sized:
        serve("live", "real_time", upstream)
        serve("sized", "real_time", sized)
        serve("mixed", "hybrid", upstream)
        serve("bulk", "bulk_only", upstream)
        yield upstream, sized


@pytest.fixture
def house(stack: Stack, models: tuple[Upstream, Upstream]) -> Iterator[House]:
    key = a_key()
    with clients(stack.web()[1], key) as made:
        yield House(clients=made, upstream=models[0], sized=models[1])


@pytest.fixture(params=["door", "view"])
def either(request: pytest.FixtureRequest, stack: Stack, models: tuple[Upstream, Upstream]) -> Iterator[House]:
    """One contract, two ways in: the ASGI door, and the view under a server that has no door."""
    key = a_key()
    url = stack.web()[1] if request.param == "door" else without_the_door(stack)
    with clients(url, key) as made:
        yield House(clients=made, upstream=models[0], sized=models[1])


def without_the_door(stack: Stack) -> str:
    port = free_port()
    stack.start("wsgi", [sys.executable, "manage.py", "runserver", f"127.0.0.1:{port}", "--noreload"])
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(f"{url}/health/live"), 60)
    return url


def right(*texts: str) -> list[list[float]]:
    return [[float(x) for x in vector_of(text, 8)] for text in texts]


def test_the_stock_client_gets_each_texts_own_vector_live_in_either_format(either: House) -> None:
    create = either.client.embeddings.create
    stock = create(model="live", input=["a", "b"])
    floats = create(model="live", input="a", encoding_format="float")
    raw = either.client.embeddings.with_raw_response.create(model="live", input=["a"], encoding_format="base64")
    many = [f"text {number}" for number in range(700)]
    hybrid = create(model="mixed", input=many)

    assert [item.embedding for item in stock.data] == right("a", "b")
    assert [item.index for item in stock.data] == [0, 1]
    assert (stock.model, stock.object) == ("live", "list")
    assert np.array(floats.data[0].embedding, np.float32).tobytes() == vector_of("a", 8).tobytes()
    # The very bytes of the vector, which never were text.
    embedding = json.loads(raw.text)["data"][0]["embedding"]
    assert base64.b64decode(embedding) == vector_of("a", 8).astype("<f4").tobytes()
    assert raw.headers["x-request-id"]
    # Live, however many texts come.
    assert [item.embedding for item in hybrid.data] == right(*many)
    assert not BatchJob.objects.exists()
    wait_until(lambda: CallRecord.objects.filter(model="mixed").exists(), 10)
    record = CallRecord.objects.get(model="mixed")
    assert (record.mode, record.pattern, record.client, record.texts) == ("live", "hybrid", "team-a", 700)


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": [1, 2, 3]}, "input"),
    ({"input": [[1, 2], [3]]}, "input"),
    ({"input": ["a", ""]}, "input.1"),
    ({"input": ["a", 7]}, "input.1"),
    ({"input": {"a": 1}}, "input"),
    ({"input": ["x"] * 2049}, "input"),
    ({"encoding_format": "hex"}, "encoding_format"),
    ({"dimensions": 0}, "dimensions"),
    ({"extra_body": {"input_type": "title"}}, "input_type"),
    ({"extra_body": {"imput": 1}}, "imput"),
    ({"model": None}, "model"),
]


def test_each_refusal_is_the_clients_own_exception_and_names_the_field(either: House) -> None:
    create = either.client.embeddings.create
    for fields, param in FIELDS:
        with pytest.raises(openai.BadRequestError) as refused:
            create(**({"model": "live", "input": "a"} | fields))
        assert (refused.value.param, refused.value.type) == (param, "invalid_request_error"), fields
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        create(model="live", input=[[1]])
    assert either.upstream.calls == 0

    either.upstream.poison("too long")
    expected: list[tuple[type[openai.APIStatusError], str, dict[str, str]]] = [
        (openai.NotFoundError, "model_not_found", {"model": "nobody", "input": "a"}),
        (openai.ConflictError, "pattern_conflict", {"model": "bulk", "input": "a"}),
        (openai.BadRequestError, "text_rejected", {"model": "live", "input": "too long"}),
    ]
    for kind, code, fields in expected:
        with pytest.raises(kind) as other:
            create(**fields)
        assert other.value.code == code
    with pytest.raises(openai.ConflictError, match="/v1/batches") as queued:
        # 409 is a lock to this client, and it would try again: it is told not to.
        either.clients.one(max_retries=2).embeddings.create(model="bulk", input="a")
    assert queued.value.request.headers["x-stainless-retry-count"] == "0"
    with pytest.raises(openai.AuthenticationError):
        either.clients.one(key="wrong").embeddings.create(model="live", input="a")
    with pytest.raises(openai.PermissionDeniedError):
        either.clients.one(key=a_fresh_key(either, "batch")).embeddings.create(model="live", input="a")


def a_fresh_key(house: House, scope: str) -> str:
    """A key with this scope alone that the web process knows by now."""
    key = a_key(scope, name="team-b")
    snapshot.bump()
    address = f"{house.url}/v1/models"
    wait_until(lambda: requests.get(address, headers={"X-API-Key": key}, timeout=10).status_code != 401, 10)
    return key


def test_what_is_no_request_at_all_is_refused_in_openais_shape(either: House) -> None:
    def post(body: bytes, kind: str = "application/json") -> requests.Response:
        headers = {"Authorization": f"Bearer {either.key}", "Content-Type": kind}
        return requests.post(f"{either.url}/v1/embeddings", body, headers=headers, timeout=30)

    assert post(b"{").json()["error"]["param"] == "body"
    assert post(b"[]").json()["error"]["param"] == "body"
    assert post(b"a", "text/plain").status_code == 415
    assert post(b'{"input": "' + b"x" * 17 * 2**20 + b'"}').status_code == 413
    assert requests.get(f"{either.url}/v1/nothing", timeout=10).json()["error"]["code"] == "not_found"


def test_the_client_gets_over_a_pause_and_a_failure_by_itself(house: House) -> None:
    create = house.clients.one(max_retries=3).embeddings.create
    house.upstream.status(429, headers={"Retry-After": "1"}, times=1)
    with pytest.raises(openai.InternalServerError) as paused:
        house.client.embeddings.create(model="live", input="a")
    after_pause = create(model="live", input="a")
    house.upstream.status(500, times=1)
    with pytest.raises(openai.InternalServerError) as failed:
        house.client.embeddings.create(model="live", input="b")
    house.upstream.status(500, times=1)
    after_failure = create(model="live", input="b")

    headers = paused.value.response.headers
    assert (paused.value.status_code, headers["retry-after"]) == (503, "1")
    assert 0 < int(headers["retry-after-ms"]) <= 1000
    assert (failed.value.status_code, failed.value.type) == (502, "server_error")
    assert [a.data[0].embedding for a in (after_pause, after_failure)] == right("a", "b")


def test_token_ids_reach_only_servers_that_are_declared_to_have_their_tokenizer(house: House) -> None:
    create = house.client.embeddings.create
    ModelConfig.objects.filter(slug__in=("sized", "mixed")).update(takes_token_ids=True, query_prefix="query: ")
    snapshot.bump()

    def one() -> list[list[float]]:
        try:
            return [item.embedding for item in create(model="sized", input=[1, 2, 3]).data]
        except openai.BadRequestError:
            return []

    wait_until(lambda: one() == right(ids_as_text([1, 2, 3])), 10)
    assert json.loads(house.sized.requests[-1].body)["input"] == [[1, 2, 3]]
    several = create(model="sized", input=[[4], [5, 6]], extra_body={"input_type": "passage"})
    assert [item.embedding for item in several.data] == right(ids_as_text([4]), ids_as_text([5, 6]))

    refused: list[tuple[dict[str, Any], str, str]] = [
        ({"model": "sized", "input": [[1], [-1]]}, "input.1", "whole numbers"),
        ({"model": "sized", "input": [1, True]}, "input", "whole numbers"),
        ({"model": "sized", "input": [[]]}, "input.0", "at least one"),
        ({"model": "sized", "input": [1], "extra_body": {"input_type": "query"}}, "input", "prefix"),
        ({"model": "mixed", "input": [1]}, "input", "protocol"),  # Ollama's, which has no word for them
        ({"model": "live", "input": [1]}, "input", "silently wrong"),
    ]
    for fields, param, why in refused:
        with pytest.raises(openai.BadRequestError, match=why) as error:
            create(**fields)
        assert error.value.param == param
    assert house.upstream.calls == 0


def test_the_asynchronous_client_makes_many_calls_at_once(house: House) -> None:
    async def ask() -> list[list[float]]:
        async with house.clients.asynchronous() as client:
            calls = [client.embeddings.create(model="live", input=f"text {i}") for i in range(20)]
            return [answer.data[0].embedding for answer in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == right(*(f"text {i}" for i in range(20)))


def test_dimensions_usage_and_models_are_what_the_servers_can_do(house: House) -> None:
    create = house.client.embeddings.create
    counted, silent = (create(model=model, input=["a", "b"]).usage for model in ("sized", "live"))
    assert (counted.prompt_tokens, counted.total_tokens) == (1, 1)
    assert (silent.prompt_tokens, silent.total_tokens) == (0, 0)

    with pytest.raises(openai.BadRequestError) as ignored:
        create(model="sized", input="a", dimensions=4)
    assert json.loads(house.sized.requests[-1].body)["dimensions"] == 4
    house.sized.fail("wrong_dimension", times=1)
    assert len(create(model="sized", input="a", dimensions=9).data[0].embedding) == 9
    house.sized.status(400, body='{"error": {"message": "the model does not support matryoshka"}}', times=1)
    with pytest.raises(openai.BadRequestError) as unable:
        create(model="sized", input="a", dimensions=4)
    with pytest.raises(openai.BadRequestError) as unknown:
        create(model="live", input="a", dimensions=4)
    assert {e.value.param for e in (ignored, unable, unknown)} == {"dimensions"}
    # Nobody is blamed for it: the breaker has counted nothing.
    address = f"{house.url}/api/v1/external/patterns/status"
    status = requests.get(address, headers={"X-API-Key": house.key}, timeout=10).json()
    assert status["circuit_breakers"]["sized"]["failure_count"] == 0

    ModelConfig.objects.filter(slug="live").update(dimensions=8)
    ModelConfig.objects.filter(slug="mixed").update(draining=True)
    snapshot.bump()
    retrieve = house.client.models.retrieve
    wait_until(lambda: retrieve("mixed").model_extra["citadel"]["state"] == "draining", 10)  # type: ignore[index]
    assert len(create(model="live", input="a", dimensions=8).data[0].embedding) == 8  # needs no word
    with pytest.raises(openai.BadRequestError, match="vectors of 8 numbers"):
        create(model="live", input="a", dimensions=9)
    found = {model.id: model for model in house.client.models.list()}
    assert set(found) == {"live", "sized", "mixed", "bulk"}
    assert found["bulk"].model_extra == {
        "citadel": {
            "patterns": ["bulk_only"],
            "state": "available",
            "embeddings": False,
            "batches": True,
            "dimensions": None,
        }
    }
    assert (found["live"].object, found["live"].owned_by) == ("model", "citadel")
    with pytest.raises(openai.NotFoundError):
        retrieve("nobody")
