"""One contract, two ways in: the ASGI door, and EmbedView under a server that has no door."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import requests

from batches.models import BatchJob
from integrations import operations, snapshot
from integrations.models import ModelConfig
from tests.made_api import serve
from tests.processes import Stack, wait_until
from tests.running import answers, free_port
from tests.upstreams import Upstream, vector_of

EMBED = "/api/v1/external/{}/embed"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request and what must come of it."""

    status: int
    code: str = ""
    field: str = ""
    model: str = "live"
    body: Any = None
    raw: bytes | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    key: str = "all"


CASES = {
    "not JSON": Case(status=400, code="invalid_request", field="body", raw=b"{text"),
    "not an object": Case(status=400, code="invalid_request", field="body", body=[1]),
    "a text that is no string": Case(status=400, code="invalid_request", field="text", body={"text": 7}),
    "texts that are no list": Case(status=400, code="invalid_request", field="texts", body={"texts": "x"}),
    "one of the texts is no string": Case(
        status=400, code="invalid_request", field="texts.1", body={"texts": ["a", 1]}
    ),
    "both text and texts": Case(status=400, code="invalid_request", field="texts", body={"text": "a", "texts": ["b"]}),
    "neither": Case(status=400, code="invalid_request", field="text", body={"urgent": True}),
    "an empty list": Case(status=400, code="invalid_request", field="texts", body={"texts": []}),
    "an empty string": Case(status=400, code="invalid_request", field="text", body={"text": ""}),
    "a text of 1 MiB": Case(status=400, code="invalid_request", field="text", body={"text": "x" * 2**20}),
    "a lone surrogate": Case(status=400, code="invalid_request", field="text", raw=b'{"text": "\\ud800"}'),
    "NUL": Case(status=400, code="invalid_request", field="text", raw=b'{"text": "a\\u0000"}'),
    "bytes that are not UTF-8": Case(status=400, code="invalid_request", field="text", raw=b'{"text": "\xff"}'),
    "too many texts": Case(status=400, code="invalid_request", field="texts", body={"texts": ["x"] * 10_001}),
    "too many texts for a live call": Case(
        status=400, code="invalid_request", field="texts", body={"texts": ["x"] * 257, "urgent": True}
    ),
    "urgent is no boolean": Case(status=400, code="invalid_request", field="urgent", body={"text": "a", "urgent": 1}),
    "contradicting flags": Case(
        status=400, code="invalid_request", field="urgent", body={"text": "a", "urgent": True, "batch": True}
    ),
    "an unknown field": Case(status=400, code="invalid_request", field="txet", body={"text": "a", "txet": "b"}),
    "an unknown pattern": Case(status=400, code="invalid_request", field="pattern", body={"text": "a", "pattern": "x"}),
    "a callback": Case(
        status=400, code="invalid_request", field="callback_url", body={"text": "a", "callback_url": "https://x"}
    ),
    "an unknown model": Case(status=404, code="model_not_found", model="nobody", body={"text": "a"}),
    "a pattern that the model has not": Case(
        status=409, code="pattern_not_assigned", body={"text": "a", "pattern": "hybrid"}
    ),
    "batch for a live model": Case(status=409, code="pattern_conflict", body={"text": "a", "batch": True}),
    "urgent for a bulk model": Case(
        status=409, code="pattern_conflict", model="bulk", body={"text": "a", "urgent": True}
    ),
    "another media type": Case(
        status=415, code="unsupported_media_type", raw=b"text=a", headers={"Content-Type": "text/plain"}
    ),
    "too large a body": Case(status=413, code="request_too_large", raw=b'{"text": "' + b"x" * 40_000_000 + b'"}'),
    "no key": Case(status=401, code="not_authenticated", key="none", body={"text": "a"}),
    "a wrong key": Case(status=401, code="not_authenticated", key="wrong", body={"text": "a"}),
    "a key without the scope": Case(status=403, code="not_permitted", key="read", body={"text": "a"}),
    "a drained model": Case(status=503, code="model_disabled", model="drained", body={"text": "a"}),
    "a disabled model": Case(status=503, code="model_disabled", model="disabled", body={"text": "a"}),
    "a text that the server refuses": Case(status=422, code="text_rejected", body={"text": "poison"}),
    "a server that fails": Case(status=502, code="upstream_failed", model="broken", body={"text": "a"}),
    "a server that talks nonsense": Case(status=502, code="upstream_malformed", model="nonsense", body={"text": "a"}),
    "a server that is silent": Case(status=504, code="upstream_timeout", model="silent", body={"text": "a"}),
}


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way in."""

    url: str
    keys: dict[str, str]

    def post(self, model: str, *, key: str = "all", raw: bytes | None = None, body: Any = None, **more: Any) -> Any:
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        if key != "none":
            headers["Authorization"] = f"Bearer {self.keys[key]}"
        data = json.dumps(body).encode() if raw is None else raw
        return requests.post(self.url + EMBED.format(model), data=data, headers=headers, timeout=30, **more)


def _door(stack: Stack) -> str:
    return stack.web()[1]


def _view(stack: Stack) -> str:
    port = free_port()
    command = [sys.executable, "-m", "granian", "citadel.wsgi:application", "--interface", "wsgi"]
    stack.start("wsgi", [*command, "--host", "127.0.0.1", "--port", str(port), "--blocking-threads", "4"])
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(f"{url}/health/live"), 30)
    return url


@pytest.fixture(scope="module")
def upstreams() -> Iterator[dict[str, Upstream]]:
    with Upstream() as good, Upstream() as broken, Upstream() as nonsense, Upstream() as silent:
        good.poison("poison")
        broken.status(500, body="secret of the server")
        nonsense.html()
        silent.hang()
        yield {"good": good, "broken": broken, "nonsense": nonsense, "silent": silent}


@pytest.fixture(scope="module")
def keys(shared_stack: Stack, upstreams: dict[str, Upstream]) -> dict[str, str]:
    """The keys, by their names here; the models are there as well."""
    serve("live", "real_time", upstreams["good"])
    serve("mixed", "hybrid", upstreams["good"])
    serve("bulk", "bulk_only", upstreams["good"])
    serve("drained", "real_time", upstreams["good"])
    serve("disabled", "real_time", upstreams["good"])
    for name in ("broken", "nonsense", "silent"):
        serve(name, "real_time", upstreams[name], deadline=1.0, attempt_timeout=0.9, breaker_threshold=1000)
        serve(f"mixed-{name}", "hybrid", upstreams[name], deadline=1.0, attempt_timeout=0.9, breaker_threshold=1000)
    operations.drain_model("drained", actor="tests", reason="new disk")
    ModelConfig.objects.filter(slug="disabled").update(enabled=False)
    made = {
        "all": operations.create_key("team-a", ["embed", "batch", "read", "operate"], actor="tests"),
        "read": operations.create_key("team-b", ["read"], actor="tests"),
        "embed": operations.create_key("team-c", ["embed"], actor="tests"),
        "wrong": "ck_nobody",
    }
    snapshot.bump()
    return made


@pytest.fixture(scope="module", params=[_door, _view], ids=["the door", "EmbedView"])
def running(request: pytest.FixtureRequest, shared_stack: Stack, keys: dict[str, str]) -> Way:
    start: Callable[[Stack], str] = request.param
    return Way(url=start(shared_stack), keys=keys)


@pytest.fixture
def way(running: Way) -> Way:
    """A way in to an empty queue."""
    BatchJob.objects.all().delete()
    return running


def test_what_is_wrong_is_told_with_its_field_and_nothing_is_stored(way: Way) -> None:
    wrong = {name: why for name, case in CASES.items() if (why := _difference(way, case))}
    assert wrong == {}
    assert not BatchJob.objects.exists()


def _difference(way: Way, case: Case) -> str:
    answer = way.post(case.model, key=case.key, raw=case.raw, body=case.body, headers=case.headers)
    problem = answer.json()
    if (answer.status_code, problem["code"]) != (case.status, case.code):
        return f"{answer.status_code} {problem}"
    if answer.headers["Content-Type"] != "application/problem+json":
        return answer.headers["Content-Type"]
    if case.field and case.field not in problem["errors"]:
        return f"{case.field} is not in {problem['errors']}"
    if case.status in (429, 503) and int(answer.headers["Retry-After"]) < 1:
        return "no Retry-After"
    if problem["request_id"] != answer.headers["X-Request-ID"]:
        return "another request id"
    return "it says what the server said" if "secret of the server" in answer.text else ""


def test_live_texts_are_answered_with_the_servers_vectors(way: Way) -> None:
    one = way.post("live", body={"text": "a", "urgent": True}, headers={"X-Request-ID": "mine-1"})
    assert one.status_code == 200, one.text
    assert np.array_equal(np.float32(one.json()["embedding"]), vector_of("a", 8))
    assert one.headers["X-Request-ID"] == one.json()["metadata"]["request_id"] == "mine-1"
    many = way.post("mixed", body={"texts": ["a", "b"]}).json()
    assert np.array_equal(np.float32(many["embeddings"]), np.stack([vector_of("a", 8), vector_of("b", 8)]))
    assert (many["pattern"], many["processing_mode"]) == ("hybrid", "real_time")


def test_queued_texts_are_stored_and_named(way: Way) -> None:
    answer = way.post("mixed", body={"texts": ["a", "b"], "urgent": False})
    assert answer.status_code == 202, answer.text
    batch_id = answer.json()["batch_id"]
    assert answer.headers["Location"] == f"/api/v1/external/batch/{batch_id}"
    assert BatchJob.objects.get(batch_id=batch_id).client == "team-a"


def test_hybrid_queues_what_the_server_cannot_answer_now(way: Way) -> None:
    for name in ("broken", "nonsense", "silent"):
        answer = way.post(f"mixed-{name}", body={"text": "a", "urgent": True})
        assert answer.status_code == 202, answer.text
        assert answer.json()["processing_mode"] == "bulk"


def test_hybrid_without_the_scope_for_the_queue_says_what_failed(way: Way) -> None:
    answer = way.post("mixed-broken", key="embed", body={"text": "a", "urgent": True})
    assert (answer.status_code, answer.json()["code"]) == (502, "upstream_failed")
    assert not BatchJob.objects.exists()


def test_lines_are_queued(way: Way) -> None:
    lines = b"".join(json.dumps({"text": f"text {i}"}).encode() + b"\n" for i in range(250))
    headers = {"Content-Type": "application/x-ndjson"}
    answer = way.post("bulk", raw=lines, headers=headers, params={"client_metadata": '{"run": "7"}'})
    assert answer.status_code == 202, answer.text
    job = BatchJob.objects.get(batch_id=answer.json()["batch_id"])
    assert (job.total, job.chunks.count(), job.client_metadata) == (250, 3, {"run": "7"})
    bad = way.post("bulk", raw=lines + b'{"text": ""}\n', headers=headers)
    assert (bad.status_code, list(bad.json()["errors"])) == (400, ["lines.251"])
    assert BatchJob.objects.count() == 1
