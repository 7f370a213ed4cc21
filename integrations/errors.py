"""What can go wrong, as one tree.

CitadelError
├── InvalidRequest           400  invalid_request
├── NotAuthenticated         401  not_authenticated
├── NotPermitted             403  not_permitted
├── NotFound                 404  not_found
│   ├── ModelNotFound        404  model_not_found
│   ├── BatchNotFound        404  batch_not_found
│   └── FileNotFound         404  file_not_found
├── MethodNotAllowed         405  method_not_allowed
├── NotAcceptable            406  not_acceptable
├── RequestTimeout           408  request_timeout
├── Conflict                 409
│   ├── PatternNotAssigned   409  pattern_not_assigned
│   ├── PatternConflict      409  pattern_conflict
│   ├── IdempotencyConflict  409  idempotency_conflict
│   ├── BatchNotCancellable  409  batch_not_cancellable
│   ├── BatchNotRetryable    409  batch_not_retryable
│   └── FileInUse            409  file_in_use
├── RequestTooLarge          413  request_too_large
├── UnsupportedMediaType     415  unsupported_media_type
├── TextRejected             422  text_rejected
├── RateLimited              429  rate_limited
├── QueueFull                429  queue_full
├── UpstreamError                 the server's fault: these count against its breaker
│   ├── UpstreamFailed       502  upstream_failed
│   ├── UpstreamMalformed    502  upstream_malformed
│   └── UpstreamTimeout      504  upstream_timeout
└── Unavailable              503
    ├── UpstreamBusy         503  overloaded         (the server answered 429: a pause, not a failure)
    ├── Overloaded           503  overloaded
    ├── CircuitOpen          503  circuit_open
    ├── ModelDisabled        503  model_disabled
    ├── QueueUnavailable     503  queue_unavailable
    ├── StorageUnavailable   503  storage_unavailable
    └── NotReady             503  not_ready

Each class's docstring is its message where none is given.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class CitadelError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    # Whether another endpoint, or the same one later, may answer the same call.
    retryable: ClassVar[bool] = False
    counts_against_breaker: ClassVar[bool] = False

    def __init__(
        self,
        detail: str = "",
        *,
        retry_after: float | None = None,
        errors: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.detail = detail or " ".join((type(self).__doc__ or "").split())
        self.retry_after = retry_after
        self.errors = errors
        super().__init__(self.detail)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.detail,), {"retry_after": self.retry_after, "errors": self.errors})

    @property
    def title(self) -> str:
        """The code in words: "circuit_open" -> "Circuit open"."""
        return self.code.replace("_", " ").capitalize()


class InvalidRequest(CitadelError):
    """The request is not valid."""

    code, status = "invalid_request", 400


class NotAuthenticated(CitadelError):
    """Send a valid API key: "Authorization: Bearer KEY"."""

    code, status = "not_authenticated", 401


class NotPermitted(CitadelError):
    """This API key may not do that."""

    code, status = "not_permitted", 403


class NotFound(CitadelError):
    """There is nothing here."""

    code, status = "not_found", 404


class ModelNotFound(NotFound):
    """No model has this name."""

    code = "model_not_found"


class BatchNotFound(NotFound):
    """No batch of yours has this id."""

    code = "batch_not_found"


class FileNotFound(NotFound):
    """No file of yours has this id."""

    code = "file_not_found"


class MethodNotAllowed(CitadelError):
    """This address does not answer that method."""

    code, status = "method_not_allowed", 405


class NotAcceptable(CitadelError):
    """None of the media types in Accept can be given here."""

    code, status = "not_acceptable", 406


class RequestTimeout(CitadelError):
    """The body did not arrive in time."""

    code, status = "request_timeout", 408


class Conflict(CitadelError):
    """The request does not fit the present state."""

    code, status = "conflict", 409


class PatternNotAssigned(Conflict):
    """This model is not assigned to that pattern."""

    code = "pattern_not_assigned"


class PatternConflict(Conflict):
    """No pattern of this model accepts these flags."""

    code = "pattern_conflict"


class IdempotencyConflict(Conflict):
    """This Idempotency-Key was used with another request."""

    code = "idempotency_conflict"


class BatchNotCancellable(Conflict):
    """The batch has ended already."""

    code = "batch_not_cancellable"


class BatchNotRetryable(Conflict):
    """The batch has no failed texts that could be tried again now."""

    code = "batch_not_retryable"


class FileInUse(Conflict):
    """A batch that has not ended reads this file."""

    code = "file_in_use"


class RequestTooLarge(CitadelError):
    """The body is larger than this server takes."""

    code, status = "request_too_large", 413


class UnsupportedMediaType(CitadelError):
    """Send application/json or application/x-ndjson."""

    code, status = "unsupported_media_type", 415


class TextRejected(CitadelError):
    """The model server refuses this text."""

    code, status = "text_rejected", 422


class RateLimited(CitadelError):
    """The key's limit is reached."""

    code, status = "rate_limited", 429


class QueueFull(CitadelError):
    """The model's queue is full; nothing was stored."""

    code, status = "queue_full", 429


class UpstreamError(CitadelError):
    """The model server failed."""

    code, status, retryable, counts_against_breaker = "upstream_failed", 502, True, True


class UpstreamFailed(UpstreamError):
    """The model server could not be reached or answered with an error."""


class UpstreamMalformed(UpstreamError):
    """The model server's answer does not hold the vectors that were asked for."""

    code = "upstream_malformed"


class UpstreamTimeout(UpstreamError):
    """The model server did not answer in time."""

    code, status = "upstream_timeout", 504


class Unavailable(CitadelError):
    """Not now."""

    code, status = "unavailable", 503


class UpstreamBusy(Unavailable):
    """The model server asked for a pause."""

    code, retryable = "overloaded", True


class Overloaded(Unavailable):
    """The endpoint has as many calls in flight as it may."""

    code, retryable = "overloaded", True


class CircuitOpen(Unavailable):
    """The breaker of every endpoint of this model is open."""

    code, retryable = "circuit_open", True


class ModelDisabled(Unavailable):
    """The model is switched off or drained for maintenance."""

    code = "model_disabled"


class QueueUnavailable(Unavailable):
    """The queue cannot take work now; nothing was stored."""

    code = "queue_unavailable"


class StorageUnavailable(Unavailable):
    """The storage of files cannot be used now."""

    code = "storage_unavailable"


class NotReady(Unavailable):
    """The process has no configuration yet."""

    code = "not_ready"


def tree() -> list[type[CitadelError]]:
    """Every class of the tree, the root first; docs and tests walk it."""
    found: list[type[CitadelError]] = [CitadelError]
    for cls in found:
        found.extend(cls.__subclasses__())
    return found
