"""Ollama's own protocol: POST /api/embed (since Ollama 0.3.4)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from integrations.errors import UpstreamMalformed
from integrations.protocols.base import Health, HttpResponse, Protocol, loaded, member


class Ollama(Protocol):
    """Vectors come normalised, whatever was asked: the protocol has no word for it."""

    name: ClassVar[str] = "ollama"
    # Ollama has no bound of its own and works a call's texts off a few at a time, so a call grows with its texts. 128
    # holds a whole chunk at the default BULK_BATCH_SIZE of 100; a slow server wants a smaller max_batch.
    default_max_batch: ClassVar[int] = 128
    health_paths: ClassVar[tuple[str, ...]] = ("/api/version",)

    def _address(self, base_url: str) -> str:
        return self._root(base_url) + "/api/embed"

    def _body(self, model: str, texts: Sequence[str], *, truncate: bool, normalise: bool) -> dict[str, Any]:
        # Ollama's own default is true: without the word it would cut texts in silence.
        return {"model": model, "input": list(texts), "truncate": truncate}

    def _tokens(self, answer: Any, headers: Mapping[str, str]) -> Any:
        return answer.get("prompt_eval_count")

    def _rows(self, answer: Any, expected: int) -> Any:
        return member(answer, "embeddings")

    def _healthy(self, response: HttpResponse) -> Health:
        # Anything may answer 200 to a path that it does not know; only Ollama gives its version there.
        try:
            version = member(loaded(response.body), "version")
        except UpstreamMalformed:
            return Health(ok=False, detail="What answers is not Ollama.")
        plain = isinstance(version, str) and re.fullmatch(r"[\w.+-]{1,40}", version, re.ASCII)
        return Health(ok=True, detail=f"Ollama {version}" if plain else "Ollama")
