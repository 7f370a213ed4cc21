"""One key's limits in one process: what it holds of each window, and what it may use while Redis is away."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import redis

from integrations.errors import RateLimited
from integrations.limit_pool import Demand, Grant, Pool

# From here on a process holds some of a limit, to spend without asking; smaller limits are asked for call by call.
LEASED_FROM = 600
# A lease is at most a fiftieth of its limit, and never more than this.
LARGEST_LEASE = 2_000
# What is lent and not touched for so long goes back.
IDLE = 0.2
# How long an empty pool is believed to be empty: another process may bring something back.
EMPTY = 0.1
# How long Redis is left alone after it did not answer.
AWAY = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one request takes from one limit."""

    name: str
    words: str
    limit: int
    seconds: int
    amount: int

    @property
    def lease(self) -> int:
        """How much to hold at a time; 0 for a limit that is asked for call by call."""
        return min(self.limit // 50, LARGEST_LEASE) if self.limit >= LEASED_FROM else 0


@dataclass(slots=True, kw_only=True)
class _Lease:
    """What this process holds of one limit's present window."""

    window: int = -1
    tokens: int = 0
    ends: float = 0.0  # time.monotonic()
    left: int = 1  # in the pool, when last seen
    seen: float = 0.0
    used: int = 0


@dataclass(slots=True, kw_only=True)
class _Alone:
    """What was used of a window without asking."""

    window: int = -1
    used: int = 0


class Ledger:
    """Thread-safe. `take` never waits for anybody; `settle` may wait for Redis."""

    def __init__(self, prefix: str, pool: Pool) -> None:
        self._prefix, self._pool = prefix, pool
        self._lock = threading.Lock()
        # One exchange at a time: whoever waited for another's finds what that has brought.
        self._exchanging = threading.Lock()
        self._leases: dict[str, _Lease] = {}
        self._alone: dict[str, _Alone] = {}
        self._needs: dict[str, Need] = {}
        self._processes = 1
        self._away, self._retry_at = False, 0.0
        self._touched = 0.0

    def take(self, needs: Sequence[Need]) -> bool:
        """Use `needs` if this process holds them; False if the pool must be asked. Raises RateLimited."""
        with self._lock:
            now = self._touched = time.monotonic()
            self._needs.update((need.name, need) for need in needs)
            held = [need for need in needs if self._holds(need, now)]
            short = [need for need in needs if need not in held]
            if self._away:
                self._take_alone(short)
            elif short:
                for need in short:
                    self._refuse_what_cannot_be(need, now)
                return False
            for need in held:
                lease = self._leases[need.name]
                lease.tokens, lease.used = lease.tokens - need.amount, lease.used + need.amount
            return True

    def settle(self, needs: Sequence[Need]) -> None:
        """Use `needs`, asking the pool until it gives them or has not enough. Raises RateLimited."""
        with self._exchanging:
            while not self.take(needs):
                self._exchange({need.name: need.amount for need in needs}, fetch=True)

    def tidy(self) -> None:
        """Fetch what will soon be short, bring back what lies idle. Called by one thread again and again."""
        now = time.monotonic()
        with self._lock:
            idle = now - self._touched > IDLE
            held = any(lease.tokens for lease in self._leases.values() if lease.ends > now)
            short = not idle and any(self._short(need, now) for need in self._needs.values())
            due = now >= self._retry_at if self._away else short or (idle and held)
        if due:
            with self._exchanging:
                self._exchange({}, fetch=not idle)

    def give_back(self) -> None:
        """Bring back everything: this process ends."""
        with self._exchanging:
            self._exchange({}, fetch=False)

    def _holds(self, need: Need, now: float) -> bool:
        lease = self._leases.get(need.name)
        return lease is not None and lease.ends > now and lease.tokens >= need.amount

    def _short(self, need: Need, now: float) -> bool:
        lease = self._leases.get(need.name)
        return lease is not None and lease.ends > now and lease.left > 0 and 2 * lease.tokens < need.lease

    def _refuse_what_cannot_be(self, need: Need, now: float) -> None:
        lease = self._leases.get(need.name)
        if lease is None or lease.ends <= now:
            return
        fresh = now - lease.seen < EMPTY or not need.lease
        if fresh and need.amount > lease.tokens + lease.left:
            raise _limited(need, lease.ends - now)

    def _take_alone(self, needs: Sequence[Need]) -> None:
        """Use this process's share of each limit, by its own clock. Raises RateLimited."""
        clock, shares = time.time(), []
        for need in needs:
            window = int(clock // need.seconds)
            alone = self._alone.get(need.name)
            if alone is None or alone.window != window:
                alone = _Alone(window=window)
            lease = self._leases.get(need.name)
            used = alone.used + (lease.used if lease is not None and lease.window == window else 0)
            if used + need.amount > max(1, need.limit // self._processes):
                raise _limited(need, (window + 1) * need.seconds - clock)
            shares.append((need, alone))
        for need, alone in shares:
            alone.used += need.amount
            self._alone[need.name] = alone

    def _exchange(self, amounts: Mapping[str, int], *, fetch: bool) -> None:
        """Bring back what is held and get `amounts` instead, or more to hold; one round trip. Needs `_exchanging`.

        What is held stays in use while more is fetched ahead of any need.
        """
        keep = fetch and not amounts
        with self._lock:
            needs = [n for n in self._needs.values() if not amounts or n.name in amounts]
            demands = [self._demand(n, amounts.get(n.name, 0), want=n.lease if fetch else 0, keep=keep) for n in needs]
        try:
            processes, grants = self._pool.exchange(self._prefix, demands)
        except redis.RedisError:
            with self._lock:
                self._away, self._retry_at = True, time.monotonic() + AWAY
            return
        with self._lock:
            self._away, self._processes = False, processes
            for demand, grant in zip(demands, grants, strict=True):
                self._store(demand, grant)

    def _demand(self, need: Need, amount: int, *, want: int, keep: bool) -> Demand:
        lease, alone = self._leases.setdefault(need.name, _Lease()), self._alone.get(need.name)
        if alone is not None and alone.window != lease.window:
            lease.tokens, lease.window, lease.used = 0, alone.window, 0
        back = -alone.used if alone is not None else 0
        if not keep:
            back, lease.tokens = back + lease.tokens, 0  # not to be used while it is on its way
        return Demand(
            name=need.name,
            limit=need.limit,
            seconds=need.seconds,
            need=amount,
            want=want,
            back=back,
            window=lease.window,
        )

    def _store(self, demand: Demand, grant: Grant) -> None:
        lease, now = self._leases[demand.name], time.monotonic()
        if lease.window != grant.window:
            lease.window, lease.tokens, lease.used = grant.window, 0, 0
        alone = self._alone.pop(demand.name, None)
        if alone is not None and alone.window == grant.window:
            lease.used += alone.used
        lease.tokens, lease.left = lease.tokens + grant.granted, grant.left
        lease.ends, lease.seen = now + grant.ends_in, now


def _limited(need: Need, retry_after: float) -> RateLimited:
    return RateLimited(f"This API key's limit is {need.limit} {need.words}.", retry_after=max(retry_after, 0.001))
