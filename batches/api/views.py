"""The batch addresses. A client sees its own batches; a key with the scope `operate` sees everybody's."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.core.handlers.asgi import ASGIRequest
from django.db import InterfaceError, OperationalError
from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from rest_framework import serializers as drf
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from batches import lifecycle, results
from batches.api import documents, schema, serializers
from batches.models import BatchJob
from integrations.api.authentication import Scopes, client_of
from integrations.api.bodies import dump
from integrations.api.renderers import OrjsonRenderer
from integrations.errors import BatchNotFound, InvalidRequest, QueueUnavailable

RETRY_AFTER = 5.0


class NdjsonRenderer(BaseRenderer):
    """Offers application/x-ndjson to clients that accept it; the view itself writes the lines."""

    media_type = schema.NDJSON
    format = "ndjson"
    charset = None

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        """Return `data` as one line."""
        return dump(data) + b"\n"


class BatchView(APIView):
    """What the batch addresses share."""

    required_scope: ClassVar[Scopes] = ("batch", "operate")

    def handle_exception(self, exc: Exception) -> Response:
        """PostgreSQL away is the queue away."""
        if isinstance(exc, OperationalError | InterfaceError):
            exc = QueueUnavailable("The queue cannot be asked now.", retry_after=RETRY_AFTER)
        return super().handle_exception(exc)


class BatchListView(BatchView):
    """GET batch."""

    @schema.listing
    def get(self, request: Request) -> Response:
        """Answer a page of batches."""
        asked = _query(serializers.ListQuery, request)
        limit = asked["limit"]
        jobs = list(_filtered(_visible(request), asked).order_by("-id")[: limit + 1])
        more = documents.next_page(request, cursor=jobs[limit - 1].batch_id) if len(jobs) > limit else None
        return Response({"batches": [documents.summary(job) for job in jobs[:limit]], "next": more})


class QueueStatusView(BatchView):
    """GET batch/queue/status."""

    required_scope = "read"

    @schema.status
    def get(self, request: Request) -> Response:
        """Answer how the queue is."""
        return Response(documents.queue(_query(serializers.StatusQuery, request)["window"]))


class BatchDetailView(BatchView):
    """GET and DELETE batch/{id}."""

    @schema.detail
    def get(self, request: Request, batch_id: str) -> Response:
        """Answer the batch."""
        return Response(documents.batch(_find(request, batch_id)))

    @schema.purge
    def delete(self, request: Request, batch_id: str) -> Response:
        """Delete its texts and vectors."""
        return Response(documents.batch(lifecycle.purge(_find(request, batch_id).batch_id)))


class BatchResultsView(BatchView):
    """GET batch/{id}/results."""

    renderer_classes = [OrjsonRenderer, NdjsonRenderer]

    @schema.results
    def get(self, request: Request, batch_id: str) -> HttpResponseBase:
        """Answer a page of results, or all of them as NDJSON."""
        job = _find(request, batch_id)
        if isinstance(request.accepted_renderer, NdjsonRenderer):
            asynchronous = isinstance(request._request, ASGIRequest)
            stream = results.alines(job) if asynchronous else results.lines(job)
            return StreamingHttpResponse(stream, content_type=schema.NDJSON)
        asked = _query(serializers.ResultsQuery, request)
        page = results.page(job, offset=asked["offset"], limit=asked["limit"])
        more = documents.next_page(request, offset=page.next) if page.next is not None else None
        return Response({"results": page.rows, "total": page.total, "next": more})


class BatchCancelView(BatchView):
    """POST batch/{id}/cancel."""

    @schema.cancel
    def post(self, request: Request, batch_id: str) -> Response:
        """Cancel it."""
        return Response(documents.batch(lifecycle.cancel(_find(request, batch_id).batch_id)))


class BatchRetryView(BatchView):
    """POST batch/{id}/retry."""

    @schema.retry
    def post(self, request: Request, batch_id: str) -> Response:
        """Queue again what has no vector."""
        return Response(documents.batch(lifecycle.retry(_find(request, batch_id).batch_id)), status=202)


def _visible(request: Request) -> QuerySet[BatchJob]:
    client = client_of(request)
    jobs = BatchJob.objects.all()
    return jobs if "operate" in client.scopes else jobs.filter(client=client.name)


def _find(request: Request, batch_id: str) -> BatchJob:
    """Another client's batch is not found either. Raises BatchNotFound."""
    job = _visible(request).filter(batch_id=batch_id).first()
    if job is None:
        raise BatchNotFound
    return job


def _filtered(jobs: QuerySet[BatchJob], asked: Mapping[str, Any]) -> QuerySet[BatchJob]:
    columns = {
        "model": "model",
        "state": "state",
        "created_after": "submitted_at__gte",
        "created_before": "submitted_at__lt",
    }
    found = jobs.filter(**{column: asked[name] for name, column in columns.items() if name in asked})
    if "cursor" not in asked:
        return found
    last = jobs.filter(batch_id=asked["cursor"]).first()
    if last is None:
        raise InvalidRequest(errors={"cursor": ["Not a cursor that this list gave."]})
    return found.filter(id__lt=last.pk)


def _query(kind: type[drf.Serializer[None]], request: Request) -> Mapping[str, Any]:
    query = kind(data=request.query_params.dict())
    query.is_valid(raise_exception=True)
    return query.validated_data  # type: ignore[no-any-return]  # DRF's stubs say Any
