"""The ASGI door: what every request passes, and what answers live calls before Django sees them.

A Django view costs a live call more than the call itself (a thread, receivers, rendering), so for POST …/{model}/embed
the door does key, parsing and pattern from the snapshot and answers by itself; what it does not answer it replays to
Django, the body included. On that way there is no ORM, no thread hop and no round trip to PostgreSQL or Redis.
"""

import asyncio
import gc
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from integrations import access, breakers, cache, gateway, limits, logs, loop, process, snapshot, transport
from integrations.api.bodies import live_body
from integrations.api.problems import body_for
from integrations.embed_request import check_mode, parse_json
from integrations.errors import (
    CircuitOpen,
    CitadelError,
    InvalidRequest,
    Overloaded,
    RequestTimeout,
    RequestTooLarge,
    UpstreamBusy,
    UpstreamError,
)
from integrations.openai_door import requests as openai_requests
from integrations.openai_door.bodies import embeddings_body
from integrations.patterns import EmbedCall, Embeddings, Mode, Pattern, choose

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# What hybrid answers by queueing the request instead: the servers' fault, and it may pass.
SERVERS_FAULT = (CircuitOpen, Overloaded, UpstreamBusy, UpstreamError)
# Seconds until it is watched whether a call's client is still there: most calls are over before.
WATCH_AFTER = 0.25
# Of Python's collector: new objects before a look, and looks at the younger before one at the older.
GC_THRESHOLDS = (20_000, 20, 20)
NDJSON = "application/x-ndjson"

OPENAI_EMBEDDINGS = "/v1/embeddings"
OPENAI_FILES = "/v1/files"
# What a form may have around its file.
FORM_ROOM = 64 * 2**10
_EMBED = re.compile(r"/api/v1/external/([A-Za-z0-9_-]+)/embed")


async def answer(call: EmbedCall) -> Embeddings:
    """Answer a live call. Raises what the gateway raises."""
    if call.model.cache and not call.request.tokens:
        return await cache.answer(call, partial(_ask, call))
    return await _ask(call, call.request.texts)


async def _ask(call: EmbedCall, texts: Sequence[str]) -> Embeddings:
    return await gateway.embed(
        call.model,
        texts,
        assignment=call.assignment,
        pattern=call.assignment.pattern,
        mode=Mode.LIVE,
        request_id=call.request_id,
        client=call.client,
        deadline=call.assignment.deadline,
        input_type=call.request.input_type,
        dimensions=call.request.dimensions,
    )


def real_time(call: EmbedCall) -> Embeddings:
    """Answer a live call from synchronous code, such as a view under any server."""
    breakers.start()  # a server without lifespan has not done it
    return loop.run(answer(call))


def prepare(body: bytes, *, slug: str, client: access.Client, request_id: str, idempotency_key: str = "") -> EmbedCall:
    """Make the call that a JSON body asks for, its pattern chosen and its client allowed to make it.

    Raises ModelNotFound, ModelDisabled, InvalidRequest, PatternNotAssigned, PatternConflict, NotPermitted.
    """
    access.require_model(client, slug)
    known = snapshot.current()
    model = known.model(slug)
    request = parse_json(body)
    chosen = choose(model, request)
    access.require(client, access.SCOPE_OF_MODE[chosen.mode])
    known.serving(slug, live=chosen.mode is Mode.LIVE)
    check_mode(request, chosen.mode)
    return EmbedCall(
        request_id=request_id,
        client=client.name,
        model=model,
        assignment=chosen.assignment,
        mode=chosen.mode,
        request=request,
        received_at=datetime.now(UTC),
        idempotency_key=idempotency_key,
    )


class LiveDoor:
    """Stands before Django's ASGI application."""

    def __init__(self, app: Any) -> None:
        self._app: App = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's scope."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        request_id = logs.accept_request_id(headers.get(b"x-request-id"))
        scope["citadel.request_id"] = request_id
        token = logs.request_id.set(request_id)
        reply = _Reply(send, request_id, scope["path"])
        try:
            _check_host(headers.get(b"host", ""))
            body = _Body(receive, headers, upload=_uploads(scope, headers))
            slug = _live_slug(scope, headers)
            if _asks_json(scope, OPENAI_EMBEDDINGS, headers):
                await self._openai(body, reply, headers)
            elif slug is None or not await self._live(scope, body, reply, headers, slug=slug):
                await self._app(scope, body.receive, reply.send)
        except CitadelError as error:
            await reply.problem(error)
        finally:
            logs.request_id.reset(token)

    async def _live(
        self, scope: Scope, body: "_Body", reply: "_Reply", headers: dict[bytes, str], *, slug: str
    ) -> bool:
        """Answer a live call; False for one that Django shall answer, the body ready to be read again."""
        client = access.identify(headers.get(b"authorization"), headers.get(b"x-api-key"))
        call = prepare(await body.read(), slug=slug, client=client, request_id=reply.request_id)
        if call.mode is not Mode.LIVE:
            return False
        await limits.admit(client, len(call.request.texts))
        try:
            embeddings = await body.unless_gone(answer(call))
        except SERVERS_FAULT:
            # Without the scope for queued work the batch would be out of the client's reach.
            if call.assignment.pattern != Pattern.HYBRID or "batch" not in client.scopes:
                raise
            scope["citadel.live_failed"] = True
            return False
        if embeddings is not None:
            await reply.json(live_body(call, embeddings))
        return True

    async def _openai(self, body: "_Body", reply: "_Reply", headers: dict[bytes, str]) -> None:
        """Answer POST /v1/embeddings."""
        client = access.identify(headers.get(b"authorization"), headers.get(b"x-api-key"))
        asked, call = openai_requests.prepare(await body.read(), client=client, request_id=reply.request_id)
        await limits.admit(client, len(call.request.texts))
        embeddings = await body.unless_gone(answer(call))
        if embeddings is not None:
            await reply.json(embeddings_body(asked, embeddings))


def _asks_json(scope: Scope, path: str, headers: dict[bytes, str]) -> bool:
    media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    return scope["method"] == "POST" and scope["path"] == path and media_type == "application/json"


def _uploads(scope: Scope, headers: dict[bytes, str]) -> bool:
    """Whether a file is uploaded; its client is asked for first, since Django would take all of it in before."""
    if scope["method"] != "POST" or scope["path"] != OPENAI_FILES:
        return False
    client = access.identify(headers.get(b"authorization"), headers.get(b"x-api-key"))
    access.require(client, access.SCOPE_OF_MODE[Mode.QUEUED])
    return headers.get(b"content-type", "").startswith("multipart/form-data")


def _live_slug(scope: Scope, headers: dict[bytes, str]) -> str | None:
    match = _EMBED.fullmatch(scope["path"])
    return match[1] if match and _asks_json(scope, match[0], headers) else None


def _check_host(header: str) -> None:
    if not _is_allowed(header, tuple(settings.ALLOWED_HOSTS)):
        raise InvalidRequest("The Host header names none of ALLOWED_HOSTS.")


@lru_cache(maxsize=256)
def _is_allowed(header: str, allowed: tuple[str, ...]) -> bool:
    domain, _ = split_domain_port(header)
    return bool(domain) and validate_host(domain, allowed)


class _Body:
    """A request's body under a byte cap and a read time limit; once read it can be replayed."""

    def __init__(self, receive: Receive, headers: dict[bytes, str], *, upload: bool = False) -> None:
        self._receive = receive
        lines = headers.get(b"content-type", "").startswith(NDJSON)
        streamed = lines or upload
        self._cap = settings.MAX_NDJSON_BODY_BYTES if lines else settings.MAX_JSON_BODY_BYTES
        if upload:
            self._cap = settings.OPENAI_FILE_MAX_BYTES + FORM_ROOM
        self._seen = 0
        self._complete = False
        self._kept: bytes | None = None
        # A stream may take as long as it needs as long as it does not stand still; a plain body has one limit in all.
        self._ends = None if streamed else asyncio.get_running_loop().time() + settings.BODY_READ_TIMEOUT
        self._length = int(headers.get(b"content-length") or -1)  # -1: not announced
        self._end_unread = False
        if self._length > self._cap:
            raise RequestTooLarge(f"At most {self._cap} bytes.")

    async def read(self) -> bytes:
        """Return the whole body. Raises RequestTooLarge, RequestTimeout, InvalidRequest."""
        parts = []
        while not self._complete:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise InvalidRequest("The connection ended before the body did.")
            parts.append(message.get("body", b""))
        self._kept = b"".join(parts)
        return self._kept

    async def receive(self) -> Message:
        """ASGI receive for the application: the kept body first, then what comes.

        A body is whole once it is as long as its header says. The server tells that in a message of its own, which
        would be another round trip between its threads for each call.
        """
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return {"type": "http.request", "body": kept, "more_body": False}
        if self._complete:
            return await self._after_body()
        message = await self._in_time()
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            more = message.get("more_body", False)
            self._end_unread = more and self._seen == self._length
            self._complete = self._end_unread or not more
            message["more_body"] = not self._complete
        if self._seen > self._cap:
            raise RequestTooLarge(f"At most {self._cap} bytes.")
        return message

    async def _after_body(self) -> Message:
        """What comes after the body: the word that the client has gone."""
        message = await self._receive()
        if self._end_unread and message["type"] == "http.request":
            self._end_unread = False
            message = await self._receive()
        return message

    async def _in_time(self) -> Message:
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(self._ends or now + settings.BODY_READ_TIMEOUT):
                return await self._receive()
        except TimeoutError:
            raise RequestTimeout from None

    async def unless_gone(self, work: Awaitable[Embeddings]) -> Embeddings | None:
        """Await `work`, but stop it when the client goes away: then nobody waits, and None is returned.

        Whether the client is there is only asked once the work has taken a while: a task and a word with the server for
        each call would cost more than the few milliseconds that are worked on for nobody.
        """
        loop, me = asyncio.get_running_loop(), asyncio.current_task()
        watcher: asyncio.Task[bool] | None = None

        async def watch() -> bool:
            await self._after_body()
            return me is not None and me.cancel()

        def begin() -> None:
            nonlocal watcher
            watcher = loop.create_task(watch())

        timer = loop.call_later(WATCH_AFTER, begin)
        try:
            return await work
        except asyncio.CancelledError:
            if watcher is None or not watcher.done() or watcher.cancelled() or me is None:
                raise
            me.uncancel()
            return None
        finally:
            timer.cancel()
            if watcher is not None:
                watcher.cancel()


class _Reply:
    """What goes back, with the request's id on it."""

    def __init__(self, send: Send, request_id: str, path: str) -> None:
        self._send = send
        self._path = path
        self.request_id = request_id
        self._started = False

    async def send(self, message: Message) -> None:
        """ASGI send for the application."""
        self._started = self._started or message["type"] == "http.response.start"
        await self._send(message)

    async def json(self, body: bytes) -> None:
        """Answer 200."""
        await self._whole(200, {"Content-Type": "application/json"}, body)

    async def problem(self, error: CitadelError) -> None:
        """Answer with a problem body, unless an answer is under way: then the connection can only be dropped."""
        if self._started:
            raise error
        await self._whole(*body_for(self._path, error, self.request_id))

    async def _whole(self, status: int, headers: dict[str, str], body: bytes) -> None:
        raw = [
            *[(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", self.request_id.encode()),
            (b"x-content-type-options", b"nosniff"),
        ]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await _start()
            await send({"type": "lifespan.startup.complete"})
        else:
            await _stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _start() -> None:
    loop.attach(asyncio.get_running_loop())
    # In a thread: it asks PostgreSQL, and waits for it no longer than it must. Live calls need only the snapshot.
    await asyncio.to_thread(process.start, keep_snapshot=True)
    # What is there now stays: Django's hundred thousands of objects are not looked through again and again, which held
    # every call up for 100 ms at a time.
    gc.collect()
    gc.freeze()
    # What calls leave behind hardly ever needs the collector, and it looked through all calls under way at each 700 new
    # objects: 5 % of the time of a busy process.
    gc.set_threshold(*GC_THRESHOLDS)
    log.info("the door is open")


async def _stop() -> None:
    await asyncio.to_thread(process.stop)
    await cache.close()
    await transport.close()
    loop.detach()
