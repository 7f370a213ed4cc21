"""The door's own duties, over real sockets: clients that leave, stall, send too much or knock at the wrong house."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests

from integrations.models import CallRecord, CallStats
from tests.made_api import serve
from tests.processes import Stack, wait_until
from tests.upstreams import Upstream

PATH = "/api/v1/external/m/embed"
ENV = {
    "CITADEL_ANONYMOUS_SCOPES": "embed,batch,read,operate",
    "BODY_READ_TIMEOUT": "1",
    "MAX_JSON_BODY_BYTES": "100000",
}


@pytest.fixture(scope="module")
def server(shared_stack: Stack) -> Iterator[Upstream]:
    with Upstream() as server:
        serve("m", "real_time", server)
        yield server


@pytest.fixture
def upstream(server: Upstream) -> Iterator[Upstream]:
    yield server
    server.clear()
    server.delay = 0


@pytest.fixture(scope="module")
def url(shared_stack: Stack, server: Upstream) -> str:
    return shared_stack.web(**ENV)[1]


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10)


def head(length: int | None, *, host: str = "127.0.0.1") -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{size}\r\n\r\n".encode()


def answer_to(url: str, *pieces: bytes) -> tuple[int, dict[str, object]]:
    """Status and body of what comes back."""
    with connect(url) as client:
        for piece in pieces:
            client.sendall(piece)
        received = b""
        while b"\r\n\r\n" not in received or not received.rstrip().endswith(b"}"):
            data = client.recv(65536)
            if not data:
                break
            received += data
    first, _, rest = received.partition(b"\r\n")
    return int(first.split()[1]), json.loads(rest[rest.index(b"{") :])


def test_a_client_that_leaves_ends_the_call_and_nobody_is_blamed(url: str, upstream: Upstream) -> None:
    upstream.hang()
    body = b'{"text": "a"}'
    with connect(url) as client:
        client.sendall(head(len(body)) + body)
        wait_until(lambda: upstream.in_flight == 1, 10)
    wait_until(lambda: upstream.in_flight == 0, 10)
    wait_until(CallRecord.objects.filter(model="m", mode="live").exclude(code="ok").exists, 10)
    assert CallRecord.objects.exclude(code="ok").get(model="m").code == "cancelled"
    status = requests.get(f"{url}/api/v1/external/patterns/status", timeout=10).json()
    assert status["circuit_breakers"]["m"] | {"endpoints": []} == {
        "status": "closed",
        "failure_count": 0,
        "endpoints": [],
    }


def test_a_body_that_does_not_come_is_not_waited_for(url: str) -> None:
    started = time.monotonic()
    status, problem = answer_to(url, head(100) + b'{"text": ')
    assert (status, problem["code"]) == (408, "request_timeout")
    assert time.monotonic() - started < 8


def test_a_body_without_a_length_is_cut_at_the_cap(url: str) -> None:
    piece = b"x" * 50_000
    chunk = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    status, problem = answer_to(url, head(None), chunk, chunk, chunk)
    assert (status, problem["code"]) == (413, "request_too_large")


def test_an_announced_body_over_the_cap_is_refused_unread(url: str) -> None:
    status, problem = answer_to(url, head(10**9))
    assert (status, problem["code"]) == (413, "request_too_large")


def test_another_host_is_not_served(url: str) -> None:
    body = b'{"text": "a"}'
    status, problem = answer_to(url, head(len(body), host="evil.example") + body)
    assert (status, problem["code"]) == (400, "invalid_request")


def test_a_stop_lets_calls_finish_and_records_them(shared_stack: Stack, upstream: Upstream) -> None:
    web, url = shared_stack.web(**ENV)
    upstream.delay = 1.0
    with ThreadPoolExecutor(13) as pool:
        calls = [pool.submit(requests.post, url + PATH, json={"text": f"t{i}"}, timeout=20) for i in range(13)]
        wait_until(lambda: upstream.in_flight == 10, 10)  # eight alone and two shares of two
        time.sleep(0.3)  # the last one waits to leave
        web.stop()
        assert [call.result().status_code for call in calls] == [200] * 13
    assert CallRecord.objects.filter(code="ok").count() == 13
    counted = CallStats.objects.filter(width="total", kind="call", code="ok").values_list("count", flat=True)
    assert sum(counted) == 13
