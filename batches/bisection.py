"""From a call's texts to an outcome for each: a vector, an error of its own, or none yet.

A server refuses or fails a whole call for one text. The search halves the call until that text stands alone, level by
level, so that halves which succeed come between those which fail and one bad text does not open the breaker by itself.
"""

import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from integrations.errors import (
    CitadelError,
    InvalidRequest,
    TextRejected,
    Unavailable,
    UpstreamError,
    UpstreamFailed,
    UpstreamMalformed,
)
from integrations.patterns import Embeddings, Vectors

Ask = Callable[[Sequence[str]], Awaitable[Embeddings]]
DETAIL_LENGTH = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a text has no vector."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is known of some texts. `vectors` is (texts, dimensions) float32; only the rows named in `done` count."""

    vectors: Vectors
    done: frozenset[int]
    errors: Mapping[int, Refusal]
    endpoint: str
    upstream_model: str

    @property
    def known(self) -> int:
        """How many texts have a vector or an error."""
        return len(self.done) + len(self.errors)


@dataclass(slots=True, kw_only=True)
class Found:
    """What a search has found so far. `stopped_by` says why it ended before every text had an outcome."""

    count: int
    vectors: Vectors = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    done: set[int] = field(default_factory=set)
    errors: dict[int, Refusal] = field(default_factory=dict)
    endpoint: str = ""
    upstream_model: str = ""
    failures: int = 0
    stopped_by: BaseException | None = None

    def outcome(self, start: int, end: int) -> Outcome:
        """Return what is known of the texts from `start` up to `end`, counted from 0 again."""
        if start == 0 and end == self.count:
            return Outcome(
                vectors=self.vectors,
                done=frozenset(self.done),
                errors=dict(self.errors),
                endpoint=self.endpoint,
                upstream_model=self.upstream_model,
            )
        return Outcome(
            vectors=self.vectors[start:end],
            done=frozenset(i - start for i in self.done if start <= i < end),
            errors={i - start: error for i, error in self.errors.items() if start <= i < end},
            endpoint=self.endpoint,
            upstream_model=self.upstream_model,
        )

    def take(self, piece: range, answer: Embeddings) -> None:
        """Note the vectors of one piece. Raises UpstreamMalformed when they are longer or shorter than those before."""
        dimensions = answer.vectors.shape[1]
        if len(piece) == self.count:
            self.vectors = answer.vectors
        elif not self.done:
            self.vectors = np.zeros((self.count, dimensions), dtype=np.float32)
        if self.vectors.shape[1] != dimensions:
            raise UpstreamMalformed("The vectors of one chunk differ in length.")
        if len(piece) < self.count:
            self.vectors[piece.start : piece.stop] = answer.vectors
        self.done.update(piece)
        self.endpoint, self.upstream_model = answer.endpoint, answer.upstream_model

    def refuse(self, piece: range, error: BaseException) -> None:
        """Note that these texts end with this error."""
        self.errors.update(dict.fromkeys(piece, refusal(error)))


def refusal(error: BaseException) -> Refusal:
    """Put an error into the words that a client may read. Nothing of an unexpected one goes out."""
    if not isinstance(error, CitadelError):
        return Refusal(code=CitadelError.code, detail="Citadel failed on this text; the operator's log says why.")
    return Refusal(code=error.code, detail=error.detail.replace("\0", "")[:DETAIL_LENGTH])


async def search(texts: Sequence[str], ask: Ask, *, pieces: int = 1, last_try: bool = False) -> Found:
    """Ask for all texts, in `pieces` calls to begin with, and halve what is refused.

    With `last_try` a call that fails is halved too, and a single text that fails gets the error as its outcome; without
    it the first failure ends the search. Whatever the server cannot do now (Unavailable) ends it in any case. What was
    found until then is kept.
    """
    found = Found(count=len(texts))
    waiting = deque(_cut(range(len(texts)), pieces))
    while waiting:
        piece = waiting.popleft()
        try:
            found.take(piece, await ask(texts[piece.start : piece.stop]))
        except InvalidRequest as error:
            # No text's fault: the server does not give vectors of the length that was asked for.
            found.refuse(piece, error)
        except TextRejected as error:
            _halve_or_refuse(found, waiting, piece, error)
        except Unavailable as error:
            found.stopped_by = error
            break
        except Exception as error:
            found.failures += isinstance(error, UpstreamError)
            if not last_try:
                found.stopped_by = error
                break
            if isinstance(error, UpstreamFailed | UpstreamMalformed):
                _halve_or_refuse(found, waiting, piece, error)
            else:
                # Halving a timeout would cost a whole deadline for each half.
                found.refuse(piece, error)
    return found


def _halve_or_refuse(found: Found, waiting: "deque[range]", piece: range, error: CitadelError) -> None:
    if len(piece) == 1:
        found.refuse(piece, error)
    else:
        waiting.extend(_cut(piece, 2))


def _cut(whole: range, pieces: int) -> Iterator[range]:
    """Cut into about equal parts, in random order: a half-open breaker's one trial then sometimes meets a good part."""
    pieces = min(pieces, len(whole)) or 1
    bounds = [whole.start + len(whole) * i // pieces for i in range(pieces + 1)]
    parts = [range(a, b) for a, b in pairwise(bounds)]
    random.shuffle(parts)
    return (part for part in parts if part)
