"""One attempt at one endpoint: the breaker, the bound of calls in flight, a pause that it asked for, shared calls."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings

from integrations import exchange, pressure
from integrations.breakers import Breakers
from integrations.coalescing import Exchange, Lane
from integrations.errors import Overloaded, UpstreamBusy, UpstreamTimeout
from integrations.exchange import Send
from integrations.protocols.base import Answer
from integrations.values import Assignment, Endpoint, Model

# How long an endpoint that answers 429 without Retry-After is left alone, in seconds.
DEFAULT_PAUSE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one caller wants of an endpoint; times in seconds."""

    model: Model
    texts: Sequence[str]  # prefixed
    assignment: Assignment
    dimensions: int | None
    limit: float  # for the attempt
    left: float  # for the whole call
    bulk: bool  # for the queue, and nobody waits
    alone: bool  # share no call


class Attempts:
    """All attempts of one gateway."""

    def __init__(self, breakers: Breakers, send: Send) -> None:
        self._breakers = breakers
        self._send = send
        self._paused: dict[int, float] = {}
        self._calls: Counter[int] = Counter()
        self.lanes: defaultdict[int, Lane] = defaultdict(Lane)

    async def make(self, endpoint: Endpoint, asked: Asked) -> Answer:
        """Return one vector for each text.

        Raises CircuitOpen or Overloaded where nothing was sent, and what exchange.embed raises.
        """
        self._refuse_paused(endpoint)
        try:
            if asked.bulk:
                return await self._bulk(endpoint, asked)
            with pressure.current().live(endpoint):
                return await self._live(endpoint, asked)
        except UpstreamBusy as error:
            self._paused[endpoint.id] = time.monotonic() + (error.retry_after or DEFAULT_PAUSE)
            raise

    async def _bulk(self, endpoint: Endpoint, asked: Asked) -> Answer:
        with pressure.current().bulk(endpoint, len(asked.texts)):
            size = pressure.bulk_batch_size(endpoint, min(exchange.most(endpoint), len(asked.texts)))
            return await self._send_texts(endpoint, asked, asked.texts, asked.limit, size=size, at_once=1)

    async def _live(self, endpoint: Endpoint, asked: Asked) -> Answer:
        async def ask(texts: Sequence[str], seconds: float, call: Exchange) -> Answer:
            self._refuse_paused(endpoint)  # it may have asked for a pause while these texts waited
            return await self._send_texts(endpoint, asked, texts, seconds, call=call)

        if not asked.model.coalesce:
            return await ask(asked.texts, asked.limit, Exchange())
        lane = self.lanes[endpoint.id]
        lane.target.within(endpoint.min_target, min(endpoint.max_target, endpoint.max_in_flight))
        return await lane.ask(
            asked.texts,
            ask,
            # The very values, which `ask` keeps alive: all that changes an answer or how a call is made is in them.
            key=(id(endpoint), id(asked.model), id(asked.assignment), asked.dimensions),
            most=min(exchange.most(endpoint), settings.COALESCE_MAX_TEXTS),
            limit=asked.limit,
            left=asked.left,
            at_once=asked.alone or not self._breakers.lets_through(endpoint),
        )

    async def _send_texts(
        self,
        endpoint: Endpoint,
        asked: Asked,
        texts: Sequence[str],
        seconds: float,
        *,
        call: Exchange | None = None,
        size: int | None = None,
        at_once: int = exchange.PARTS_AT_ONCE,
    ) -> Answer:
        """Send them in one of the endpoint's places, as its breaker allows.

        A server that hangs must not collect all of this process's calls.
        """
        if self._calls[endpoint.id] >= endpoint.max_in_flight:
            raise Overloaded(f"{endpoint.url} has {endpoint.max_in_flight} calls in flight.", retry_after=1)
        self._calls[endpoint.id] += 1
        try:
            async with self._breakers.guard(endpoint, asked.assignment):
                try:
                    return await exchange.embed(
                        self._send,
                        endpoint,
                        model=asked.model,
                        texts=texts,
                        connect_timeout=asked.assignment.connect_timeout,
                        timeout=seconds,
                        dimensions=asked.dimensions,
                        size=size,
                        at_once=at_once,
                    )
                except asyncio.CancelledError:
                    if call is not None and call.out_of_time:
                        raise UpstreamTimeout from None
                    raise
        finally:
            self._calls[endpoint.id] -= 1

    def _refuse_paused(self, endpoint: Endpoint) -> None:
        left = self._paused.get(endpoint.id, 0.0) - time.monotonic()
        if left > 0:
            raise Overloaded(f"{endpoint.url} asked for a pause.", retry_after=left)
