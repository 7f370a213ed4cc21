"""The protocol of Hugging Face's text-embeddings-inference: POST /embed. One server has one model."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from integrations.protocols.base import Protocol


class TEI(Protocol):
    """The answer is a bare list of vectors."""

    name: ClassVar[str] = "tei"
    # The server's default for --max-client-batch-size: one text more and it refuses the whole call.
    default_max_batch: ClassVar[int] = 32
    health_paths: ClassVar[tuple[str, ...]] = ("/health",)

    def _address(self, base_url: str) -> str:
        return self._root(base_url) + "/embed"

    def _body(self, model: str, texts: Sequence[str], *, truncate: bool, normalise: bool) -> dict[str, Any]:
        # Both have defaults that the server's operator may have set (--auto-truncate), so both are always said.
        return {"inputs": list(texts), "truncate": truncate, "normalize": normalise}

    def _tokens(self, answer: Any, headers: Mapping[str, str]) -> Any:
        counted = headers.get("x-compute-tokens", "")
        return int(counted) if counted.isascii() and counted.isdecimal() and len(counted) < 10 else 0

    def _rows(self, answer: Any, expected: int) -> Any:
        return answer
