"""The keys' limits as all processes share them: one number a limit and window in Redis, changed by one script.

A window is a minute or a day of Redis's clock, which is everybody's. The number says how much of the limit has been
given out: used, or lent to a process that will use it or bring it back. It never passes the limit, whatever happens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings

# For each limit: what is needed must be there for all of them, or nothing is given. A process that asks for more than
# it needs gets at most its share of half of what is left: towards the end of a window nobody sits on much.
SCRIPT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 60)
redis.call('EXPIRE', KEYS[1], 120)
local processes = redis.call('ZCARD', KEYS[1])
local fits, rows = true, {}
for i = 2, #KEYS do
  local at = (i - 2) * 6 + 1
  local r = {limit = tonumber(ARGV[at + 1]), seconds = tonumber(ARGV[at + 2]), need = tonumber(ARGV[at + 3]),
             want = tonumber(ARGV[at + 4])}
  r.window = math.floor(now / r.seconds)
  r.key = KEYS[i] .. ':' .. r.window
  r.given = tonumber(redis.call('GET', r.key) or '0')
  if tonumber(ARGV[at + 6]) == r.window then r.given = math.max(0, r.given - tonumber(ARGV[at + 5])) end
  if r.need > 0 and r.need > r.limit - r.given then fits = false end
  rows[#rows + 1] = r
end
local answer = {processes}
for _, r in ipairs(rows) do
  local granted = 0
  if fits then
    local share = math.floor((r.limit - r.given) / (2 * processes))
    granted = math.max(r.need, math.min(r.want, share), 0)
  end
  local left = r.limit - r.given - granted
  redis.call('SET', r.key, r.given + granted, 'EX', r.seconds + 60)
  local ends = math.ceil(((r.window + 1) * r.seconds - now) * 1000)
  for _, value in ipairs({r.window, granted, left, ends}) do answer[#answer + 1] = value end
end
return answer
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a process asks of one limit."""

    name: str
    limit: int
    seconds: int  # length of the window
    need: int
    want: int
    back: int = 0  # what it brings back from `window`; below 0: what it used without asking while Redis was away
    window: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What it gets. `granted` covers `need` for every limit, or for none."""

    window: int
    granted: int
    left: int  # still to be given out
    ends_in: float  # seconds until the next window


class Pool:
    """One Redis. Every method may raise redis.RedisError."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._redis = redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=settings.REDIS_TIMEOUT, socket_connect_timeout=settings.REDIS_TIMEOUT
        )
        self._script = self._redis.register_script(SCRIPT)

    def exchange(self, prefix: str, demands: Sequence[Demand]) -> tuple[int, list[Grant]]:
        """Ask for all of `demands` of one key in one round trip; return how many processes use it, and the grants."""
        keys = [f"citadel:limits:{prefix}:{name}" for name in ("processes", *(d.name for d in demands))]
        numbers = [n for d in demands for n in (d.limit, d.seconds, d.need, d.want, d.back, d.window)]
        answer: Any = self._script(keys=keys, args=[self._owner, *numbers])
        processes, rest = int(answer[0]), [int(n) for n in answer[1:]]
        grants = [
            Grant(window=window, granted=granted, left=left, ends_in=ends / 1000)
            for window, granted, left, ends in zip(*[iter(rest)] * 4, strict=True)
        ]
        return processes, grants

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()
