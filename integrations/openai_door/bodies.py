"""The documents of the live part, in OpenAI's shapes."""

import base64
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import orjson

from integrations.api import figures
from integrations.openai_door.requests import Asked
from integrations.patterns import Embeddings, Pattern, Vectors
from integrations.values import Model

OWNER: Final = "citadel"


def embeddings_body(asked: Asked, embeddings: Embeddings) -> bytes:
    """Return the JSON of a live answer."""
    return dumped(embedding_list(asked.model, embeddings.vectors, encode=asked.base64, tokens=embeddings.prompt_tokens))


def dumped(document: Any) -> bytes:
    """Return a document as JSON, vectors straight from numpy."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def embedding_list(model: str, vectors: Vectors, *, encode: bool, tokens: int = 0) -> dict[str, Any]:
    """Return the list of `vectors`, (texts, dimensions) float32, in order.

    encode: as base64 of little-endian float32, bytes of the vectors that were never text. tokens: those that the
    server says it read; 0 where it does not say.
    """
    stored = np.ascontiguousarray(vectors, dtype="<f4")
    rows: Iterable[Any] = (base64.b64encode(row).decode("ascii") for row in stored) if encode else stored
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def model_body(model: Model) -> dict[str, Any]:
    """Return a model; what OpenAI has no word for is in `citadel`."""
    return {
        "id": model.slug,
        "object": "model",
        "created": 0,  # nobody has noted it
        "owned_by": OWNER,
        "citadel": {
            "patterns": [a.pattern for a in model.assignments],
            "state": state_of(model),
            "embeddings": any(a.pattern != Pattern.BULK_ONLY for a in model.assignments),
            "batches": model.queue_assignment is not None,
            "dimensions": model.dimensions,
        },
    }


def state_of(model: Model) -> str:
    """Return whether the model takes work now: available, circuit_open, draining or disabled."""
    if not model.enabled:
        return "disabled"
    if model.draining:
        return "draining"
    best = figures.circuit_breaker(figures.views_of(model))["status"]
    return "available" if best in ("closed", "half_open") else "circuit_open"
