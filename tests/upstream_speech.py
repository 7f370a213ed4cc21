"""How each kind of model server words its answers, written down from the servers themselves (see tests/wire/)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

Rows = Sequence[npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """One protocol, seen from the server."""

    path: str
    health: tuple[str, ...]
    refusal_status: int
    too_long: str
    too_many: str  # with {count} and {limit}
    texts: Callable[[Any], list[str]]
    answer: Callable[[Rows, str, list[int]], bytes]
    error: Callable[[str, int], bytes]
    healthy: Callable[[str], bytes]


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def ids_as_text(ids: list[int]) -> str:
    """The text that stands for these token ids here: what is counted, and what the vector is made of."""
    return f"ids {ids}"


def _texts_or_ids(value: Any) -> list[str]:
    several = isinstance(value, list) and not isinstance(value[0], int)
    return [text if isinstance(text, str) else ids_as_text(text) for text in (value if several else [value])]


def _openai_answer(rows: Rows, model: str, order: list[int]) -> bytes:
    data = [{"object": "embedding", "index": i, "embedding": rows[i]} for i in order]
    return _dumps({"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": 1, "total_tokens": 1}})


OLLAMA = Speech(
    path="/api/embed",
    health=("/api/version",),
    refusal_status=400,
    too_long="the input length exceeds the context length",
    too_many="too many inputs: {count} > {limit}",
    texts=lambda body: _listed(body["input"]),
    answer=lambda rows, model, _: _dumps({"model": model, "embeddings": rows, "total_duration": 1, "load_duration": 1}),
    error=lambda message, _: _dumps({"error": message}),
    healthy=lambda _: b'{"version":"0.12.6"}',
)

OPENAI = Speech(
    path="/v1/embeddings",
    health=("/health",),
    refusal_status=400,
    too_long="This model's maximum context length is 512 tokens. However, you requested 600 tokens in the input for "
    "embedding generation. Please reduce the length of the input.",
    too_many="batch size {count} exceeds the limit of {limit}",
    texts=lambda body: _texts_or_ids(body["input"]),
    answer=_openai_answer,
    error=lambda message, code: _dumps({"error": {"message": message, "type": "BadRequestError", "code": code}}),
    healthy=lambda _: b"",
)

TEI = Speech(
    path="/embed",
    health=("/health",),
    refusal_status=422,
    too_long="Input validation error: `inputs` must have less than 512 tokens. Given: 600",
    too_many="batch size {count} > maximum allowed batch size {limit}",
    texts=lambda body: _listed(body["inputs"]),
    answer=lambda rows, _model, _order: _dumps(rows),
    error=lambda message, code: _dumps({"error": message, "error_type": "Validation" if code == 422 else "Backend"}),
    healthy=lambda _: b"",
)

# nginx's own page, which stands before many a model server: 1 MiB is all that it lets through unasked.
TOO_LARGE = (
    b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n"
    b"<center><h1>413 Request Entity Too Large</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)

SPEECH = {"ollama": OLLAMA, "openai": OPENAI, "tei": TEI}
