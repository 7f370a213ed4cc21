"""The one way out to the model servers: a request value in, a response value or an error of ours out.

    aiohttp, asyncio, OSError              ours
    ├── TimeoutError (connect, total)      UpstreamTimeout
    ├── an answer that is not HTTP         UpstreamMalformed
    ├── an answer longer than the limit    UpstreamMalformed
    └── everything else                    UpstreamFailed: no name, refused, reset, TLS, broken off, headers

An answer with an error status is an answer: the protocol says what it means. CancelledError passes untouched.
"""

import asyncio
import io
import os
import socket
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import aiohttp
from django.conf import settings

from integrations.errors import CitadelError, UpstreamFailed, UpstreamMalformed, UpstreamTimeout
from integrations.protocols.base import HttpRequest, HttpResponse

# vLLM's server closes idle connections after 5 s. Ours are dropped before that, so that a request seldom meets a
# connection which its server is just closing.
KEEPALIVE_SECONDS = 4.0
LARGE_BODY = 2**20
# Kept connections thrown away for one request; more than a pool ever holds.
_MAX_SOILED = 1000
# aiohttp rounds longer timeouts up to whole seconds; a deadline must not be.
_NO_ROUNDING = float("inf")
# Floats barely compress, and packing them costs the server more than the local network does. A server that compresses
# all the same is understood.
_HEADERS = {"User-Agent": "citadel", "Accept-Encoding": "identity"}
# What a request on a kept connection meets when the server has closed that connection: no byte of an answer came.
_STALE = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sessions:
    """One event loop's connections: `pooled` for every call, `fresh` for the second try after a stale connection."""

    pooled: aiohttp.ClientSession
    fresh: aiohttp.ClientSession


@dataclass(slots=True, kw_only=True)
class _Way:
    """Which connection one exchange went over."""

    reused: bool = False
    protocol: aiohttp.client_proto.ResponseHandler | None = None


_way: ContextVar[_Way] = ContextVar("way")


class _Connector(aiohttp.TCPConnector):
    """Says which connections are kept ones, and hands out none on which something is left over from before.

    aiohttp takes whatever lies on a kept connection for the answer to the next request. A server that answers one
    request twice, or answers without reading it and then takes its body for a request, would hand a caller the vectors
    of another text, or an error that somebody else earned.
    """

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[aiohttp.tracing.Trace], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        """Take a kept connection or make one."""
        way = _way.get()
        for _ in range(_MAX_SOILED):
            way.reused = True
            connection = await super().connect(req, traces, timeout)
            way.protocol = connection.protocol
            if way.protocol is not None and not way.protocol.should_close:
                return connection
            connection.close()
        raise aiohttp.ClientConnectionError("the server speaks before it is asked")

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[aiohttp.tracing.Trace], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.client_proto.ResponseHandler:
        # A trace of aiohttp's would say the same, at a fifth of the time that the whole call takes.
        _way.get().reused = False
        return await super()._create_connection(req, traces, timeout)


_sessions: dict[asyncio.AbstractEventLoop, _Sessions] = {}
_inherited: list[dict[asyncio.AbstractEventLoop, _Sessions]] = []


async def send(request: HttpRequest, *, connect_timeout: float, timeout: float, ca_file: str = "") -> HttpResponse:
    """Send `request` and return the whole answer, whatever its status.

    connect_timeout: seconds for name, TCP and TLS; timeout: seconds for everything, the last byte included. ca_file:
    PEM of the only authority to trust; empty: the system's. Redirects are not followed, proxies of the environment
    not used, cookies not kept. Raises UpstreamFailed, UpstreamTimeout and UpstreamMalformed.
    """
    loop = asyncio.get_running_loop()
    sessions, way, ends = _of(loop), _Way(), loop.time() + timeout
    limits = aiohttp.ClientTimeout(total=timeout, connect=connect_timeout, ceil_threshold=_NO_ROUNDING)
    try:
        context = _context(ca_file)
        try:
            return await _exchange(sessions.pooled, request, limits=limits, context=context, way=way)
        except _STALE:
            # A server may close a kept connection at any moment, also while our request is on its way. That says
            # nothing about its health, so it must neither fail a call nor count against a breaker. Embedding has no
            # side effect: asking once more is safe. Over a new connection, or the next stale one might answer.
            if not way.reused:
                raise
        limits = aiohttp.ClientTimeout(
            total=max(ends - loop.time(), 0.001), connect=connect_timeout, ceil_threshold=_NO_ROUNDING
        )
        return await _exchange(sessions.fresh, request, limits=limits, context=context, way=way)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise _ours(error) from error


async def notify(request: HttpRequest, *, allow: Callable[[str], bool], timeout: float) -> int:
    """Send `request` to somebody who is no model server, over a new connection; return the status of the answer.

    allow: says of the IP address that is just being connected to whether that may be. timeout: seconds for everything.
    The answer's body is not read, redirects are not followed. Raises UpstreamFailed and UpstreamTimeout.
    """
    refused = False

    def connect(info: tuple[Any, ...]) -> socket.socket:
        nonlocal refused
        if not allow(str(info[4][0])):
            refused = True
            raise PermissionError("not allowed")
        return socket.socket(info[0], info[1], info[2])

    limits = aiohttp.ClientTimeout(total=timeout, ceil_threshold=_NO_ROUNDING)
    # No cache of names: what is judged is what is connected to, each time anew.
    connector = aiohttp.TCPConnector(socket_factory=connect, force_close=True, use_dns_cache=False)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session,
            session.request(
                request.method,
                request.url,
                headers={**_HEADERS, **request.headers},
                data=request.body,
                timeout=limits,
                allow_redirects=False,
            ) as response,
        ):
            return response.status
    except TimeoutError as error:
        raise UpstreamTimeout("There was no answer in time.") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise UpstreamFailed(_why_not_notified(error, refused=refused)) from error


def _why_not_notified(error: Exception, *, refused: bool) -> str:
    if refused:
        return "The address is not allowed: it is not a public one."
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return "The certificate is not trusted."
        case aiohttp.ClientConnectorDNSError():
            return "The name cannot be resolved."
        case _:
            return "The address cannot be reached, or does not speak HTTP."


async def close() -> None:
    """Close the running loop's connections. Whoever ends a loop that has sent something calls this first."""
    sessions = _sessions.pop(asyncio.get_running_loop(), None)
    if sessions is not None:
        await sessions.pooled.close()
        await sessions.fresh.close()


async def _exchange(
    session: aiohttp.ClientSession,
    request: HttpRequest,
    *,
    limits: aiohttp.ClientTimeout,
    context: ssl.SSLContext | bool,
    way: _Way,
) -> HttpResponse:
    _way.set(way)
    async with session.request(
        request.method,
        request.url,
        headers=request.headers,
        data=_payload(request.body),
        timeout=limits,
        ssl=context,
        allow_redirects=False,
    ) as response:
        if not 200 <= response.status < 300 and way.protocol is not None:
            # Who refuses a request may not have read it to its end, and would take the rest for another request.
            way.protocol.force_close()
        body = await _body(response, longest=request.longest_answer)
        return HttpResponse(status=response.status, headers=response.headers, body=body)


def _payload(body: bytes) -> bytes | io.BytesIO | None:
    # aiohttp writes bytes in one piece; a stream lets the loop breathe between the pieces of a large call.
    return io.BytesIO(body) if len(body) > LARGE_BODY else body or None


async def _body(response: aiohttp.ClientResponse, *, longest: int | None) -> bytes:
    """Read an answer piece by piece, counted as decompressed: a small gzip may hold gigabytes."""
    limit = min(settings.MAX_UPSTREAM_BYTES, longest or settings.MAX_UPSTREAM_BYTES)
    pieces, size = [], response.content_length or 0
    if size <= limit:
        size = 0
        while size <= limit and (piece := await response.content.readany()):
            size += len(piece)
            pieces.append(piece)
    if size > limit:
        response.close()
        raise UpstreamMalformed(f"The model server's answer is larger than {limit} bytes.")
    return b"".join(pieces)


def _ours(error: Exception) -> CitadelError:
    """The error of ours for a foreign one: the only place that knows aiohttp's. Details name no address."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return UpstreamTimeout("The model server did not take the connection in time.")
        case TimeoutError():
            return UpstreamTimeout()
        case aiohttp.ClientConnectorCertificateError():
            return UpstreamFailed("The model server's certificate is not trusted.")
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return UpstreamFailed("No TLS connection to the model server could be made.")
        case aiohttp.ClientConnectorDNSError():
            return UpstreamFailed("The model server's name cannot be resolved.")
        case aiohttp.ClientConnectorError():
            return UpstreamFailed("The model server cannot be reached.")
        case aiohttp.ClientResponseError():
            return UpstreamMalformed("The model server's answer is not HTTP.")
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError():
            return UpstreamFailed("The model server broke off the connection.")
        case FileNotFoundError() | PermissionError():
            return UpstreamFailed("The endpoint's CA file cannot be read.")
        case ValueError():
            return UpstreamFailed("The endpoint's address or header cannot be sent.")
        case _:
            return UpstreamFailed()


def _of(loop: asyncio.AbstractEventLoop) -> _Sessions:
    sessions = _sessions.get(loop)
    if sessions is None:
        sessions = _sessions[loop] = _Sessions(pooled=_session(reuse=True), fresh=_session(reuse=False))
    return sessions


def _session(*, reuse: bool) -> aiohttp.ClientSession:
    # No limit here: the gateway bounds the calls in flight for each endpoint. A common limit would let one hung server
    # hold every connection.
    connector = (
        _Connector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS) if reuse else _Connector(limit=0, force_close=True)
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        trust_env=False,
    )


def _context(ca_file: str) -> ssl.SSLContext | bool:
    """Return whom to trust. A CA file that has changed is read again: no restart after its renewal."""
    return _loaded(ca_file, os.stat(ca_file).st_mtime_ns) if ca_file else True


@lru_cache(maxsize=64)
def _loaded(ca_file: str, _changed: int) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)


def _after_fork() -> None:
    # The parent's sockets and its epoll are shared with the child: closing them here would take them from the parent.
    # They are kept from being finalised instead, and a child makes its own.
    _inherited.append(_sessions.copy())
    _sessions.clear()


os.register_at_fork(after_in_child=_after_fork)
