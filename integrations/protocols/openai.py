"""OpenAI's protocol, POST /v1/embeddings, as vLLM, llama.cpp, TEI, Infinity, LM Studio and others speak it."""

import binascii
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pybase64

from integrations.errors import UpstreamMalformed
from integrations.protocols.base import Protocol, member


class OpenAI(Protocol):
    """Each vector says which text it belongs to (`index`), and may come as numbers or as base64 of float32."""

    name: ClassVar[str] = "openai"
    shortens: ClassVar[bool] = True
    takes_token_ids: ClassVar[bool] = True
    # vLLM and llama.cpp form their own batches and OpenAI's bound is 2,048: one call holds the largest live request.
    default_max_batch: ClassVar[int] = 256
    # vLLM and llama.cpp: /health asks the engine itself. Others know only the list of models.
    health_paths: ClassVar[tuple[str, ...]] = ("/health", "/v1/models")

    def _root(self, base_url: str) -> str:
        # People write this protocol's base URL with and without /v1.
        return super()._root(base_url).removesuffix("/v1")

    def _address(self, base_url: str) -> str:
        return self._root(base_url) + "/v1/embeddings"

    def _body(self, model: str, texts: Sequence[str], *, truncate: bool, normalise: bool) -> dict[str, Any]:
        # OpenAI's own client asks for base64 where nobody says otherwise, so servers either give it or ignore the word,
        # and then numbers are understood as well. It is half the bytes and a tenth of the work (100 vectors of 768
        # numbers: 0.4 ms instead of 4.5), and float32 is what models compute and Citadel keeps.
        body: dict[str, Any] = {"model": model, "input": list(texts), "encoding_format": "base64"}
        if truncate:
            # OpenAI has no word for it. This is vLLM's, -1 meaning the model's own limit; servers that do not know it
            # ignore it and then refuse the text, so nothing is ever cut that was not meant to be.
            body["truncate_prompt_tokens"] = -1
        return body

    def _size(self, dimensions: int | None) -> dict[str, Any]:
        return {} if dimensions is None else {"dimensions": dimensions}

    def _tokens(self, answer: Any, headers: Mapping[str, str]) -> Any:
        usage = answer.get("usage")
        return usage.get("prompt_tokens") if isinstance(usage, dict) else 0

    def _rows(self, answer: Any, expected: int) -> Any:
        data = member(answer, "data")
        if not isinstance(data, list):
            raise UpstreamMalformed("The model server's answer holds no list of vectors.")
        if len(data) != expected:
            raise UpstreamMalformed(f"The model server gave {len(data)} vectors for {expected} texts.")
        rows: list[Any] = [None] * expected
        for item in data:
            rows[_index(item, rows)] = _vector(member(item, "embedding"))
        return rows


def _index(item: Any, rows: list[Any]) -> int:
    """Return whose vector this is. A vector of unsure ownership is worse than none: it might be another text's."""
    index = member(item, "index")
    if type(index) is not int or not 0 <= index < len(rows):
        raise UpstreamMalformed("The model server gave a vector whose index belongs to no text.")
    if rows[index] is not None:
        raise UpstreamMalformed("The model server gave two vectors with the same index.")
    return index


def _vector(embedding: Any) -> Any:
    if not isinstance(embedding, str):
        return embedding
    try:
        return pybase64.b64decode(embedding, validate=True)
    except (binascii.Error, ValueError):
        raise UpstreamMalformed("The model server gave a vector that is not base64 of float32.") from None
