"""A client's embedding request, checked: JSON bodies, and NDJSON with its other fields in the query.

What is refused is refused with its field named ("texts.3"), before anything is stored or sent. The live door runs this
for every call, so one short text must cost only microseconds.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson
from django.conf import settings

from integrations import callback_targets
from integrations.errors import InvalidRequest
from integrations.patterns import EmbedRequest, Mode, Pattern

_MAX_NAMED: Final = 10  # a list of 10,000 wrong texts is not answered with 10,000 complaints
_MAX_METADATA: Final = 16
_MAX_METADATA_KEY: Final = 64
_MAX_METADATA_VALUE: Final = 256
_MAX_IDEMPOTENCY_KEY: Final = 255
_BOTH: Final = "urgent and batch cannot both be true."

Errors = dict[str, list[str]]


def parse_json(body: bytes) -> EmbedRequest:
    """Return the request in a JSON body. Raises InvalidRequest with `errors` per field."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _named(body, error.msg) from None
    return _checked(data)


def parse_lines_params(query: str) -> EmbedRequest:
    """Return the request in the query string of an NDJSON upload: `texts` empty, `batch` true, for it is always queued.

    Booleans are "true" and "false", client_metadata is a JSON object. Raises InvalidRequest with `errors` per field.
    """
    data: dict[str, Any] = {}
    errors: Errors = {}
    for name, value in parse_qsl(query, keep_blank_values=True, errors="surrogateescape"):
        if name in data:
            errors[_shown(name)] = ["Given twice."]
        data[name] = _from_query(name, value)
    if data.get("urgent") is True:
        errors["urgent"] = ["An NDJSON body is always queued: it cannot be urgent."]
    errors = _field_errors(data) | errors
    _raise(errors)
    return EmbedRequest(texts=(), single=False, **{**data, "batch": True})


def parse_lines(lines: Iterable[bytes]) -> Iterator[str]:
    """Yield the text of each NDJSON line, {"text": …}; empty lines do not count.

    Raises InvalidRequest, at the line in question ("lines.17", from 1), while the lines are read.
    """
    limit, most, count = settings.MAX_TEXT_BYTES, settings.MAX_BATCH_TEXTS, 0
    for number, line in enumerate(lines, 1):
        if not line or line.isspace():
            continue
        count += 1
        if count > most:
            raise _invalid({f"lines.{number}": [f"At most {most} texts."]})
        yield _line_text(line, number, limit=limit)


def check_mode(request: EmbedRequest, mode: Mode) -> None:
    """Refuse more texts than this mode takes in one JSON body. Raises InvalidRequest."""
    count = len(request.texts)
    if mode is Mode.LIVE and count > settings.LIVE_MAX_TEXTS:
        raise _invalid({"texts": [f"At most {settings.LIVE_MAX_TEXTS} texts in a live call; queue more with batch."]})
    if mode is Mode.LIVE and request.callback_url:
        raise _invalid({"callback_url": ["Only queued work is called back for: this request is answered at once."]})
    if mode is not Mode.LIVE and count > settings.QUEUED_MAX_TEXTS:
        raise _invalid({"texts": [_over_json_limit(settings.QUEUED_MAX_TEXTS)]})


def idempotency_key(header: str | None) -> str:
    """Return the Idempotency-Key, "" where there is none. Raises InvalidRequest for one that cannot be kept."""
    if header is None:
        return ""
    if not 0 < len(header) <= _MAX_IDEMPOTENCY_KEY or not header.isascii() or not header.isprintable():
        raise _invalid({"Idempotency-Key": [f"Use 1 to {_MAX_IDEMPOTENCY_KEY} printable ASCII characters."]})
    return header


# --- JSON ------------------------------------------------------------------------------------------------------------


def _named(body: bytes, why: str) -> InvalidRequest:
    """The refusal of a body that orjson does not take, naming the field where that can be told.

    The standard library reads lone surrogates, NaN and (escaped as surrogates) bytes that are not UTF-8, so the same
    checks then find where they are.
    """
    try:
        _checked(json.loads(body.decode("utf-8", "surrogateescape")))
    except InvalidRequest as named:
        return named
    except (ValueError, RecursionError):
        pass
    return _invalid({"body": [f"Not valid JSON: {why}."]})


def _checked(data: Any) -> EmbedRequest:
    if type(data) is not dict:
        raise _invalid({"body": ["Send a JSON object."]})
    single = "text" in data
    errors = _text_errors(data)
    texts = data.pop("texts", None)
    if single:
        texts = (data.pop("text"),)
    errors |= _field_errors(data)
    _raise(errors)
    return EmbedRequest(texts=texts, single=single, **data)


def _text_errors(data: Mapping[str, Any]) -> Errors:
    limit = settings.MAX_TEXT_BYTES
    if "text" in data and "texts" in data:
        return {"texts": ["Send text or texts, not both."]}
    if "text" in data:
        why = why_not_text(data["text"], limit)
        return {"text": [why]} if why else {}
    if "texts" in data:
        return _list_errors(data["texts"], limit)
    return {"text": ["Send text (a string) or texts (a list of strings)."]}


def _list_errors(texts: Any, limit: int) -> Errors:
    if type(texts) is not list:
        return {"texts": ["Must be a list of strings."]}
    if not texts:
        return {"texts": ["Must hold at least one text."]}
    most = max(settings.LIVE_MAX_TEXTS, settings.QUEUED_MAX_TEXTS)
    if len(texts) > most:
        return {"texts": [_over_json_limit(most)]}
    errors: Errors = {}
    for index, text in enumerate(texts):
        if why := why_not_text(text, limit):
            errors[f"texts.{index}"] = [why]
            if len(errors) == _MAX_NAMED:
                break
    return errors


def _over_json_limit(most: int) -> str:
    return f"At most {most} texts; send more as application/x-ndjson."


def why_not_text(text: Any, limit: int) -> str:
    """Why `text` cannot be embedded, or "" if it can; `limit` in bytes of UTF-8."""
    if type(text) is not str:
        return "Must be a string."
    if not text:
        return "Must not be empty."
    if "\0" in text:
        return "Must not hold the NUL character."
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return "Not valid Unicode: it holds a lone surrogate or bytes that are not UTF-8."
    return "" if size <= limit else f"At most {limit} bytes."


def _field_errors(data: Mapping[str, Any]) -> Errors:
    """What is wrong with the fields other than the texts."""
    errors: Errors = {}
    for name, value in data.items():
        check = _CHECKS.get(name)
        if check is None:
            errors[_shown(name)] = ["Unknown field."]
        elif why := check(value):
            errors[name] = [why]
    if data.get("urgent") is True and data.get("batch") is True:
        errors |= {"urgent": [_BOTH], "batch": [_BOTH]}
    return errors


def _shown(name: str) -> str:
    """A client's own word, fit to be said back to it."""
    return name[:_MAX_METADATA_KEY].encode("utf-8", "replace").decode()


def _why_not_boolean(value: Any) -> str:
    return "" if value is True or value is False else "Must be true or false."


def _why_not_pattern(value: Any) -> str:
    return "" if value in _PATTERNS else f"Must be one of: {', '.join(_PATTERNS)}."


def _why_not_input_type(value: Any) -> str:
    return "" if value in ("query", "passage") else "Must be query or passage."


def _why_not_priority(value: Any) -> str:
    # True and False are ints in Python, not in JSON.
    return "" if type(value) is int and 0 <= value <= 9 else "Must be a whole number from 0 to 9."


def why_not_metadata(value: Any, longest_value: int = _MAX_METADATA_VALUE) -> str:
    """Why `value` cannot be kept as a client's metadata, or "" if it can."""
    if type(value) is not dict or len(value) > _MAX_METADATA:
        return f"Must be an object of at most {_MAX_METADATA} strings."
    for key, item in value.items():
        if why := why_not_text(key, _MAX_METADATA_KEY):
            return f"A key is wrong: {why}"
        if item != "" and (why := why_not_text(item, longest_value)):
            return f"The value of “{key}” is wrong: {why}"
    return ""


_PATTERNS: Final = tuple(str(pattern) for pattern in Pattern)
_CHECKS: Final[dict[str, Callable[[Any], str]]] = {
    "urgent": _why_not_boolean,
    "batch": _why_not_boolean,
    "pattern": _why_not_pattern,
    "input_type": _why_not_input_type,
    "priority": _why_not_priority,
    "callback_url": callback_targets.why_not,
    "client_metadata": why_not_metadata,
}


# --- NDJSON ----------------------------------------------------------------------------------------------------------


def _from_query(name: str, value: str) -> Any:
    """The JSON value that a query parameter stands for; what stands for none stays a string and is refused as one."""
    if name in ("urgent", "batch"):
        return {"true": True, "false": False}.get(value, value)
    if name == "priority":
        return int(value) if len(value) == 1 and value in "0123456789" else value
    if name == "client_metadata":
        try:
            return orjson.loads(value.encode("utf-8", "surrogateescape"))
        except orjson.JSONDecodeError:
            return value
    return value


def _line_text(line: bytes, number: int, *, limit: int) -> str:
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _invalid({f"lines.{number}": [f"Not valid JSON: {error.msg}."]}) from None
    if type(data) is not dict or data.keys() != {"text"}:
        raise _invalid({f"lines.{number}": ['Each line is an object with "text" and nothing else.']})
    text = data["text"]
    if why := why_not_text(text, limit):
        raise _invalid({f"lines.{number}": [why]})
    return text  # type: ignore[no-any-return]  # a str, or there would be a why


# --- The refusal -----------------------------------------------------------------------------------------------------


def _raise(errors: Errors) -> None:
    if errors:
        raise _invalid(errors)


def _invalid(errors: Errors) -> InvalidRequest:
    """The refusal of these fields."""
    return InvalidRequest(errors=dict(islice(errors.items(), _MAX_NAMED)))
