"""Which pattern answers a request, and what goes in and comes out of one.

The rules are api.md's, "Which pattern answers a request": the first assignment, in order, that accepts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from integrations.errors import PatternConflict, PatternNotAssigned
from integrations.snapshot import Assignment, Model

Vectors = npt.NDArray[np.float32]


class Pattern(StrEnum):
    """How a model's requests are handled."""

    REAL_TIME = "real_time"
    HYBRID = "hybrid"
    BULK_ONLY = "bulk_only"


class Mode(StrEnum):
    """What happens to one request."""

    LIVE = "live"
    QUEUED = "queued"
    # Not a request's: an upstream call that a worker makes for queued texts.
    BULK = "bulk"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    """A client's body, checked and with nothing decided yet."""

    # Where `tokens` is set, lists of token ids instead: nothing on the way of a live call looks into a text.
    texts: Sequence[str]
    single: bool  # came as "text": the answer then has "embedding", not "embeddings"
    urgent: bool | None = None
    batch: bool | None = None
    pattern: str | None = None
    input_type: str = ""
    dimensions: int | None = None  # vectors shorter than the model's own
    tokens: bool = False
    priority: int = 5
    client_metadata: Mapping[str, str] = field(default_factory=dict)
    callback_url: str = ""  # queued work only


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedCall:
    """One request on its way, its pattern chosen."""

    request_id: str
    client: str
    model: Model
    assignment: Assignment
    mode: Mode
    request: EmbedRequest
    received_at: datetime
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One exchange with one endpoint."""

    endpoint: str
    outcome: str  # "ok" or the error's code
    ms: float
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """A live answer: `vectors` is (texts, dimensions) float32, row i for text i."""

    vectors: Vectors
    endpoint: str
    upstream_model: str
    attempts: tuple[Attempt, ...]
    duration_ms: float
    failover_from: str = ""
    cached: bool = False
    prompt_tokens: int = 0  # as the server counted them; 0 where it does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A queued answer."""

    batch_id: str
    items_count: int
    queue_position: int
    estimated_completion: datetime
    queued_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The assignment that takes a request, and how."""

    assignment: Assignment
    mode: Mode


def choose(model: Model, request: EmbedRequest) -> Chosen:
    """Pick the assignment of `model` that takes `request`.

    Raises PatternNotAssigned when the request names a pattern that the model does not have, and PatternConflict when
    no assignment (or not the named one) accepts its flags.
    """
    candidates = list(enumerate(model.assignments))
    if request.pattern is not None:
        candidates = [(i, a) for i, a in candidates if a.pattern == request.pattern]
        if not candidates:
            assigned = ", ".join(a.pattern for a in model.assignments)
            raise PatternNotAssigned(f"{model.slug} is not assigned to {request.pattern}; it has: {assigned}.")
    for index, assignment in candidates:
        later = model.assignments[index + 1 :] if request.pattern is None else ()
        mode = _mode(assignment, request, later_queues=any(a.queues for a in later))
        if mode is not None:
            return Chosen(assignment=assignment, mode=mode)
    raise PatternConflict(_why(model, request))


def _mode(assignment: Assignment, request: EmbedRequest, *, later_queues: bool) -> Mode | None:
    """How `assignment` takes the request, or None where it declines."""
    few = len(request.texts) <= assignment.urgent_threshold
    match assignment.pattern:
        case Pattern.REAL_TIME:
            declines = request.batch or (
                later_queues and (request.urgent is False or (request.urgent is None and not few))
            )
            return None if declines else Mode.LIVE
        case Pattern.HYBRID:
            if request.urgent is False or request.batch:
                return Mode.QUEUED
            return Mode.LIVE if request.urgent or few else Mode.QUEUED
        case _:
            return None if request.urgent else Mode.QUEUED


def _why(model: Model, request: EmbedRequest) -> str:
    named = f" as {request.pattern}" if request.pattern else ""
    if request.batch:
        return f'{model.slug} answers live only{named}: send the request without "batch": true.'
    return f'{model.slug} is queued only{named}: send the request without "urgent": true.'
