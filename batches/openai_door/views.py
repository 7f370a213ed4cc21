"""/v1/files and /v1/batches. A client sees its own files and batches alone, whatever its scopes."""

from typing import Any

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.db.models import Model, QuerySet
from django.http import StreamingHttpResponse
from rest_framework.parsers import JSONParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from batches import file_batches, file_store
from batches.api.views import BatchView
from batches.models import FileBatch, StoredFile
from batches.openai_door import asked, documents, schema
from integrations import limits, logs
from integrations.api.authentication import client_of
from integrations.api.views import AnyAccept
from integrations.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType

FILES_PAGE = asked.MOST_FILES
BATCHES_PAGE = 20


class OpenAIView(BatchView):
    """What these addresses share."""

    required_scope = "batch"
    content_negotiation_class = AnyAccept


class FilesView(OpenAIView):
    """GET and POST /v1/files."""

    parser_classes = [MultiPartParser]

    @schema.files
    def get(self, request: Request) -> Response:
        """Answer a page of files."""
        query = request.query_params.dict()
        rows = file_store.visible(client_of(request).name)
        if purpose := asked.one_of(query, "purpose", tuple(StoredFile.Purpose.values)):
            rows = rows.filter(purpose=purpose)
        ascending = asked.one_of(query, "order", ("asc", "desc"), default="desc") == "asc"
        size = asked.limit(query, default=FILES_PAGE, most=asked.MOST_FILES)
        found, more = _page(rows, "file_id", query.get("after"), size=size, ascending=ascending)
        return Response(documents.page([documents.file(row) for row in found], more=more))

    @schema.upload
    def post(self, request: Request) -> Response:
        """Store what was uploaded."""
        http = request._request
        # Onto the disk from the first byte on, in a folder of ours, where the storage need only move it.
        http.upload_handlers = [file_store.IntoDraft(http)]
        content, name, kept = asked.upload(http)
        row = file_store.add(content, client=client_of(request).name, filename=name, kept=kept)
        return Response(documents.file(row))


class FileView(OpenAIView):
    """GET and DELETE /v1/files/{file_id}."""

    @schema.file
    def get(self, request: Request, file_id: str) -> Response:
        """Answer what is known of it."""
        return Response(documents.file(file_store.find(client_of(request).name, file_id)))

    @schema.delete
    def delete(self, request: Request, file_id: str) -> Response:
        """Delete it."""
        file_store.delete(client_of(request).name, file_id)
        return Response(documents.deleted(file_id))


class FileContentView(OpenAIView):
    """GET /v1/files/{file_id}/content."""

    @schema.content
    def get(self, request: Request, file_id: str) -> StreamingHttpResponse:
        """Stream it."""
        row = file_store.find(client_of(request).name, file_id)
        content = file_store.opened(row)
        asynchronous = isinstance(request._request, ASGIRequest)
        stream = file_store.ablocks(content) if asynchronous else file_store.blocks(content)
        return StreamingHttpResponse(
            stream,
            content_type=schema.BYTES,
            # With its length a client notices an answer that was cut off.
            headers={"Content-Length": str(row.size), "Content-Disposition": f'attachment; filename="{row.file_id}"'},
        )


class BatchesView(OpenAIView):
    """GET and POST /v1/batches."""

    parser_classes = [JSONParser]

    @schema.batches
    def get(self, request: Request) -> Response:
        """Answer a page of batches, the newest first."""
        query = request.query_params.dict()
        rows = FileBatch.objects.filter(client=client_of(request).name)
        size = asked.limit(query, default=BATCHES_PAGE, most=asked.MOST_BATCHES)
        found, more = _page(rows, "batch_id", query.get("after"), size=size, ascending=False)
        return Response(documents.page([documents.batch(row) for row in found], more=more))

    @schema.create
    def post(self, request: Request) -> Response:
        """Have the lines of a file embedded. Its texts count against the key's limits once they are known."""
        http, client = request._request, client_of(request)
        if http.content_type != "application/json":
            raise UnsupportedMediaType("Send application/json.")
        body = http.read(settings.MAX_JSON_BODY_BYTES + 1)
        if len(body) > settings.MAX_JSON_BODY_BYTES:
            raise RequestTooLarge(f"At most {settings.MAX_JSON_BODY_BYTES} bytes.")
        order = asked.order(
            body, client=client, request_id=logs.request_id.get(), key=http.headers.get("Idempotency-Key")
        )
        limits.admit_now(client, 0)
        return Response(documents.batch(file_batches.make(order)))


class OneBatchView(OpenAIView):
    """GET /v1/batches/{batch_id}."""

    @schema.batch
    def get(self, request: Request, batch_id: str) -> Response:
        """Answer it."""
        return Response(documents.batch(_own(request, batch_id)))


class CancelView(OpenAIView):
    """POST /v1/batches/{batch_id}/cancel."""

    @schema.cancel
    def post(self, request: Request, batch_id: str) -> Response:
        """Cancel it."""
        return Response(documents.batch(file_batches.cancel(_own(request, batch_id).batch_id)))


class RetryView(OpenAIView):
    """POST /v1/batches/{batch_id}/retry."""

    @schema.retry
    def post(self, request: Request, batch_id: str) -> Response:
        """Queue again the lines that have failed."""
        return Response(documents.batch(file_batches.retry(_own(request, batch_id).batch_id)))


def _own(request: Request, batch_id: str) -> FileBatch:
    return file_batches.find(client_of(request).name, batch_id)


def _page(rows: "QuerySet[Any]", name: str, after: str | None, *, size: int, ascending: bool) -> tuple[list[Any], bool]:
    """The rows after the one called `after`, and whether there are more of them. Raises InvalidRequest."""
    if after:
        last: Model | None = rows.filter(**{name: after}).first() if "\0" not in after else None
        if last is None:
            raise InvalidRequest(errors={"after": ["Not an id of this list."]})
        rows = rows.filter(**{"id__gt" if ascending else "id__lt": last.pk})
    found = list(rows.order_by("id" if ascending else "-id")[: size + 1])
    return found[:size], len(found) > size
