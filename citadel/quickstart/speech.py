"""What a demo model server answers, in the words of Ollama, of an OpenAI-compatible server (vLLM) and of TEI.

Written from the servers' side, and knowing nothing of integrations.protocols: the two must meet on the wire.
"""

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from citadel.quickstart.minilm import MAX_TOKENS, MiniLM, Vectors

VERSION = "0.1.0-citadel-demo"
TEI_MAX_BATCH = 32  # the real server's default for --max-client-batch-size


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP answer."""

    status: int
    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request with a JSON body, at the server of one model."""

    model: str
    body: Mapping[str, Any]
    minilm: MiniLM


Answerer = Callable[[Asked], Reply]
Refusal = Callable[[int, str], Reply]


def reply(protocol: str, model: str, minilm: MiniLM, *, method: str, path: str, body: bytes) -> Reply:
    """Answer one request. Every server answers GET /health, whatever its protocol."""
    path = path.partition("?")[0]
    refuse = _REFUSALS[protocol]
    if method == "GET":
        found = _PAGES[protocol].get(path)
        return found(model) if found else refuse(404, "not found")
    answer = _ANSWERERS.get((protocol, path)) if method == "POST" else None
    if answer is None:
        return refuse(404, "not found")
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return refuse(400, f"the body is not JSON: {error}")
    if not isinstance(content, dict):
        return refuse(400, "the body is no JSON object")
    return answer(Asked(model=model, body=content, minilm=minilm))


def _json(status: int, value: Any) -> Reply:
    return Reply(status=status, body=orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


def _texts(value: Any) -> list[str] | None:
    """Read a string or a list of strings; None for anything else."""
    texts = [value] if isinstance(value, str) else value
    return texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else None


def _longest(tokens: list[list[int]]) -> int:
    return max((len(ids) for ids in tokens), default=0)


# --- Ollama ---------------------------------------------------------------------------------------------------------


def _ollama_refusal(status: int, message: str) -> Reply:
    return _json(status, {"error": message})


def _ollama_embed(asked: Asked) -> Reply:
    started = time.perf_counter_ns()
    name = asked.body.get("model")
    if not isinstance(name, str) or not name:
        return _ollama_refusal(400, "model is required")
    if name.removesuffix(":latest") != asked.model:
        return _ollama_refusal(404, f'model "{name}" not found, try pulling it first')
    texts = _texts(asked.body.get("input", []))
    if texts is None:
        return _ollama_refusal(400, "invalid input type")
    tokens = asked.minilm.tokens(texts)
    if _longest(tokens) > MAX_TOKENS and asked.body.get("truncate") is False:
        return _ollama_refusal(400, "the input length exceeds the context length")
    answer = {
        "model": name,
        "embeddings": asked.minilm.embed(tokens),
        "total_duration": time.perf_counter_ns() - started,
        "load_duration": 0,
        "prompt_eval_count": sum(min(len(ids), MAX_TOKENS) for ids in tokens),
    }
    return _json(200, answer)


def _ollama_tags(model: str) -> Reply:
    details = {"format": "onnx", "family": "bert", "parameter_size": "22.7M", "quantization_level": "int8"}
    return _json(200, {"models": [{"name": f"{model}:latest", "model": f"{model}:latest", "details": details}]})


# --- OpenAI ---------------------------------------------------------------------------------------------------------


def _openai_refusal(status: int, message: str) -> Reply:
    kind = "NotFoundError" if status == 404 else "BadRequestError"
    return _json(status, {"error": {"message": message, "type": kind, "param": None, "code": status}})


def _openai_embed(asked: Asked) -> Reply:
    name, form = asked.body.get("model"), asked.body.get("encoding_format", "float")
    texts = _texts(asked.body.get("input"))
    if not texts:
        return _openai_refusal(400, "input must be a string or a list of strings that is not empty")
    if form not in ("float", "base64"):
        return _openai_refusal(400, "encoding_format must be float or base64")
    if name != asked.model:
        return _openai_refusal(404, f"The model `{name}` does not exist.")
    tokens = asked.minilm.tokens(texts)
    if (longest := _longest(tokens)) > MAX_TOKENS and asked.body.get("truncate_prompt_tokens") is None:
        return _openai_refusal(
            400,
            f"This model's maximum context length is {MAX_TOKENS} tokens. However, you requested {longest} tokens in "
            "the input for embedding generation. Please reduce the length of the input.",
        )
    count = sum(min(len(ids), MAX_TOKENS) for ids in tokens)
    rows = _openai_rows(asked.minilm.embed(tokens), form)
    return _json(
        200,
        {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
            "model": name,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        },
    )


def _openai_rows(vectors: Vectors, form: str) -> list[Any]:
    if form == "float":
        return list(vectors)
    return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]


def _openai_models(model: str) -> Reply:
    entry = {"id": model, "object": "model", "created": 0, "owned_by": "citadel", "max_model_len": MAX_TOKENS}
    return _json(200, {"object": "list", "data": [entry]})


# --- text-embeddings-inference --------------------------------------------------------------------------------------


def _tei_refusal(status: int, message: str) -> Reply:
    kinds = {404: "NotFound", 413: "Validation", 422: "Validation"}
    return _json(status, {"error": message, "error_type": kinds.get(status, "Empty")})


def _tei_embed(asked: Asked) -> Reply:
    texts = _texts(asked.body.get("inputs"))
    if not texts:
        return _tei_refusal(400, "`inputs` cannot be empty, and must be a string or a list of strings")
    if len(texts) > TEI_MAX_BATCH:
        return _tei_refusal(422, f"batch size {len(texts)} > maximum allowed batch size {TEI_MAX_BATCH}")
    tokens = asked.minilm.tokens(texts)
    if (longest := _longest(tokens)) > MAX_TOKENS and asked.body.get("truncate") is not True:
        return _tei_refusal(
            413, f"Input validation error: `inputs` must have less than {MAX_TOKENS} tokens. Given: {longest}"
        )
    vectors = asked.minilm.embed(tokens, normalise=asked.body.get("normalize") is not False)
    return _json(200, vectors)


def _tei_info(model: str) -> Reply:
    return _json(
        200,
        {
            "model_id": model,
            "model_dtype": "int8",
            "max_input_length": MAX_TOKENS,
            "max_client_batch_size": TEI_MAX_BATCH,
            "version": VERSION,
        },
    )


# --- Who answers what -----------------------------------------------------------------------------------------------


def _healthy(_model: str) -> Reply:
    return Reply(status=200, body=b"", content_type="text/plain")


_REFUSALS: Mapping[str, Refusal] = {"ollama": _ollama_refusal, "openai": _openai_refusal, "tei": _tei_refusal}
_ANSWERERS: Mapping[tuple[str, str], Answerer] = {
    ("ollama", "/api/embed"): _ollama_embed,
    ("openai", "/v1/embeddings"): _openai_embed,
    ("tei", "/embed"): _tei_embed,
}
_PAGES: Mapping[str, Mapping[str, Callable[[str], Reply]]] = {
    "ollama": {
        "/": lambda _: Reply(status=200, body=b"Ollama is running", content_type="text/plain"),
        "/health": _healthy,
        "/api/version": lambda _: _json(200, {"version": VERSION}),
        "/api/tags": _ollama_tags,
    },
    "openai": {"/health": _healthy, "/v1/models": _openai_models},
    "tei": {"/health": _healthy, "/info": _tei_info},
}
