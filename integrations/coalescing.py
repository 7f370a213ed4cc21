"""Live callers of one endpoint share upstream calls while it is busy.

As long as an endpoint has fewer calls in flight than its target (integrations.controller finds it), a caller's texts
leave at once and alone: there is no timer, and an idle gateway adds nothing. At the target they wait. As soon as a call
ends, or as many wait as each call would have were all divided evenly, those that have come together leave as one.

What is shared is the upstream call alone. Each caller keeps its own time limit, may go away, and gets its own vectors
or its own error; it is cut out of the answer by position. Callers share a call only where all that changes the answer,
or how the call is made, is the same: `key`. A call that is refused for the texts in it is halved, by callers, until the
refused text stands alone.
"""

import asyncio
import copy
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextvars import Context
from itertools import accumulate, pairwise
from typing import Final

from django.conf import settings

from integrations.controller import Target
from integrations.errors import CitadelError, Overloaded, UpstreamFailed, UpstreamMalformed, UpstreamTimeout
from integrations.protocols.base import Answer

# An endpoint from which nothing came back for so many of its usual times, and at least so many seconds, is not busy but
# stuck: texts that would wait for it leave at once then, to meet its bound and its breaker as they would alone.
STALL_TIMES: Final = 4.0
STALL_SECONDS: Final = 0.5
# What may be one text's doing although it looks like the server's. Whoever meets it goes on alone: nobody shall meet
# another's text twice.
PERHAPS_A_TEXT: Final = (UpstreamFailed, UpstreamMalformed)


class Exchange:
    """One call on its way, as the function that makes it sees it."""

    __slots__ = ("callers", "out_of_time", "task")

    def __init__(self, callers: "Sequence[_Caller]" = ()) -> None:
        self.callers = callers
        # The last caller left because its time was over, and not by its own will: the server was too slow.
        self.out_of_time = False
        self.task: asyncio.Task[None] | None = None

    def left(self, *, out_of_time: bool) -> None:
        """Note that a caller has gone; with the last one the call is given up."""
        if self.task is not None and all(caller.gone for caller in self.callers):
            self.out_of_time = out_of_time
            self.task.cancel()


# Makes one call: texts, seconds that it may take, the call itself.
Ask = Callable[[Sequence[str], float, Exchange], Awaitable[Answer]]


class _Caller:
    """Somebody who waits for the vectors of its own texts."""

    __slots__ = ("answer", "arrived", "ask", "ends", "exchange", "limit", "texts", "timer")

    def __init__(self, texts: Sequence[str], ask: Ask, *, limit: float, timer: asyncio.Timeout) -> None:
        self.texts, self.ask, self.limit, self.timer = texts, ask, limit, timer
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.exchange: Exchange | None = None
        self.arrived = time.monotonic()
        self.ends = timer.when() or 0.0

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more: it has its answer, ran out of time or was cancelled."""
        return self.answer.done()

    def leave(self, exchange: Exchange, now: float) -> None:
        """Go off with others: its attempt begins now, and ends no later than its whole call."""
        self.exchange = exchange
        self.ends = min(self.ends, now + self.limit)
        if not self.gone:
            self.timer.reschedule(self.ends)

    def fail(self, error: CitadelError) -> None:
        """Give it an error of its own: one exception raised in several places would collect all their traces."""
        if not self.gone:
            self.answer.set_exception(copy.copy(error))


class Lane:
    """The live calls of one process to one endpoint."""

    def __init__(self) -> None:
        self.target = Target()
        self.in_flight = 0
        self.waiting_texts = 0
        self._texts_in_flight = 0
        # Callers by what they may share, the groups taking turns.
        self._waiting: dict[Hashable, deque[_Caller]] = {}
        # Halves of a refused call: they go before all others.
        self._halves: deque[list[_Caller]] = deque()
        self._most: dict[Hashable, int] = {}
        self._moved = time.monotonic()
        self._usual = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(
        self, texts: Sequence[str], ask: Ask, *, key: Hashable, most: int, limit: float, left: float, at_once: bool
    ) -> Answer:
        """Return the answer for these texts, in a call of their own or a shared one.

        key: callers with the same one may share a call. most: texts in one shared call. limit: seconds for the call
        once it has left. left: seconds for all, the wait included. at_once: neither wait nor share.
        Raises what `ask` raises, UpstreamTimeout once the time is over, Overloaded where too many texts wait.
        """
        if at_once or self.in_flight < self.target.calls:
            return await self._at_once(texts, ask, limit)
        if self._stalled():
            self._depart()
            return await self._at_once(texts, ask, limit)
        if self.waiting_texts + len(texts) > settings.COALESCE_MAX_WAITING:
            raise Overloaded(f"{self.waiting_texts} texts wait for this endpoint already.", retry_after=1)
        self._most[key] = most
        try:
            async with asyncio.timeout(left) as timer:
                return await self._in_line(_Caller(texts, ask, limit=limit, timer=timer), key)
        except TimeoutError:
            raise UpstreamTimeout from None

    def _has_room(self) -> bool:
        return self.in_flight < self.target.calls or self._enough() or self._stalled()

    def _enough(self) -> bool:
        """Whether a whole share waits, and a call can hold it: it need not wait for others that left with less.

        Otherwise a crowd that arrives together would wait for the few of it that found room, and go on as a crowd.
        Where a call holds less than a share, the crowd makes more calls than the target, and waits for its turn.
        """
        share = self._fair_share()
        if self.waiting_texts < share or self.in_flight >= self.target.most:
            return False
        return share <= self._most[next(iter(self._waiting))]

    def _stalled(self) -> bool:
        return time.monotonic() - self._moved > max(STALL_SECONDS, STALL_TIMES * self._usual)

    async def _at_once(self, texts: Sequence[str], ask: Ask, limit: float) -> Answer:
        started = self._leave(len(texts))
        answered = 0
        try:
            answer = await ask(texts, limit, Exchange())
            answered = len(texts)
            return answer
        finally:
            self._end(started, len(texts), answered, [started])

    async def _in_line(self, caller: _Caller, key: Hashable) -> Answer:
        self._waiting.setdefault(key, deque()).append(caller)
        self.waiting_texts += len(caller.texts)
        self._depart()
        try:
            return await caller.answer
        finally:
            if caller.answer.done() and not caller.answer.cancelled():
                caller.answer.exception()  # read, also by who was cancelled just then, or asyncio would complain of it
            if caller.exchange is None:
                self.waiting_texts -= len(caller.texts)  # it leaves the line where it stood; its place is passed over
            else:
                caller.exchange.left(out_of_time=caller.timer.expired())

    # --- leaving ---

    def _depart(self) -> None:
        """Send off who waits, as far as there is room."""
        while (self._halves or self._waiting) and self._has_room():
            if callers := self._next():
                self._send_off(callers)

    def _next(self) -> list[_Caller]:
        """Take the callers of the next call out of the line."""
        if self._halves:
            return [caller for caller in self._halves.popleft() if not caller.gone]
        key = next(iter(self._waiting))
        line, most = self._waiting.pop(key), min(self._most[key], self._fair_share())
        callers, texts = list[_Caller](), 0
        while line and (not callers or texts + len(line[0].texts) <= most):
            caller = line.popleft()
            if not caller.gone:
                callers.append(caller)
                texts += len(caller.texts)
        self.waiting_texts -= texts
        if line:
            self._waiting[key] = line
        else:
            del self._most[key]
        return callers

    def _fair_share(self) -> int:
        """Texts for one call, so that all have about as many.

        Were all that wait sent as one, they would come back as one: this process would stand idle until then and be
        busy with all of their answers afterwards, while the server had next to nothing.
        """
        return max(1, -(-(self._texts_in_flight + self.waiting_texts) // self.target.calls))

    def _send_off(self, callers: list[_Caller]) -> None:
        exchange, now = Exchange(callers), asyncio.get_running_loop().time()
        for caller in callers:
            caller.leave(exchange, now)
        # An empty context: the call speaks for all of its callers, and its log lines bear no single one's request id.
        started = self._leave(sum(len(caller.texts) for caller in callers))
        exchange.task = asyncio.get_running_loop().create_task(self._share(exchange, started), context=Context())
        self._tasks.add(exchange.task)
        exchange.task.add_done_callback(self._tasks.discard)

    async def _share(self, exchange: Exchange, started: float) -> None:
        """Make one call for several callers, and tell each what became of it."""
        callers = exchange.callers
        texts = [text for caller in callers for text in caller.texts]
        answered = 0
        try:
            limit = max(caller.ends for caller in callers) - asyncio.get_running_loop().time()
            answer = await callers[0].ask(texts, max(limit, 0.001), exchange)
            _hand_out(answer, callers)
            answered = len(texts)
        except CitadelError as error:
            if len(callers) == 1 or error.retryable:
                for caller in callers:
                    caller.fail(error)
            else:
                half = len(callers) // 2
                self._halves.extend((list(callers[:half]), list(callers[half:])))
        except Exception as error:
            for caller in callers:
                if not caller.gone:
                    caller.answer.set_exception(error)
        finally:
            if exchange.task is not None and exchange.task.cancelling():
                for caller in callers:
                    caller.answer.cancel()
            self._end(started, len(texts), answered, [caller.arrived for caller in callers])

    def _leave(self, texts: int) -> float:
        now = time.monotonic()
        if not self.in_flight:
            self._moved = now  # it was idle: nothing could come back
        self.in_flight += 1
        self._texts_in_flight += texts
        return now

    def _end(self, started: float, texts: int, answered: int, arrived: Sequence[float]) -> None:
        """Note that a call of so many texts is over, `answered` of them with a vector, and let those who wait go on.

        arrived: when each of its callers came.
        """
        now = time.monotonic()
        self.in_flight -= 1
        self._texts_in_flight -= texts
        self._moved = now
        self._usual += 0.2 * (now - started - self._usual)
        delay = now - sum(arrived) / len(arrived)
        self.target.ended(answered, now, in_flight=self.in_flight + 1, waiting=bool(self._waiting), delay=delay)
        self._depart()


def _hand_out(answer: Answer, callers: Sequence[_Caller]) -> None:
    """Give each caller the rows of its own texts, and its share of the tokens that the server counted for all."""
    counts = list(accumulate((len(caller.texts) for caller in callers), initial=0))
    tokens = _shares(answer.prompt_tokens, [sum(map(len, caller.texts)) for caller in callers])
    for caller, (start, end), own in zip(callers, pairwise(counts), tokens, strict=True):
        if not caller.gone:
            caller.answer.set_result(Answer(vectors=answer.vectors[start:end], prompt_tokens=own))


def _shares(total: int, weights: Sequence[int]) -> Iterator[int]:
    """Divide `total` by these weights, to whole numbers that add up to it."""
    whole, given, passed = sum(weights), 0, 0
    for weight in weights:
        passed += weight
        upto = total * passed // whole if whole else 0
        yield upto - given
        given = upto
