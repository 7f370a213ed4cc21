"""What the processes know of each other's breakers: one Redis hash, one field an endpoint, changed by one script.

Redis's clock is everybody's clock. The script counts, trips, closes and hands out the half-open trial in one step, so
that of many processes exactly one learns that it tripped a breaker, and exactly one holds the trial.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import redis
from django.conf import settings

from integrations.values import Assignment, Endpoint

SCRIPT = """
local key, trials = KEYS[1], KEYS[2]
local id, op, epoch = ARGV[1], ARGV[2], tonumber(ARGV[3])
local threshold, timeout, longest = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local reason, owner = ARGV[7], ARGV[8]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local trial = trials .. ':' .. id
local raw = redis.call('HGET', key, id)
local r = raw and cjson.decode(raw)
if not r or r.epoch < epoch then
  redis.call('DEL', trial) -- of before the reset
  r = {state = 'closed', count = 0, opens = 0, till = 0, span = 0, at = 0, reason = '', epoch = epoch}
end
if r.epoch > epoch then return 'stale' end
local answer = ''
local function open()
  r.state, r.opens, r.at, r.reason = 'open', r.opens + 1, now, reason
  r.span = math.min(timeout * 2 ^ (r.opens - 1), longest)
  r.till = now + r.span
  answer = 'open'
end
if op == 'fail' and r.state == 'closed' then
  r.count = r.count + 1
  if r.count >= threshold then open() end
elseif op == 'trip' and r.state == 'closed' then
  r.count = math.max(r.count + 1, threshold)
  open()
elseif op == 'ok' and r.state == 'closed' then
  r.count = 0
elseif op == 'restore' then
  if not raw and longest > 0 then
    r.state, r.count, r.opens, r.at, r.reason, r.till = 'open', threshold, 1, now, reason, now + longest
    r.span = longest
  end
elseif op == 'take' then
  if r.state == 'closed' then return 'closed' end
  -- Further ahead than it ever was: the clock has stepped back.
  if r.till > now and r.till <= now + r.span + 1 then return 'wait' end
  if redis.call('SET', trial, owner, 'NX', 'PX', math.ceil(longest * 1000)) then return 'taken' end
  return 'wait'
elseif op == 'close' or op == 'reopen' or op == 'release' then
  -- A trial that outlived its time limit may have been handed to another: then this one decides nothing.
  if redis.call('GET', trial) ~= owner then return 'stale' end
  redis.call('DEL', trial)
  if op == 'close' then
    r.state, r.count, r.opens, r.till, r.reason = 'closed', 0, 0, 0, ''
    answer = 'closed'
  elseif op == 'reopen' then
    open()
  end
end
redis.call('HSET', key, id, cjson.encode(r))
return answer
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One thing to tell the others."""

    endpoint_id: int
    op: str  # fail, trip, ok, restore; of a trial: take, close, reopen, release
    epoch: int
    threshold: int = 1
    timeout: float = 0.0  # seconds until the first trial
    longest: float = 0.0  # bound of a growing timeout; for take the trial's time limit; for restore the time left
    reason: str = ""
    owner: str = ""

    def arguments(self) -> Sequence[str | int | float]:
        """In the script's order."""
        return (
            *(self.endpoint_id, self.op, self.epoch, self.threshold),
            *(self.timeout, self.longest, self.reason, self.owner),
        )


def command_for(
    endpoint: Endpoint,
    assignment: Assignment,
    op: str,
    *,
    longest: float | None = None,
    reason: str = "",
    owner: str = "",
) -> Command:
    """Return the command that tells the others of `op`, with what the assignment says of breakers."""
    return Command(
        endpoint_id=endpoint.id,
        op=op,
        epoch=endpoint.breaker_epoch,
        threshold=assignment.breaker_threshold,
        timeout=assignment.breaker_reset_timeout,
        longest=settings.BREAKER_RESET_TIMEOUT_MAX if longest is None else longest,
        reason=reason,
        owner=owner,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all processes together know of one endpoint's breaker."""

    state: str
    count: int
    opens: int
    epoch: int
    left: float  # seconds until a trial may be made
    opened_at: float  # seconds since 1970, Redis's clock
    reason: str


class SharedBreakers:
    """The hash of one namespace. Every method may raise redis.RedisError."""

    def __init__(self, namespace: str, *, lifetime: int | None = None) -> None:
        self._lifetime = lifetime  # seconds that the hash outlives its last exchange; None: for ever
        self._key = f"citadel:breakers:{namespace}"
        self._trials = f"citadel:trials:{namespace}"
        self._redis = redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=settings.REDIS_TIMEOUT, socket_connect_timeout=settings.REDIS_TIMEOUT
        )
        self._script = self._redis.register_script(SCRIPT)

    def run(self, command: Command) -> str:
        """Run one command at once: the trial's."""
        answer: Any = self._script(keys=[self._key, self._trials], args=command.arguments())
        return str(answer, "ascii")

    def exchange(self, commands: Sequence[Command]) -> tuple[list[str], Mapping[int, Shared]]:
        """Run the commands in order and read everything, in one round trip."""
        with self._redis.pipeline(transaction=False) as pipe:
            for command in commands:
                self._script(keys=[self._key, self._trials], args=command.arguments(), client=pipe)
            if self._lifetime is not None:
                pipe.expire(self._key, self._lifetime)
            pipe.hgetall(self._key)
            pipe.time()
            results = pipe.execute()
        answers, (fields, (seconds, micros)) = results[: len(commands)], results[-2:]
        return [str(a, "ascii") for a in answers], dict(_shared(fields, seconds + micros / 1e6))

    def forget(self) -> None:
        """Remove everything of this namespace: a drill cleans up behind itself."""
        ids = self._redis.hkeys(self._key)
        self._redis.delete(self._key, *(f"{self._trials}:{int(i)}" for i in ids))

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()


def _shared(fields: Mapping[bytes, bytes], now: float) -> Iterator[tuple[int, Shared]]:
    for field, raw in fields.items():
        r: dict[str, Any] = orjson.loads(raw)
        yield (
            int(field),
            Shared(
                state=r["state"],
                count=int(r["count"]),
                opens=int(r["opens"]),
                epoch=int(r["epoch"]),
                left=_left(r, now),
                opened_at=r["at"],
                reason=r["reason"],
            ),
        )


def _left(r: dict[str, Any], now: float) -> float:
    """Seconds until a trial; none where the clock has stepped back since, see the script."""
    left = r["till"] - now
    return left if 0 < left <= r.get("span", 0) + 1 else 0.0


def new_owner() -> str:
    """A name for the holder of a trial that no other has."""
    return uuid.uuid4().hex
