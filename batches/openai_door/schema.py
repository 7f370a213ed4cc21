"""What the addresses of files and batches say about themselves in the OpenAPI description."""

from typing import Final

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema

from batches.models import StoredFile
from batches.openai_door import asked, serializers
from integrations import errors
from integrations.api.schema import REQUEST_ID, RETRY_AFTER, json_response
from integrations.openai_door.schema import TAGS, error_responses

BYTES: Final = "application/octet-stream"

_FILE: Final = OpenApiParameter("file_id", str, OpenApiParameter.PATH, description="As the upload answered it.")
_BATCH: Final = OpenApiParameter("batch_id", str, OpenApiParameter.PATH, description="As its creation answered it.")
_AFTER: Final = OpenApiParameter("after", str, description="The `last_id` of the page before.")
_AWAY: Final = (errors.QueueUnavailable, errors.StorageUnavailable)


def _limit(default: int, most: int) -> OpenApiParameter:
    kind = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return OpenApiParameter("limit", kind)


upload = extend_schema(
    operation_id="openai_file_upload",
    summary="Upload a file for a batch",
    description="Streamed. Further fields: `expires_after[anchor]` (created_at) and `expires_after[seconds]`.",
    tags=TAGS,
    request={"multipart/form-data": serializers.UploadSerializer},
    parameters=[REQUEST_ID, RETRY_AFTER],
    responses={
        **json_response(200, serializers.FileSerializer, "Stored."),
        **error_responses(
            errors.InvalidRequest, errors.RequestTimeout, errors.RequestTooLarge, errors.UnsupportedMediaType, *_AWAY
        ),
    },
)
files = extend_schema(
    operation_id="openai_files",
    summary="List your files",
    tags=TAGS,
    parameters=[
        OpenApiParameter("purpose", str, enum=StoredFile.Purpose.values),
        OpenApiParameter("order", str, enum=["asc", "desc"], default="desc", description="By age."),
        _limit(asked.MOST_FILES, asked.MOST_FILES),
        _AFTER,
        REQUEST_ID,
    ],
    responses={
        **json_response(200, serializers.FileListSerializer, "A page."),
        **error_responses(errors.InvalidRequest, errors.QueueUnavailable),
    },
)
file = extend_schema(
    operation_id="openai_file",
    summary="One file",
    tags=TAGS,
    parameters=[_FILE, REQUEST_ID],
    responses={
        **json_response(200, serializers.FileSerializer, "What is known of it."),
        **error_responses(errors.FileNotFound, errors.QueueUnavailable),
    },
)
delete = extend_schema(
    operation_id="openai_file_delete",
    summary="Delete a file",
    tags=TAGS,
    parameters=[_FILE, REQUEST_ID],
    responses={
        **json_response(200, serializers.FileDeletedSerializer, "Gone."),
        **error_responses(errors.FileNotFound, errors.FileInUse, errors.QueueUnavailable),
    },
)
content = extend_schema(
    operation_id="openai_file_content",
    summary="What a file holds",
    tags=TAGS,
    parameters=[_FILE, REQUEST_ID],
    responses={
        (200, BYTES): OpenApiResponse(OpenApiTypes.BINARY, description="Its bytes, streamed."),
        **error_responses(errors.FileNotFound, *_AWAY),
    },
)
create = extend_schema(
    operation_id="openai_batch_create",
    summary="Have the lines of a file embedded",
    tags=TAGS,
    request=serializers.BatchRequestSerializer,
    parameters=[
        OpenApiParameter(
            "Idempotency-Key",
            str,
            OpenApiParameter.HEADER,
            description="The same key and body within 24 hours answers the first batch again.",
        ),
        REQUEST_ID,
        RETRY_AFTER,
    ],
    responses={
        **json_response(200, serializers.FileBatchSerializer, "Its lines are read next."),
        **error_responses(
            errors.InvalidRequest,
            errors.FileNotFound,
            errors.IdempotencyConflict,
            errors.RequestTimeout,
            errors.RequestTooLarge,
            errors.UnsupportedMediaType,
            errors.RateLimited,
            errors.QueueUnavailable,
        ),
    },
)
batches = extend_schema(
    operation_id="openai_batches",
    summary="List your batches, the newest first",
    tags=TAGS,
    parameters=[_limit(20, asked.MOST_BATCHES), _AFTER, REQUEST_ID],
    responses={
        **json_response(200, serializers.FileBatchListSerializer, "A page."),
        **error_responses(errors.InvalidRequest, errors.QueueUnavailable),
    },
)
batch = extend_schema(
    operation_id="openai_batch",
    summary="One batch",
    tags=TAGS,
    parameters=[_BATCH, REQUEST_ID],
    responses={
        **json_response(200, serializers.FileBatchSerializer, "Its state."),
        **error_responses(errors.BatchNotFound, errors.QueueUnavailable),
    },
)
cancel = extend_schema(
    operation_id="openai_batch_cancel",
    summary="Cancel a batch",
    description="What is finished comes as its output.",
    tags=TAGS,
    request=None,
    parameters=[_BATCH, REQUEST_ID],
    responses={
        **json_response(200, serializers.FileBatchSerializer, "Cancelling."),
        **error_responses(errors.BatchNotFound, errors.BatchNotCancellable, errors.QueueUnavailable),
    },
)
retry = extend_schema(
    operation_id="openai_batch_retry",
    summary="Try the lines again that failed",
    description="Beyond OpenAI. Of a completed or expired batch; its vectors stay, and its output is written anew.",
    tags=TAGS,
    request=None,
    parameters=[_BATCH, REQUEST_ID, RETRY_AFTER],
    responses={
        **json_response(200, serializers.FileBatchSerializer, "In progress again."),
        **error_responses(errors.BatchNotFound, errors.BatchNotRetryable, errors.QueueFull, errors.QueueUnavailable),
    },
)
