"""The OpenAPI description: /api/schema/, the page at /api/docs/ that shows it, and what views say about themselves."""

from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from integrations import errors
from integrations.api import problems, serializers
from integrations.errors import CitadelError

Responses = dict[tuple[int, str], OpenApiResponse]

# What any address that needs a key may answer.
OF_EVERY_ADDRESS: Final[tuple[type[CitadelError], ...]] = (
    errors.NotAuthenticated,
    errors.NotPermitted,
    errors.CitadelError,
    errors.NotReady,
)


def problem_responses(*kinds: type[CitadelError]) -> Responses:
    """Return `responses` of extend_schema for these errors and those of every address, one entry a status."""
    by_status: dict[int, list[type[CitadelError]]] = {}
    for kind in sorted({*kinds, *OF_EVERY_ADDRESS}, key=lambda k: (k.status, k.code)):
        by_status.setdefault(kind.status, []).append(kind)
    return {
        (status, problems.MEDIA_TYPE): OpenApiResponse(serializers.ProblemSerializer, description=_described(found))
        for status, found in by_status.items()
    }


def _described(kinds: list[type[CitadelError]]) -> str:
    return "\n\n".join(f"`{kind.code}`: {kind().detail}" for kind in kinds)


def json_response(status: int, serializer: Any, description: str) -> Responses:
    """Return `responses` of extend_schema for one JSON document."""
    return {(status, "application/json"): OpenApiResponse(serializer, description=description)}


REQUEST_ID: Final = OpenApiParameter(
    "X-Request-ID",
    str,
    OpenApiParameter.HEADER,
    description="The request's id: yours, if you sent a valid one (at most 64 letters, digits, `._-`), else a new one.",
    response=True,
)
RETRY_AFTER: Final = OpenApiParameter(
    "Retry-After",
    int,
    OpenApiParameter.HEADER,
    description="Seconds after which to ask again.",
    response=[429, 502, 503, 504],
)
_IDEMPOTENCY: Final = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="For queued work: the same key and body within 24 hours answers the first batch again.",
)
_LOCATION: Final = OpenApiParameter(
    "Location", str, OpenApiParameter.HEADER, description="Where to ask for the batch.", response=[202]
)
_EMBED_ERRORS: Final = (
    errors.InvalidRequest,
    errors.ModelNotFound,
    errors.PatternNotAssigned,
    errors.PatternConflict,
    errors.IdempotencyConflict,
    errors.RequestTimeout,
    errors.RequestTooLarge,
    errors.UnsupportedMediaType,
    errors.TextRejected,
    errors.RateLimited,
    errors.QueueFull,
    errors.UpstreamFailed,
    errors.UpstreamMalformed,
    errors.UpstreamTimeout,
    errors.CircuitOpen,
    errors.ModelDisabled,
    errors.Overloaded,
    errors.QueueUnavailable,
)


def _ndjson_parameters() -> list[OpenApiParameter]:
    """The request's other fields, which an NDJSON body has no place for."""
    kinds: dict[str, Any] = {
        "urgent": bool,
        "batch": bool,
        "pattern": str,
        "input_type": str,
        "priority": int,
        "client_metadata": str,
        "callback_url": str,
    }
    return [
        OpenApiParameter(name, kind, description="With an `application/x-ndjson` body only; in JSON it is a field.")
        for name, kind in kinds.items()
    ]


def _example(name: str, value: object) -> OpenApiExample:
    return OpenApiExample(name, value=value, request_only=True, media_type="application/json")


_EXAMPLES: Final = [
    _example("One text, now", {"text": "test embedding", "urgent": True}),
    _example("One text", {"text": "test embedding"}),
    _example("Several texts, in the queue", {"texts": ["text1", "text2", "text3"], "batch": True}),
]

embed = extend_schema(
    operation_id="embed",
    summary="Embed texts, now or in the queue",
    description=(
        "The model's patterns decide: a live call answers 200 with vectors, queued work 202 with the batch's id. "
        '`application/x-ndjson` is for large work: one `{"text": …}` a line, always queued. '
        "Needs the scope `embed` for live calls and `batch` for queued work."
    ),
    tags=["embed"],
    request={
        "application/json": serializers.EmbedRequestSerializer,
        "application/x-ndjson": serializers.LineSerializer,
    },
    responses={
        **json_response(200, serializers.LiveAnswerSerializer, "Vectors."),
        **json_response(202, serializers.QueuedAnswerSerializer, "Stored, and waiting in the queue."),
        **problem_responses(*_EMBED_ERRORS),
    },
    examples=_EXAMPLES,
    parameters=[
        OpenApiParameter("model", str, OpenApiParameter.PATH, description="The model's name."),
        *_ndjson_parameters(),
        _IDEMPOTENCY,
        REQUEST_ID,
        RETRY_AFTER,
        _LOCATION,
    ],
)

drill = extend_schema(
    operation_id="drill",
    summary="Try a model's failover",
    description=(
        "Runs the steps of a failure through breakers of their own, so that live traffic does not notice: only the "
        "first endpoint's connection is made to fail, the next one gets a real request. Needs the scope `operate`."
    ),
    tags=["operate"],
    request=serializers.DrillRequestSerializer,
    responses={
        **json_response(200, serializers.DrillAnswerSerializer, "What the drill found, whether it passed or not."),
        **problem_responses(
            errors.InvalidRequest, errors.ModelNotFound, errors.ModelDisabled, errors.UnsupportedMediaType
        ),
    },
    parameters=[REQUEST_ID],
)

live = extend_schema(
    operation_id="health_live",
    summary="Whether the process answers",
    tags=["health"],
    auth=[],
    responses=json_response(200, serializers.LiveSerializer, "It does."),
    parameters=[REQUEST_ID],
)

ready = extend_schema(
    operation_id="health_ready",
    summary="Whether to send work here",
    description="200 as soon as the process has its configuration: live calls outlive PostgreSQL and Redis.",
    tags=["health"],
    auth=[],
    responses={
        **json_response(200, serializers.ReadySerializer, "Ready for live calls; `degraded` names what is missing."),
        (400, problems.MEDIA_TYPE): OpenApiResponse(
            serializers.ProblemSerializer, description=_described([errors.InvalidRequest])
        ),
        (503, problems.MEDIA_TYPE): OpenApiResponse(
            serializers.ProblemSerializer, description=_described([errors.NotReady, errors.QueueUnavailable])
        ),
    },
    parameters=[
        OpenApiParameter(
            "need", str, enum=["queue"], description="`queue`: 503 also while PostgreSQL or all workers are missing."
        ),
        REQUEST_ID,
    ],
)


class ApiKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # its __init_subclass__
    """How a client shows its key: either of the two headers."""

    target_class = "integrations.api.authentication.ApiKeyAuthentication"
    name = ["bearer", "apiKey"]

    def get_security_requirement(self, auto_schema: AutoSchema) -> list[dict[str, list[str]]]:
        """One of the two is enough."""
        return [{"bearer": []}, {"apiKey": []}]

    def get_security_definition(self, auto_schema: AutoSchema) -> list[dict[str, str]]:
        """The two headers."""
        return [
            {"type": "http", "scheme": "bearer"},
            {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        ]


class SchemaView(SpectacularAPIView):
    """The OpenAPI description, as JSON with ?format=json, else as YAML."""

    authentication_classes = ()
    permission_classes = ()


class DocsView(SpectacularSwaggerSplitView):
    """The page that shows the schema; its script has an address of its own, so that nothing is inline."""

    authentication_classes = ()
    permission_classes = ()
    url_name = "schema"


def errors_page(request: HttpRequest) -> HttpResponse:
    """What each problem's `type` leads to: every error code in one page."""
    kinds = sorted({kind.code: kind for kind in reversed(errors.tree())}.values(), key=lambda k: (k.status, k.code))
    rows = [{"code": k.code, "title": k().title, "status": k.status, "detail": k().detail} for k in kinds]
    return render(request, "api/errors.html", {"errors": rows})
