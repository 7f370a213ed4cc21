"""What clients send to the addresses of files and batches, checked."""

from collections.abc import Mapping
from io import SEEK_END
from typing import Any, Final

import orjson
from django.conf import settings
from django.core.files.base import File
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, QueryDict, UnreadablePostError
from django.http.multipartparser import MultiPartParserError

from batches import file_batches, file_lines
from integrations.access import Client
from integrations.embed_request import idempotency_key, why_not_metadata, why_not_text
from integrations.errors import InvalidRequest, RequestTooLarge, StorageUnavailable, UnsupportedMediaType

MOST_BATCHES: Final = 100
MOST_FILES: Final = 10_000
_LONGEST_VALUE: Final = 512
_LONGEST_NAME: Final = 255
_SHORTEST_EXPIRY: Final = 3600
_LONGEST_EXPIRY: Final = 30 * 86_400

Errors = dict[str, list[str]]


def upload(http: HttpRequest) -> tuple["File[bytes]", str, float]:
    """Return the file of a multipart body, its name, and for how many seconds to keep it.

    Raises InvalidRequest, UnsupportedMediaType, RequestTooLarge.
    """
    if http.content_type != "multipart/form-data":
        raise UnsupportedMediaType("Send multipart/form-data, with the fields file and purpose.")
    given, errors = _form(http), Errors()
    content = http.FILES.get("file")
    if content is None:
        errors["file"] = ["Is missing."]
    if given.get("purpose") != "batch":
        errors["purpose"] = ["Must be batch."]
    after = _expires_after(given)
    kept, why = _expiry(after) if after else (None, "")
    if why:
        errors["expires_after"] = [why]
    if errors or content is None:
        raise InvalidRequest(errors=errors)
    if (content.size or 0) > settings.OPENAI_FILE_MAX_BYTES:
        raise RequestTooLarge(f"At most {settings.OPENAI_FILE_MAX_BYTES} bytes in a file.")
    name = (content.name or "file").replace("\0", "")[-_LONGEST_NAME:]
    return content, name, float(kept or settings.OPENAI_FILE_EXPIRY)


def _expires_after(form: QueryDict) -> dict[str, Any]:
    """The form fields expires_after[anchor] and expires_after[seconds] as the object that they are parts of."""
    found: dict[str, Any] = {
        name[14:-1]: str(form[name]) for name in form if name.startswith("expires_after[") and name.endswith("]")
    }
    seconds = found.get("seconds", "")
    if seconds.isascii() and seconds.isdigit() and len(seconds) < 10:
        found["seconds"] = int(seconds)
    return found


def _form(http: HttpRequest) -> QueryDict:
    if isinstance(http, ASGIRequest) and not http.META.get("CONTENT_LENGTH"):
        # Sent in chunks. Django's parser takes that for an empty body, although all of it is here by now.
        http.META["CONTENT_LENGTH"] = str(http._stream.seek(0, SEEK_END))
        http._stream.seek(0)
    try:
        return http.POST
    except MultiPartParserError as error:
        raise InvalidRequest(f"Not valid multipart/form-data: {error}") from None
    except UnreadablePostError:
        raise
    except OSError as error:
        raise StorageUnavailable(retry_after=5.0) from error


def order(body: bytes, *, client: Client, request_id: str, key: str | None) -> file_batches.Order:
    """Return what the JSON body of POST /v1/batches asks for. Raises InvalidRequest with `errors` per field."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(errors={"body": [f"Not valid JSON: {error.msg}."]}) from None
    if type(data) is not dict:
        raise InvalidRequest(errors={"body": ["Send a JSON object."]})
    errors = {name: [why] for name, why in _order_errors(data) if why}
    if errors:
        raise InvalidRequest(errors=errors)
    after = data.get("output_expires_after")
    return file_batches.Order(
        client=client.name,
        key_prefix=client.key.prefix if client.key else "",
        request_id=request_id,
        idempotency_key=idempotency_key(key),
        input_file_id=data["input_file_id"],
        endpoint=data["endpoint"],
        completion_window=data["completion_window"],
        metadata=data.get("metadata"),
        output_expiry=after["seconds"] if after else None,
    )


def _order_errors(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = ("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after")
    unknown = [(name[:64].encode("utf-8", "replace").decode(), "Unknown field.") for name in data if name not in known]
    window, after, metadata = (data.get(name) for name in ("completion_window", "output_expires_after", "metadata"))
    fits = type(window) is str and file_batches.window(window) is not None
    return [
        *unknown[:10],
        ("input_file_id", "" if _is_id(data.get("input_file_id")) else "Must be the id of an uploaded file."),
        ("endpoint", "" if data.get("endpoint") == file_lines.ENDPOINT else f"Must be {file_lines.ENDPOINT}."),
        ("completion_window", "" if fits else "Must be 24h or shorter, as 6h or 30m."),
        ("metadata", "" if metadata is None else why_not_metadata(metadata, _LONGEST_VALUE)),
        ("output_expires_after", "" if after is None else _expiry(after)[1]),
    ]


def _is_id(value: Any) -> bool:
    return type(value) is str and not why_not_text(value, 64)


def _expiry(after: Any) -> tuple[int | None, str]:
    """The seconds of an expires_after, and why it cannot be taken."""
    if type(after) is not dict or set(after) != {"anchor", "seconds"} or after["anchor"] != "created_at":
        return None, 'Must be {"anchor": "created_at", "seconds": …}.'
    seconds = after["seconds"]
    if type(seconds) is not int or not _SHORTEST_EXPIRY <= seconds <= _LONGEST_EXPIRY:
        return None, f"seconds must be from {_SHORTEST_EXPIRY} to {_LONGEST_EXPIRY}."
    return seconds, ""


def limit(query: Mapping[str, str], *, default: int, most: int) -> int:
    """Return the query's `limit`. Raises InvalidRequest."""
    given = query.get("limit", str(default))
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 9 else 0
    if not 1 <= number <= most:
        raise InvalidRequest(errors={"limit": [f"Must be a whole number from 1 to {most}."]})
    return number


def one_of(query: Mapping[str, str], name: str, choices: tuple[str, ...], *, default: str = "") -> str:
    """Return a query parameter that has few values; `default` without it. Raises InvalidRequest."""
    given = query.get(name, default)
    if given not in (*choices, default):
        raise InvalidRequest(errors={name: [f"Must be one of: {', '.join(choices)}."]})
    return given
