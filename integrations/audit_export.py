"""The trail of operators for other programs and for spreadsheets: CSV or JSON lines, streamed in constant memory."""

import csv
import io
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC
from typing import Any, Final

import orjson
from asgiref.sync import sync_to_async
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.db import connection
from django.http import Http404, HttpRequest, StreamingHttpResponse

from integrations.models import AuditEntry

COLUMNS: Final = ("at", "actor", "action", "model", "target", "before", "after", "reason")
_SLICE: Final = 500
# A spreadsheet takes a cell that begins so for a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def respond(request: HttpRequest, page: "admin.ModelAdmin[AuditEntry]", form: str) -> StreamingHttpResponse:
    """Answer with the entries that the list under the same query shows. Raises PermissionDenied or Http404."""
    if not page.has_view_permission(request):
        raise PermissionDenied
    if form not in _FORMS:
        raise Http404
    kind, write = _FORMS[form]
    try:
        rows = page.get_changelist_instance(request).get_queryset(request).order_by("-at", "-id")
    except IncorrectLookupParameters as error:
        raise Http404 from error
    asynchronous = isinstance(request, ASGIRequest)
    parts = _parts(rows, write)
    response = StreamingHttpResponse(_asynchronously(parts) if asynchronous else parts, content_type=kind)
    response["Content-Disposition"] = f'attachment; filename="audit.{form}"'
    return response


def _parts(rows: Any, write: Callable[[list[AuditEntry], bool], bytes]) -> Iterator[bytes]:
    """Slice by slice, each beginning behind the last row of the one before: nothing is held or counted."""
    last, first = None, True
    while True:
        left = rows if last is None else rows.filter(at__lte=last.at).exclude(at=last.at, id__gte=last.id)
        found = list(left[:_SLICE])
        if found or first:
            yield write(found, first)
        if len(found) < _SLICE:
            return
        last, first = found[-1], False


async def _asynchronously(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    def one() -> bytes | None:
        try:
            return next(parts, None)
        finally:
            connection.close()

    while (part := await sync_to_async(one, thread_sensitive=False)()) is not None:
        yield part


def _csv(rows: list[AuditEntry], first: bool) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    if first:
        writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in _document(row).values()] for row in rows)
    return out.getvalue().encode()


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else orjson.dumps(value).decode()
    return f"'{text}" if text.startswith(_FORMULA) else text


def _json(rows: list[AuditEntry], first: bool) -> bytes:
    return b"".join(orjson.dumps(_document(row)) + b"\n" for row in rows)


def _document(row: AuditEntry) -> dict[str, Any]:
    values = {column: getattr(row, column) for column in COLUMNS}
    return values | {"at": f"{row.at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}


_FORMS: Final = {"csv": ("text/csv; charset=utf-8", _csv), "jsonl": ("application/x-ndjson", _json)}


# --- What changed -----------------------------------------------------------------------------------------------------

Difference = tuple[str, Any, Any]  # path, before, after; None where there was or is nothing


def differences(before: Any, after: Any) -> list[Difference]:
    """Return the fields that differ, each with its path: "endpoints.0.url"."""
    old, new = dict(_flat(before)), dict(_flat(after))
    return [(key, old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    nested = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if nested is None:
        yield path or "value", value
        return
    for key, inner in nested:
        yield from _flat(inner, f"{path}.{key}" if path else str(key))
