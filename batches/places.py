"""How many of a worker's calls to a model are under way at once; those that were claimed ahead wait in order."""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

# How often those who wait look whether there are more places: nobody says so when live calls have gone.
GLANCE = 0.1


class Places:
    """The places of each model. To be used on one event loop alone.

    limit: says of a model how many of its calls may be under way now.
    """

    def __init__(self, limit: Callable[[str], int]) -> None:
        self._limit = limit
        self._taken: Counter[str] = Counter()
        self._waiting: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)

    @asynccontextmanager
    async def one(self, model: str) -> AsyncIterator[None]:
        """Hold one of the model's places, once those who came before have theirs."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting[model].append(turn)
        self._admit(model)
        try:
            while not turn.done():
                await asyncio.wait({turn}, timeout=GLANCE)
                self._admit(model)
            turn.result()
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._taken[model] -= 1
            turn.cancel()
            self._admit(model)

    def dismiss(self) -> None:
        """Cancel everyone who waits for a place."""
        for line in self._waiting.values():
            for turn in line:
                turn.cancel()

    def _admit(self, model: str) -> None:
        line = self._waiting[model]
        while line and self._taken[model] < self._limit(model):
            turn = line.popleft()
            if not turn.done():
                self._taken[model] += 1
                turn.set_result(None)
