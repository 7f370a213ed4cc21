"""The demo model servers, as a client on the wire meets them."""

import base64
import contextlib
import http.client
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from citadel.quickstart import fleet, ports
from citadel.quickstart.fleet import Seat
from citadel.quickstart.minilm import DIMENSIONS, MAX_TOKENS
from integrations import protocols
from integrations.errors import TextRejected
from integrations.protocols.base import HttpResponse

ROOT = Path(__file__).resolve().parents[2]
LONG = "word " * (MAX_TOKENS + 50)


@dataclass
class Servers:
    """One running process that serves one seat of each protocol."""

    seats: dict[str, Seat]
    process: "subprocess.Popen[str]"

    def url(self, protocol: str) -> str:
        return self.seats[protocol].url

    def embed(self, protocol: str, texts: list[str], *, truncate: bool = False, normalise: bool = True) -> Any:
        """Ask as Citadel does: through its own protocol adapter."""
        speech, seat = protocols.get(protocol), self.seats[protocol]
        asked = speech.build_request(
            seat.url, model=seat.slug, texts=texts, truncate=truncate, normalise=normalise, headers={}
        )
        answer = requests.request(asked.method, asked.url, headers=dict(asked.headers), data=asked.body, timeout=30)
        response = HttpResponse(
            status=answer.status_code,
            headers={name.lower(): value for name, value in answer.headers.items()},
            body=answer.content,
        )
        return speech.parse_response(response, expected=len(texts), dimensions=DIMENSIONS)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    seats = {
        protocol: Seat(slug=f"m-{protocol}", protocol=protocol, port=port)
        for protocol, port in zip(protocols.NAMES, ports.free(3), strict=True)
    }
    words = [f"{seat.slug}={seat.protocol}:{seat.port}" for seat in seats.values()]
    process = subprocess.Popen(
        [sys.executable, "manage.py", "demo_models", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in seats:
        assert process.stdout.readline(), "the servers did not start"
    yield Servers(seats=seats, process=process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    process.stdout.close()


@pytest.mark.parametrize("protocol", protocols.NAMES)
def test_near_texts_have_near_vectors(servers: Servers, protocol: str) -> None:
    vectors = servers.embed(protocol, ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose."])
    likeness = vectors @ vectors.T
    assert vectors.shape == (3, DIMENSIONS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.diag(likeness), 1, atol=1e-5)
    assert likeness[0, 1] > 0.4 > 0.2 > likeness[0, 2]


def test_all_protocols_give_one_text_the_same_vector(servers: Servers) -> None:
    first, *others = (servers.embed(protocol, ["the same text"]) for protocol in protocols.NAMES)
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize("protocol", protocols.NAMES)
def test_a_vector_does_not_depend_on_the_other_texts_of_its_call(servers: Servers, protocol: str) -> None:
    chance = random.Random(7)
    texts = [" ".join(chance.choices(["alpha", "beta", "gamma"], k=chance.randint(1, 20))) for _ in range(32)]
    together = servers.embed(protocol, texts)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_array_equal(servers.embed(protocol, [text])[0], vector)


@pytest.mark.parametrize("protocol", protocols.NAMES)
def test_an_over_long_text_is_refused_unless_it_may_be_cut(servers: Servers, protocol: str) -> None:
    with pytest.raises(TextRejected):
        servers.embed(protocol, ["short", LONG])
    cut = servers.embed(protocol, [LONG, LONG + LONG], truncate=True)
    np.testing.assert_array_equal(cut[0], cut[1])


def test_tei_gives_raw_means_when_asked_not_to_normalise(servers: Servers) -> None:
    raw, unit = (servers.embed("tei", ["one text"], normalise=normalise)[0] for normalise in (False, True))
    assert abs(np.linalg.norm(raw) - 1) > 0.01
    np.testing.assert_allclose(raw / np.linalg.norm(raw), unit, atol=1e-6)


def test_openai_gives_base64_of_the_same_floats(servers: Servers) -> None:
    body = {"model": "m-openai", "input": "one text", "encoding_format": "base64"}
    answer = requests.post(f"{servers.url('openai')}/v1/embeddings", json=body, timeout=30).json()
    decoded = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(decoded, servers.embed("openai", ["one text"])[0])
    assert answer["usage"]["prompt_tokens"] == 4  # two words, and the marks at both ends


@pytest.mark.parametrize("protocol", protocols.NAMES)
def test_each_server_is_healthy_by_its_protocol_and_at_health(servers: Servers, protocol: str) -> None:
    speech = protocols.get(protocol)
    asked = speech.build_health(servers.url(protocol), headers={})
    answer = requests.get(asked.url, timeout=10)
    response = HttpResponse(status=answer.status_code, headers={}, body=answer.content)
    assert speech.parse_health(response).ok
    assert requests.get(f"{servers.url(protocol)}/health", timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("protocol", "path", "body", "status"),
    [
        ("ollama", "/api/embed", {"model": "other", "input": "a"}, 404),
        ("ollama", "/api/embed", {"input": "a"}, 400),
        ("ollama", "/api/embed", {"model": "m-ollama", "input": [1]}, 400),
        ("ollama", "/api/nothing", {}, 404),
        ("openai", "/v1/embeddings", {"model": "other", "input": "a"}, 404),
        ("openai", "/v1/embeddings", {"model": "m-openai", "input": []}, 400),
        ("openai", "/v1/embeddings", {"model": "m-openai", "input": "a", "encoding_format": "hex"}, 400),
        ("tei", "/embed", {"inputs": []}, 400),
        ("tei", "/embed", {"inputs": ["a"] * 33}, 422),
        ("tei", "/embed", ["no", "object"], 400),
    ],
)
def test_a_request_that_is_wrong_is_refused_as_the_real_server_does(
    servers: Servers, protocol: str, path: str, body: object, status: int
) -> None:
    answer = requests.post(servers.url(protocol) + path, json=body, timeout=10)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_a_body_that_is_not_json_is_refused_and_the_connection_goes_on(servers: Servers) -> None:
    with requests.Session() as session:
        refused = session.post(f"{servers.url('tei')}/embed", data=b"{not json", timeout=10)
        assert refused.status_code == 400
        assert session.get(f"{servers.url('tei')}/info", timeout=10).json()["max_input_length"] == MAX_TOKENS


def test_a_body_without_a_length_is_refused(servers: Servers) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", servers.seats["tei"].port, timeout=10)) as client:
        client.putrequest("POST", "/embed")
        client.putheader("Transfer-Encoding", "chunked")
        client.endheaders()
        with client.getresponse() as answer:
            assert answer.status == 411


def test_the_lists_of_models_name_the_one_that_is_served(servers: Servers) -> None:
    tags = requests.get(f"{servers.url('ollama')}/api/tags", timeout=10).json()
    models = requests.get(f"{servers.url('openai')}/v1/models", timeout=10).json()
    assert [model["name"] for model in tags["models"]] == ["m-ollama:latest"]
    assert [model["id"] for model in models["data"]] == ["m-openai"]
    assert requests.get(servers.url("ollama"), timeout=10).text == "Ollama is running"


def test_a_port_that_is_taken_ends_the_command_with_a_word_about_it(servers: Servers) -> None:
    seat = servers.seats["tei"]
    command = [sys.executable, "manage.py", "demo_models", f"other=tei:{seat.port}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "taken" in done.stderr


def test_seats_are_given_as_name_protocol_and_port() -> None:
    assert fleet.parse(["phi3=ollama:11403"]) == (Seat(slug="phi3", protocol="ollama", port=11403),)
    for word in ("phi3", "phi3=soap:1", "phi3=tei:x", "=tei:1"):
        with pytest.raises(ValueError, match="is not of the form"):
            fleet.parse([word])


def test_the_nine_models_speak_all_three_protocols_and_phi3_has_two_replicas() -> None:
    models, replicas = fleet.seats(range(11400, 11410))
    variables = fleet.environment([*models, *replicas])
    assert len(models) == 9
    assert {seat.protocol for seat in models} == set(protocols.NAMES)
    assert variables["PHI3_ENDPOINT"] == "http://127.0.0.1:11403,http://127.0.0.1:11409"
    assert len([name for name in variables if name.endswith("_ENDPOINT")]) == 9
