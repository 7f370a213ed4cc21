"""The transport against real servers that fail in every way a network knows."""

import asyncio
import gzip
import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme
from pytest_django.fixtures import Settings

from integrations import loop, transport
from integrations.errors import UpstreamError, UpstreamFailed, UpstreamMalformed, UpstreamTimeout
from integrations.protocols import NAMES, HttpRequest, HttpResponse, get
from tests.upstreams import Upstream, vector_of

TEXTS = ["one", "two"]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def request_to(
    upstream: Upstream, texts: list[str] | None = None, *, headers: Mapping[str, str] | None = None
) -> HttpRequest:
    return get(upstream.protocol).build_request(
        upstream.url, model="m", texts=texts or TEXTS, truncate=False, normalise=True, headers=headers or {}
    )


def send(request: HttpRequest, *, timeout: float = 30.0, connect_timeout: float = 30.0, **options: Any) -> HttpResponse:
    return loop.run(transport.send(request, timeout=timeout, connect_timeout=connect_timeout, **options))


def embed(upstream: Upstream, **options: Any) -> list[list[float]]:
    response = send(request_to(upstream), **options)
    vectors = get(upstream.protocol).parse_response(response, expected=len(TEXTS), dimensions=upstream.dimensions)
    rows: list[list[float]] = vectors.tolist()
    return rows


@pytest.mark.parametrize("protocol", NAMES)
def test_a_call_brings_back_the_vector_of_each_text(protocol: str) -> None:
    with Upstream(protocol, dimensions=384) as upstream:
        assert embed(upstream) == [vector_of(text, 384).tolist() for text in TEXTS]


def test_an_error_status_is_an_answer_with_headers_in_lower_case(upstream: Upstream) -> None:
    upstream.status(503, headers={"Retry-After": "7"}, body="full")
    response = send(request_to(upstream))
    assert (response.status, response.headers["retry-after"], response.body) == (503, "7", b"full")


def test_a_redirect_is_an_answer_and_is_not_followed(upstream: Upstream) -> None:
    with Upstream() as elsewhere:
        upstream.redirect(f"{elsewhere.url}/api/embed")
        assert send(request_to(upstream)).status == 307
        assert elsewhere.connections == 0


@pytest.mark.parametrize("failure", ["drop", "reset", "short"])
def test_a_connection_that_breaks_off_is_a_failure_of_the_server(upstream: Upstream, failure: str) -> None:
    getattr(upstream, failure)()
    with pytest.raises(UpstreamFailed):
        send(request_to(upstream))
    assert upstream.calls == 1


def test_a_refused_connection_is_a_failure_of_the_server(upstream: Upstream) -> None:
    upstream.refuse()
    with pytest.raises(UpstreamFailed, match="reached"):
        send(request_to(upstream))


def test_a_name_that_nobody_has_is_a_failure_of_the_server() -> None:
    with pytest.raises(UpstreamFailed):
        send(HttpRequest(method="GET", url="http://nobody.invalid:1/health"))


@pytest.mark.parametrize("fail", [Upstream.hang, lambda u: u.slow(30), lambda u: u.trickle(0.05)])
def test_silence_and_slowness_end_at_the_timeout(upstream: Upstream, fail: Callable[[Upstream], None]) -> None:
    fail(upstream)
    with pytest.raises(UpstreamTimeout):
        send(request_to(upstream), timeout=0.3)


def test_a_server_that_takes_no_connections_ends_at_the_connect_timeout() -> None:
    # A listener whose queue is full: the kernel drops further SYNs, as a host behind a silent firewall does.
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        address = f"http://127.0.0.1:{full.getsockname()[1]}/health"
        with pytest.raises(UpstreamTimeout, match="connection"):
            send(HttpRequest(method="GET", url=address), connect_timeout=0.3)


def test_what_is_not_http_is_malformed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_greet, args=(listener,))
        thread.start()
        with pytest.raises(UpstreamMalformed):
            send(HttpRequest(method="GET", url=f"http://127.0.0.1:{listener.getsockname()[1]}/"))
        thread.join()


def _greet(listener: socket.socket) -> None:
    client, _ = listener.accept()
    with client:
        client.recv(65536)
        client.sendall(b"220 mail.internal ESMTP\r\n\r\n")


@pytest.mark.parametrize("failure", ["big", "gzip_bomb"])
def test_an_answer_over_the_bound_is_malformed(upstream: Upstream, settings: Settings, failure: str) -> None:
    settings.MAX_UPSTREAM_BYTES = 2**20
    getattr(upstream, failure)(2**20, times=1)
    assert len(send(request_to(upstream)).body) == 2**20
    getattr(upstream, failure)(2**20 + 1, times=1)
    with pytest.raises(UpstreamMalformed, match="larger"):
        send(request_to(upstream))


def test_a_gzip_bomb_is_not_unpacked(upstream: Upstream, settings: Settings) -> None:
    settings.MAX_UPSTREAM_BYTES = 2**20
    upstream.gzip_bomb(64 * 2**20)
    assert len(gzip.compress(b" " * 2**20)) * 64 < 2**20  # as it is sent, it keeps within the bound
    with pytest.raises(UpstreamMalformed, match="larger"):
        send(request_to(upstream))


def test_no_error_names_the_address_or_repeats_the_answer(upstream: Upstream) -> None:
    for failure in ("drop", "reset", "short"):
        getattr(upstream, failure)(times=1)
        with pytest.raises(UpstreamError) as caught:
            send(request_to(upstream, headers={"X-Api-Key": "secret-token"}))
        assert not any(word in caught.value.detail for word in ("127.0.0.1", str(upstream.port), "secret"))


def test_calls_share_kept_connections(upstream: Upstream) -> None:
    for _ in range(5):
        embed(upstream)
    assert (upstream.calls, upstream.connections) == (5, 1)


def test_a_connection_closed_while_idle_does_not_fail_the_next_call(upstream: Upstream) -> None:
    for _ in range(20):
        embed(upstream)
        upstream.close_idle()
    assert upstream.answered == 20


def test_a_kept_connection_that_dies_under_a_request_is_replaced_once(upstream: Upstream) -> None:
    embed(upstream)
    upstream.drop(times=1)
    embed(upstream)
    assert (upstream.calls, upstream.answered, upstream.connections) == (3, 2, 2)


def test_the_second_try_does_not_meet_the_next_stale_connection(upstream: Upstream) -> None:
    async def three_at_once() -> None:
        await asyncio.gather(*(transport.send(request_to(upstream), timeout=5, connect_timeout=2) for _ in range(3)))

    upstream.delay = 0.2
    loop.run(three_at_once())
    assert upstream.connections == 3
    upstream.delay = 0
    upstream.drop(times=1)
    embed(upstream)
    assert upstream.connections == 4


def test_a_server_that_drops_every_request_is_asked_twice_and_no_more(upstream: Upstream) -> None:
    embed(upstream)
    upstream.drop()
    with pytest.raises(UpstreamFailed):
        embed(upstream)
    assert upstream.calls == 3


def test_the_second_try_gets_only_what_is_left_of_the_time(upstream: Upstream) -> None:
    embed(upstream)
    upstream.drop(times=1)
    upstream.delay = 0.6  # once before it drops the first, and once before it would answer the second
    with pytest.raises(UpstreamTimeout):
        embed(upstream, timeout=1.0)


def test_a_second_answer_to_one_request_is_never_taken_for_the_next_ones(upstream: Upstream) -> None:
    upstream.twice(times=1)
    embed(upstream)
    time.sleep(0.2)
    assert embed(upstream) == [vector_of(text, upstream.dimensions).tolist() for text in TEXTS]
    assert upstream.connections == 2


@pytest.mark.parametrize("status", [400, 404, 500, 307])
def test_no_connection_is_kept_after_an_answer_that_is_no_success(upstream: Upstream, status: int) -> None:
    upstream.status(status, times=1)
    send(request_to(upstream))
    embed(upstream)
    assert upstream.connections == 2


def test_a_cancelled_call_is_cancelled_and_nothing_else(upstream: Upstream) -> None:
    async def cancel_it() -> bool:
        task = asyncio.create_task(transport.send(request_to(upstream), timeout=30, connect_timeout=2))
        await asyncio.to_thread(upstream.wait_in_flight, 1)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    upstream.hang()
    assert loop.run(cancel_it())


def test_a_call_of_several_megabytes_arrives_whole(upstream: Upstream) -> None:
    texts = [f"{number} " + "x" * 2**20 for number in range(3)]
    send(request_to(upstream, texts))
    assert orjson.loads(upstream.requests[-1].body)["input"] == texts


def test_the_header_with_the_credentials_is_sent() -> None:
    with Upstream(auth=("X-Token", "Bearer abc")) as upstream:
        assert send(request_to(upstream, headers={"X-Token": "Bearer abc"})).status == 200
        assert send(request_to(upstream)).status == 401


def test_a_header_with_a_line_break_fails_before_it_is_sent(upstream: Upstream) -> None:
    with pytest.raises(UpstreamFailed, match="header"):
        send(request_to(upstream, headers={"Authorization": "Bearer abc\r\nX-Evil: 1"}))
    assert upstream.calls == 0


def test_no_cookie_and_no_proxy_is_used(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    upstream.status(200, headers={"Set-Cookie": "session=1"}, times=1)
    send(request_to(upstream))
    send(request_to(upstream))
    assert upstream.calls == 2
    assert all("cookie" not in request.headers for request in upstream.requests)


def test_tls_with_an_authority_of_our_own(authority: trustme.CA, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with Upstream(tls=authority) as upstream:
        for _ in range(3):
            embed(upstream, ca_file=str(ca_file))
        assert upstream.connections == 1


def test_a_certificate_of_an_unknown_authority_is_refused(
    authority: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    caplog.set_level(logging.CRITICAL, logger="asyncio")
    with Upstream(tls=authority) as upstream:
        for ca_file in ("", str(stranger)):
            with pytest.raises(UpstreamFailed, match="certificate"):
                embed(upstream, ca_file=ca_file)
        assert upstream.calls == 0


def test_a_renewed_ca_file_counts_without_a_restart(authority: trustme.CA, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    with Upstream(tls=authority) as upstream:
        with pytest.raises(UpstreamFailed):
            embed(upstream, ca_file=str(ca_file))
        authority.cert_pem.write_to_path(str(ca_file))
        embed(upstream, ca_file=str(ca_file))


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_ca_file_that_cannot_be_used_fails_the_call(upstream: Upstream, tmp_path: Path, content: str | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)
    with pytest.raises(UpstreamFailed):
        embed(upstream, ca_file=str(ca_file))
    assert upstream.calls == 0


def test_plain_http_asked_over_tls_is_a_failure_of_the_server(upstream: Upstream) -> None:
    request = request_to(upstream)
    with pytest.raises(UpstreamFailed):
        send(HttpRequest(method="POST", url=request.url.replace("http:", "https:"), headers={}, body=request.body))


def test_a_hung_server_leaves_connections_for_the_others(upstream: Upstream) -> None:
    async def many() -> HttpResponse:
        hung = [
            asyncio.create_task(transport.send(request_to(upstream), timeout=60, connect_timeout=60))
            for _ in range(150)
        ]
        await asyncio.to_thread(upstream.wait_in_flight, 150)
        answer = await transport.send(request_to(healthy), timeout=60, connect_timeout=60)
        for task in hung:
            task.cancel()
        await asyncio.wait(hung)
        return answer

    upstream.hang()
    with Upstream() as healthy:
        assert loop.run(many()).status == 200


def test_answers_never_change_places_under_load(upstream: Upstream) -> None:
    async def ask(text: str) -> bool:
        response = await transport.send(request_to(upstream, [text]), timeout=60, connect_timeout=60)
        vectors = get("ollama").parse_response(response, expected=1, dimensions=8)
        return vectors.tobytes() == vector_of(text, 8).tobytes()

    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*(ask(f"text {number}") for number in range(200)))

    assert set(itertools.chain(loop.run(all_of_them()))) == {True}
