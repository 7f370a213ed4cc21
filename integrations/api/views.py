"""POST /api/v1/external/{model}/embed, for whatever the live door passes on and for servers without the door."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from integrations import embed_request, limits, live, logs, patterns, snapshot
from integrations.access import SCOPE_OF_MODE, Client, require, require_model
from integrations.api import schema
from integrations.api.authentication import Scopes, client_of
from integrations.api.bodies import live_body, queued_body
from integrations.errors import InvalidRequest, PatternConflict, RequestTooLarge, UnsupportedMediaType
from integrations.patterns import Accepted, EmbedCall, Embeddings, Mode, Pattern

Handler = Callable[[EmbedCall], Embeddings | Accepted]
LinesHandler = Callable[[EmbedCall, Iterable[bytes]], Accepted]

BATCH_PATH: Final = "/api/v1/external/batch/"
# A byte of text may come as six of JSON (\u0000); the rest is room for {"text": ""}.
_LINE_FACTOR: Final = 6
_LINE_ROOM: Final = 1024
_BLOCK: Final = 64 * 2**10


class AnyAccept(BaseContentNegotiation):
    """There is one representation; the door, too, gives it whatever Accept says (RFC 9110, 12.5.1 allows both)."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        """The first; the body is read by integrations.embed_request."""
        return parsers[0]

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        """The first."""
        renderer = next(iter(renderers))
        return renderer, renderer.media_type or ""


class EmbedView(APIView):
    """Embeds texts, now or in the queue, as the model's patterns say."""

    # Given by the composition root: what carries out each pattern, and what takes a body of many lines.
    handlers: Mapping[Pattern, Handler] = {}
    lines_handler: LinesHandler | None = None

    # Which of the two it needs is known once the pattern is chosen.
    required_scopes: ClassVar[dict[str, Scopes]] = {"POST": ("embed", "batch")}
    content_negotiation_class = AnyAccept

    @schema.embed
    def post(self, request: Request, model: str) -> HttpResponse:
        """Check, choose the pattern, hand over, answer."""
        http = request._request  # DRF's own stream is None for a body without Content-Length
        match http.content_type:
            case "application/json":
                return self._one_body(http, client_of(request), model)
            case "application/x-ndjson":
                return self._lines(http, client_of(request), model)
            case _:
                raise UnsupportedMediaType

    def _one_body(self, http: HttpRequest, client: Client, slug: str) -> HttpResponse:
        call = live.prepare(
            _body(http),
            slug=slug,
            client=client,
            request_id=logs.request_id.get(),
            idempotency_key=_idempotency_key(http),
        )
        may_queue = "batch" in client.scopes
        if not _live_failed(http):  # the door has counted what it tried
            limits.admit_now(client, len(call.request.texts))
        if _live_failed(http) and call.assignment.pattern == Pattern.HYBRID and may_queue:
            call = replace(call, mode=Mode.QUEUED)
        pattern = Pattern(call.assignment.pattern)
        if call.mode is Mode.LIVE and not may_queue:
            # No falling back to the queue: the batch would be out of this client's reach.
            pattern = Pattern.REAL_TIME
        return _answer(call, self.handlers[pattern](call))

    def _lines(self, http: HttpRequest, client: Client, slug: str) -> HttpResponse:
        if self.lines_handler is None:
            raise UnsupportedMediaType("Send application/json.")
        require(client, SCOPE_OF_MODE[Mode.QUEUED])
        require_model(client, slug)
        model = snapshot.current().serving(slug, live=False)
        parsed = embed_request.parse_lines_params(http.META.get("QUERY_STRING", ""))
        try:
            chosen = patterns.choose(model, parsed)
        except PatternConflict:
            raise PatternConflict(
                f"{slug} answers live only; NDJSON is always queued: send application/json."
            ) from None
        call = EmbedCall(
            request_id=logs.request_id.get(),
            client=client.name,
            model=model,
            assignment=chosen.assignment,
            mode=chosen.mode,
            request=parsed,
            received_at=datetime.now(UTC),
            idempotency_key=_idempotency_key(http),
        )
        limits.admit_now(client, 0)
        return _answer(call, self.lines_handler(call, limits.metered(client, _read_lines(http))))


def _idempotency_key(http: HttpRequest) -> str:
    return embed_request.idempotency_key(http.headers.get("Idempotency-Key"))


def _answer(call: EmbedCall, result: Embeddings | Accepted) -> HttpResponse:
    if isinstance(result, Embeddings):
        return HttpResponse(live_body(call, result), content_type="application/json")
    return HttpResponse(
        queued_body(call, result),
        status=202,
        content_type="application/json",
        headers={"Location": BATCH_PATH + result.batch_id},
    )


def _live_failed(http: HttpRequest) -> bool:
    """Whether the door has tried this call live already, in vain."""
    return isinstance(http, ASGIRequest) and bool(http.scope.get("citadel.live_failed"))


def _body(http: HttpRequest) -> bytes:
    """The whole body. Raises RequestTooLarge, also for servers that have no door in front of them."""
    limit = settings.MAX_JSON_BODY_BYTES
    body = http.read(limit + 1)
    if len(body) > limit:
        raise RequestTooLarge(f"At most {limit} bytes of JSON; send more as application/x-ndjson.")
    return body


def _read_lines(http: HttpRequest) -> Iterator[bytes]:
    """The body's lines, one in memory at a time.

    Raises RequestTooLarge, and InvalidRequest for a line without end or a body that is shorter than announced: a part
    of a batch must not be taken for the whole. Read in blocks: not every server's readline can be trusted.
    """
    longest = settings.MAX_TEXT_BYTES * _LINE_FACTOR + _LINE_ROOM
    total, number, rest = 0, 0, b""
    while block := http.read(_BLOCK):
        total += len(block)
        if total > settings.MAX_NDJSON_BODY_BYTES:
            raise RequestTooLarge(f"At most {settings.MAX_NDJSON_BODY_BYTES} bytes.")
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
        number += len(lines)
        if len(rest) > longest:
            raise InvalidRequest(errors={f"lines.{number + 1}": [f"At most {settings.MAX_TEXT_BYTES} bytes of text."]})
    if total < int(http.META.get("CONTENT_LENGTH") or 0):
        raise InvalidRequest("The body ended before its Content-Length.")
    if rest:
        yield rest
