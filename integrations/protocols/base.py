"""What a protocol is: request values out, response values in. No I/O, no clock, no Django.

A protocol says how one kind of model server wants to be asked and how it answers; who asks, when, how often and over
which connection is decided elsewhere. Answers are never trusted: what parse_response returns has the right count, one
length, finite numbers and the order of the texts, or it is an error.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import orjson

from integrations.errors import TextRejected, UpstreamMalformed
from integrations.protocols import failures, vectors
from integrations.protocols.vectors import Vectors

_MOST_TOKENS: Final = 2**31
# More than any answer needs: 16,384 numbers of 32 characters are one text's, and some room for what stands around them.
# A server that answers one text with megabytes is sick, and read to its end would cost the process that memory.
BYTES_A_TEXT: Final = 512 * 2**10
BYTES_BESIDE: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """What to send. `longest_answer` in bytes, decompressed; None: as long as the transport takes any."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    longest_answer: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """What came back; headers are asked for by names in lower case, the body is decompressed."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a successful call brought: (texts, dimensions) float32, and the tokens that the server says it read.

    0 tokens: the server does not say.
    """

    vectors: Vectors
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether a server says that it can work; `detail` is ours, never the server's words."""

    ok: bool
    detail: str


class Protocol(ABC):
    """One kind of model server. Instances hold no state: one serves the whole process."""

    name: ClassVar[str]
    # Texts in one call where the endpoint does not say.
    default_max_batch: ClassVar[int]
    # Whether the protocol has a word for vectors that are shorter than the model's own.
    shortens: ClassVar[bool] = False
    # Whether a text may be a list of token ids.
    takes_token_ids: ClassVar[bool] = False
    # Asked in this order until one does not answer 404.
    health_paths: ClassVar[tuple[str, ...]]

    # --- asking ---

    def build_request(
        self,
        base_url: str,
        *,
        model: str,
        texts: Sequence[str],
        truncate: bool,
        normalise: bool,
        headers: Mapping[str, str],
        dimensions: int | None = None,
    ) -> HttpRequest:
        """Return the call that asks for the vectors of `texts`.

        truncate: let the server cut what is over the model's context; else it must refuse. normalise: ask for vectors
        of length 1 where the protocol has a word for it. `headers` are added, such as the one with the credentials.
        dimensions: ask for shorter vectors, where the protocol `shortens`.
        Raises TextRejected for a text that is not Unicode.
        """
        try:
            body = orjson.dumps(
                self._body(model, texts, truncate=truncate, normalise=normalise) | self._size(dimensions)
            )
        except orjson.JSONEncodeError as error:
            raise TextRejected("A text holds a lone surrogate, which is not Unicode.") from error
        every = {"Content-Type": "application/json", "Accept": "application/json", **headers}
        longest = BYTES_BESIDE + len(texts) * BYTES_A_TEXT
        return HttpRequest(method="POST", url=self._address(base_url), headers=every, body=body, longest_answer=longest)

    @abstractmethod
    def _address(self, base_url: str) -> str:
        """Return the URL of the embedding call."""

    @abstractmethod
    def _body(self, model: str, texts: Sequence[str], *, truncate: bool, normalise: bool) -> dict[str, Any]:
        """Return the call's JSON."""

    def _size(self, dimensions: int | None) -> dict[str, Any]:
        """Return what the call's JSON needs besides for vectors of this length."""
        return {}

    # --- understanding ---

    def parse_response(
        self, response: HttpResponse, *, expected: int, dimensions: int | None, normalise: bool = False
    ) -> Vectors:
        """Return the vectors, (expected, dimensions) float32, row i for text i.

        dimensions: the length that each must have; None takes any, if all have the same. normalise: bring vectors to
        length 1 that the server did not; those within 1e-3 of it keep every bit.
        Raises TextRejected, UpstreamBusy, UpstreamFailed or UpstreamMalformed; their details hold none of the body.
        """
        return self.parse_answer(response, expected=expected, dimensions=dimensions, normalise=normalise).vectors

    def parse_answer(
        self, response: HttpResponse, *, expected: int, dimensions: int | None, normalise: bool = False
    ) -> Answer:
        """Return the vectors as `parse_response` does, and the tokens that the server says it read."""
        if not 200 <= response.status < 300:
            raise failures.of(response.status, response.headers, response.body)
        answer = loaded(response.body)
        found = vectors.matrix(self._rows(answer, expected), body=response.body, normalise=normalise)
        if found.shape[0] != expected:
            raise UpstreamMalformed(f"The model server gave {found.shape[0]} vectors for {expected} texts.")
        if dimensions is not None and found.shape[1] != dimensions:
            raise UpstreamMalformed(f"The model server gave vectors of {found.shape[1]} numbers, not {dimensions}.")
        tokens = self._tokens(answer, response.headers)
        return Answer(
            vectors=found,
            # A figure for bookkeeping only: one that makes no sense is none, and no reason to refuse the vectors.
            prompt_tokens=tokens if type(tokens) is int and 0 <= tokens < _MOST_TOKENS else 0,
        )

    def _tokens(self, answer: Any, headers: Mapping[str, str]) -> Any:
        """Return the number of tokens that the server read, whatever it says there; 0 where it has no word for it."""
        return 0

    @abstractmethod
    def _rows(self, answer: Any, expected: int) -> Any:
        """Return the vectors of a successful answer in the order of the texts, of whatever shape and type they are."""

    # --- health ---

    def build_health(self, base_url: str, *, headers: Mapping[str, str]) -> HttpRequest:
        """Return the first question to ask a server about its health."""
        return self.health_requests(base_url, headers=headers)[0]

    def health_requests(self, base_url: str, *, headers: Mapping[str, str]) -> tuple[HttpRequest, ...]:
        """Return every such question: ask the next one only after a 404."""
        root = self._root(base_url)
        return tuple(
            HttpRequest(method="GET", url=root + path, headers=headers, longest_answer=BYTES_BESIDE)
            for path in self.health_paths
        )

    def _root(self, base_url: str) -> str:
        return base_url.rstrip("/")

    def parse_health(self, response: HttpResponse) -> Health:
        """Say what the answer means."""
        if 200 <= response.status < 300:
            return self._healthy(response)
        return Health(ok=False, detail=failures.reason(response.status))

    def _healthy(self, response: HttpResponse) -> Health:
        return Health(ok=True, detail=f"HTTP {response.status}")


def loaded(body: bytes) -> Any:
    """Return the JSON of an answer. Raises UpstreamMalformed: not JSON, cut short, or with NaN or infinity in it."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # `from None`: the exception holds the whole body, which must reach neither a client nor a log.
        raise UpstreamMalformed("The model server's answer is not JSON.") from None


def member(answer: Any, name: str) -> Any:
    """Return `name` of a JSON object. Raises UpstreamMalformed where there is none."""
    if not isinstance(answer, dict) or name not in answer:
        raise UpstreamMalformed(f"The model server's answer has no “{name}”.")
    return answer[name]
