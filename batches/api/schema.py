"""What the batch addresses say about themselves in the OpenAPI description."""

from typing import Final

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema

from batches.api import serializers
from integrations import errors
from integrations.api.schema import REQUEST_ID, RETRY_AFTER, json_response, problem_responses

NDJSON: Final = "application/x-ndjson"

_ID: Final = OpenApiParameter("batch_id", str, OpenApiParameter.PATH, description="As the 202 gave it.")
_TAGS: Final = ["batch"]
_UNAVAILABLE: Final = errors.QueueUnavailable

listing = extend_schema(
    operation_id="batch_list",
    summary="List your batches, the newest first",
    description="With the scope `operate`: everybody's.",
    tags=_TAGS,
    parameters=[serializers.ListQuery, REQUEST_ID],
    responses={
        **json_response(200, serializers.BatchListSerializer, "A page."),
        **problem_responses(errors.InvalidRequest, _UNAVAILABLE),
    },
)
status = extend_schema(
    operation_id="batch_queue_status",
    summary="The queue as it is",
    description="Pending and processing batches are those of now; the rest is of the window. Needs the scope `read`.",
    tags=_TAGS,
    parameters=[
        OpenApiParameter("window", str, description="As 300, 5m, 1h or 7d; at most 90d.", default="24h"),
        REQUEST_ID,
    ],
    responses={
        **json_response(200, serializers.QueueSerializer, "All models' queues."),
        **problem_responses(errors.InvalidRequest, _UNAVAILABLE),
    },
)
detail = extend_schema(
    operation_id="batch_get",
    summary="One batch",
    tags=_TAGS,
    parameters=[_ID, REQUEST_ID],
    responses={
        **json_response(200, serializers.BatchSerializer, "Its state and place in the queue."),
        **problem_responses(errors.BatchNotFound, _UNAVAILABLE),
    },
)
purge = extend_schema(
    operation_id="batch_delete",
    summary="Delete a batch's texts and vectors",
    description="An active batch is cancelled first. The record stays; each of its results then says `purged`.",
    tags=_TAGS,
    parameters=[_ID, REQUEST_ID],
    responses={
        **json_response(200, serializers.BatchSerializer, "The record that stays."),
        **problem_responses(errors.BatchNotFound, _UNAVAILABLE),
    },
)
results = extend_schema(
    operation_id="batch_results",
    summary="What came of the texts, in the order of submission",
    description=f"Readable while the batch is in work. With `Accept: {NDJSON}` all of it, one result a line.",
    tags=_TAGS,
    parameters=[_ID, serializers.ResultsQuery, REQUEST_ID],
    responses={
        **json_response(200, serializers.ResultsSerializer, "A page, or with NDJSON every result."),
        (200, NDJSON): OpenApiResponse(serializers.ResultSerializer, description="One result a line."),
        **problem_responses(errors.InvalidRequest, errors.BatchNotFound, _UNAVAILABLE),
    },
)
cancel = extend_schema(
    operation_id="batch_cancel",
    summary="Cancel an active batch",
    description="What is finished stays readable.",
    tags=_TAGS,
    request=None,
    parameters=[_ID, REQUEST_ID],
    responses={
        **json_response(200, serializers.BatchSerializer, "Cancelled."),
        **problem_responses(errors.BatchNotFound, errors.BatchNotCancellable, _UNAVAILABLE),
    },
)
retry = extend_schema(
    operation_id="batch_retry",
    summary="Try the texts again that have no vector",
    description="Of a completed, failed or expired batch. It is queued again, released at once; its vectors stay.",
    tags=_TAGS,
    request=None,
    parameters=[_ID, REQUEST_ID, RETRY_AFTER],
    responses={
        **json_response(202, serializers.BatchSerializer, "Queued again."),
        **problem_responses(errors.BatchNotFound, errors.BatchNotRetryable, errors.QueueFull, _UNAVAILABLE),
    },
)
