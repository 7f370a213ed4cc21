"""How much may be tried again, and how long to wait before it."""

import random

from django.conf import settings


class RetryBudget:
    """At most RETRY_BUDGET_PERCENT of an endpoint's recent calls may be retries, so that an outage is not multiplied.

    A token bucket as in Finagle and gRPC: each call pays in a part of a token, each retry takes one out. It starts
    filled with RETRY_BUDGET_MINIMUM tokens and holds at most ten times that, so that calls of long ago do not count.
    """

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens = float(settings.RETRY_BUDGET_MINIMUM)

    def called(self) -> None:
        """Count one first call."""
        bound = 10.0 * settings.RETRY_BUDGET_MINIMUM
        self._tokens = min(bound, self._tokens + settings.RETRY_BUDGET_PERCENT / 100)

    def take(self) -> bool:
        """Take the token for one retry, if there is one."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def backoff(round_: int) -> float:
    """Seconds before the `round_`-th retry (from 1): doubling, with half of it random so that callers spread out."""
    return float(settings.RETRY_BACKOFF * 2 ** (round_ - 1) * random.uniform(0.5, 1.0))  # nosec B311 # jitter
