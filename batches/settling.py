"""What follows from how a call ended, for each chunk that it carried.

| the call                                        | its chunks                                          | attempts |
|-------------------------------------------------|-----------------------------------------------------|----------|
| gave every text an outcome                      | done                                                |          |
| could not be made now (breaker, pause, bound)   | handed back, their batches postponed                | the same |
| was cancelled (the worker stops)                | handed back                                         | the same |
| failed                                          | wait, longer each time                              | + 1      |
| failed on the last attempt                      | done, the remaining texts with the error            |          |

What a call found out before it ended is stored in any case.
"""

import asyncio
import concurrent.futures
import random
from collections.abc import Iterator, Sequence

from django.conf import settings

from batches import claiming, storing
from batches.bisection import Found, Outcome, refusal
from batches.claiming import Claim
from integrations.errors import CircuitOpen, CitadelError, Unavailable

# Seconds a batch waits for what does not say how long it will last.
DEFAULT_PAUSE = 2.0
# An open breaker may be reset by an operator long before its time: look again this often.
LONGEST_BREAKER_PAUSE = 15.0
CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)


def is_last_try(claims: Sequence[Claim]) -> bool:
    """Whether a failure of this call would be the last that its chunks may have."""
    return all(claim.attempts + 1 >= settings.CHUNK_MAX_ATTEMPTS for claim in claims)


def pieces(claims: Sequence[Claim]) -> int:
    """In how many calls to ask for these texts: one, on the last try two, and more each time that it found nothing.

    A trial of a half-open breaker is one call. Where each half holds a text that breaks the server, only ever smaller
    pieces get on.
    """
    further = min(claim.attempts for claim in claims) + 1 - settings.CHUNK_MAX_ATTEMPTS
    return 1 if further < 0 else 2 ** min(1 + further, 20)


def settle(claims: Sequence[Claim], found: Found) -> None:
    """Store the outcome of each chunk of a call. Safe to do twice. Raises django.db.DatabaseError."""
    error = found.stopped_by
    parts = list(_parts(claims, found))
    if error is None:
        storing.store_all(parts)
    elif isinstance(error, CANCELLED):
        for claim, outcome in parts:
            _let_go(claim, outcome)
    elif isinstance(error, Unavailable):
        _postpone(parts, error, burn=found.failures > 0)
    else:
        for claim, outcome in parts:
            _failed(claim, outcome, error)


def settle_all(calls: Sequence[tuple[Sequence[Claim], Found]]) -> None:
    """Store what some calls brought, as `settle` does; what is whole in one transaction."""
    whole = [call for call in calls if call[1].stopped_by is None]
    if whole:
        storing.store_all([part for claims, found in whole for part in _parts(claims, found)])
    for claims, found in calls:
        if found.stopped_by is not None:
            settle(claims, found)


def _parts(claims: Sequence[Claim], found: Found) -> Iterator[tuple[Claim, Outcome]]:
    start = 0
    for claim in claims:
        end = start + len(claim.texts)
        yield claim, found.outcome(start, end)
        start = end


def _postpone(parts: Sequence[tuple[Claim, Outcome]], error: Unavailable, *, burn: bool) -> None:
    delay = pause(error)
    # The batches first: a chunk that is let go of before could be claimed again at once.
    for batch in sorted({claim.batch for claim, _ in parts}):
        storing.postpone(batch, delay)
    for claim, outcome in parts:
        if burn and not outcome.known:
            # The search met failures until the breaker opened and found nothing: next time in smaller pieces.
            storing.try_later(claim, delay)
        else:
            _let_go(claim, outcome, delay=delay)


def _let_go(claim: Claim, outcome: Outcome, *, delay: float = 0.0) -> None:
    if outcome.known:
        storing.store(claim, outcome, delay=delay)
    else:
        claiming.hand_back([claim])


def _failed(claim: Claim, outcome: Outcome, error: BaseException) -> None:
    if claim.attempts + 1 < settings.CHUNK_MAX_ATTEMPTS:
        storing.try_later(claim, backoff(claim.attempts, error))
        return
    why = refusal(error)
    missing = {index: why for index in range(len(claim.texts)) if index not in outcome.done}
    storing.store(
        claim,
        Outcome(
            vectors=outcome.vectors,
            done=outcome.done,
            errors={**missing, **outcome.errors},
            endpoint=outcome.endpoint,
            upstream_model=outcome.upstream_model,
        ),
    )


def pause(error: Unavailable) -> float:
    """Return for how many seconds a batch waits after this error; the jitter keeps batches from coming back as one."""
    seconds = max(error.retry_after or DEFAULT_PAUSE, DEFAULT_PAUSE / 4)
    if isinstance(error, CircuitOpen):
        seconds = min(seconds, LONGEST_BREAKER_PAUSE)
    return min(seconds * random.uniform(1.0, 1.25), claiming.LONGEST_WAIT)  # nosec B311 # jitter


def backoff(attempts: int, error: BaseException) -> float:
    """Return for how many seconds a chunk waits after its attempt number `attempts`, counted from 0."""
    seconds = min(settings.CHUNK_BACKOFF * 2.0**attempts, settings.CHUNK_BACKOFF_MAX) * random.uniform(0.75, 1.25)  # nosec B311 # jitter
    wanted = error.retry_after if isinstance(error, CitadelError) else None
    return min(max(seconds, wanted or 0.0), claiming.LONGEST_WAIT)
