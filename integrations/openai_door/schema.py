"""What the OpenAI addresses say about themselves in the OpenAPI description."""

from typing import Final

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema

from integrations import errors
from integrations.api.schema import OF_EVERY_ADDRESS, REQUEST_ID, RETRY_AFTER, Responses, json_response
from integrations.errors import CitadelError
from integrations.openai_door import serializers

TAGS: Final = ["openai"]


def error_responses(*kinds: type[CitadelError]) -> Responses:
    """Return `responses` of extend_schema for these errors and those of every address, in OpenAI's shape and status."""
    by_status: dict[int, list[str]] = {}
    for kind in sorted({*kinds, *OF_EVERY_ADDRESS}, key=lambda k: (k.status, k.code)):
        status = 400 if kind is errors.TextRejected else kind.status
        by_status.setdefault(status, []).append(f"`{kind.code}`: {kind().detail}")
    return {
        (status, "application/json"): OpenApiResponse(
            serializers.OpenAIErrorSerializer, description="\n\n".join(described)
        )
        for status, described in by_status.items()
    }


embeddings = extend_schema(
    operation_id="openai_embeddings",
    summary="Embed texts as OpenAI's API does",
    description="Always live. For a model that is queued only: 409, and POST /v1/batches.",
    tags=TAGS,
    request=serializers.EmbeddingsRequestSerializer,
    parameters=[REQUEST_ID, RETRY_AFTER],
    responses={
        **json_response(200, serializers.EmbeddingListSerializer, "Vectors."),
        **error_responses(
            errors.InvalidRequest,
            errors.TextRejected,
            errors.ModelNotFound,
            errors.PatternConflict,
            errors.RequestTimeout,
            errors.RequestTooLarge,
            errors.UnsupportedMediaType,
            errors.RateLimited,
            errors.UpstreamFailed,
            errors.UpstreamMalformed,
            errors.UpstreamTimeout,
            errors.CircuitOpen,
            errors.ModelDisabled,
            errors.Overloaded,
        ),
    },
)
models = extend_schema(
    operation_id="openai_models",
    summary="List the models",
    tags=TAGS,
    parameters=[REQUEST_ID],
    responses={**json_response(200, serializers.ModelListSerializer, "All of them."), **error_responses()},
)
model = extend_schema(
    operation_id="openai_model",
    summary="One model",
    tags=TAGS,
    parameters=[OpenApiParameter("model", str, OpenApiParameter.PATH, description="Its name."), REQUEST_ID],
    responses={
        **json_response(200, serializers.ModelSerializer, "The model."),
        **error_responses(errors.ModelNotFound),
    },
)
