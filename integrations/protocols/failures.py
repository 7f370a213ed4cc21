"""What an answer that is not a success means: one table for all protocols.

The status alone does not say whose fault it is. llama.cpp answers 500 to a text that is too long, Ollama 400 when its
own runner has died, and 503 when its queue is full. So the message is read as well, to choose the error; it goes no
further: error details are our own words.
"""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from integrations.errors import CitadelError, TextRejected, UpstreamBusy, UpstreamFailed

# A server that asks for more is taken at an hour: a wrong clock or unit must not switch an endpoint off for days.
RETRY_AFTER_MAX = 3600.0
_MESSAGE_BYTES = 4096

# The request itself is refused; 500 is here for llama.cpp, which gives it to texts over its context.
_REFUSALS = frozenset({400, 413, 422})

_BUSY = re.compile(r"server busy|overloaded|maximum pending requests")
# Ollama, llama.cpp, vLLM, OpenAI and TEI, as they word it; tests/wire/ has each.
_TOO_LONG = re.compile(
    r"exceeds? (the |max |maximum |available |model's )*context|max(imum)? (context|model) (length|size)|max context"
    r"|must have less than \d+ (tokens|characters)|too large to process|longer than the maximum|reduce the length"
    r"|(input|prompt|text) is too long"
)
_TOO_MANY = re.compile(
    r"batch size \d+ [>e]|maximum allowed batch size|too many inputs|at most \d+ (inputs|texts|items)"
)
# Said with 400 although no other text would fare better: the server has died inside, or cannot embed at all.
_NOT_THE_TEXT = re.compile(
    r"do embed\w* request|\beof\b|connection re(fused|set)|unexpected server status|runner (process )?has"
    r"|does not support|pooling type|not an? embedding model"
)


def of(status: int, headers: Mapping[str, str], body: bytes) -> CitadelError:
    """Return the error that an answer with this status (not 2xx) stands for."""
    message = _message(body)
    pause = retry_after(headers)
    if status == 429 or (status == 503 and _BUSY.search(message)):
        return UpstreamBusy(retry_after=pause)
    if status in _REFUSALS or (status == 500 and _TOO_LONG.search(message)):
        return _refusal(status, message)
    return UpstreamFailed(reason(status), retry_after=pause)


def _refusal(status: int, message: str) -> CitadelError:
    # Bisection finds the one text of a queued chunk that is too long; it also gets a chunk through a server that takes
    # fewer texts in one call than configured, so that too is a TextRejected.
    if _TOO_MANY.search(message):
        return TextRejected("The model server takes fewer texts in one call; lower the endpoint's max_batch.")
    if _NOT_THE_TEXT.search(message):
        return UpstreamFailed(reason(status))
    if _TOO_LONG.search(message):
        return TextRejected("The model server refuses a text that is too long for the model's context.")
    if status == 413:
        return TextRejected("The model server takes no request of this size (HTTP 413).")
    return TextRejected(f"The model server refuses a text (HTTP {status}).")


def reason(status: int) -> str:
    """Say in our own words why an answer with this status is no answer."""
    # A wrong token or a missing model is the configuration's fault. To the client it is the server's side that fails
    # (502), and the endpoint's breaker may well open: no call can succeed there until an operator mends it.
    if status in (401, 403):
        return f"The model server refuses Citadel's credentials (HTTP {status})."
    if status == 404:
        return "The model server knows neither this address nor this model (HTTP 404)."
    if 300 <= status < 400:
        return f"The model server redirects (HTTP {status}); redirects are not followed."
    return f"The model server answered with HTTP {status}."


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the pause in seconds that the server asks for, or None (RFC 9110, section 10.2.3).

    A date counts from the answer's own Date, so that neither our clock nor its offset from the server's matters.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return min(float(value), RETRY_AFTER_MAX)
    try:
        pause = (parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))).total_seconds()
    except (TypeError, ValueError):
        return None
    return min(max(pause, 0.0), RETRY_AFTER_MAX)


def _message(body: bytes) -> str:
    """The words of an error body in lower case: its "error", "message" or "detail", or all where it is not JSON.

    Nothing else of a JSON body is looked at: FastAPI's repeat the request, and a client's own text must not decide
    whether the server counts as broken.
    """
    head = body[:_MESSAGE_BYTES].decode("utf-8", "replace").lower()
    if len(body) > 16 * _MESSAGE_BYTES:
        return head
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return head
    return _words(answer)[:_MESSAGE_BYTES].lower()


def _words(answer: Any) -> str:
    if isinstance(answer, list):
        return " ".join(_words(item) for item in answer)
    if isinstance(answer, dict):
        return next((_words(answer[name]) for name in ("error", "message", "detail", "msg") if name in answer), "")
    return answer if isinstance(answer, str) else ""
