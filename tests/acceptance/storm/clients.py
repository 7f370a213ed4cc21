"""Who submits batches in the storm, and insists: the same Idempotency-Key again until there is a 202."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import requests

# One in three batches is small and shares its calls; few are large and ask for helpers.
SMALL, MIDDLE, LARGE = (1, 10), (50, 400), (1000, 1500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One batch to submit, `at` seconds after the beginning."""

    key: str
    at: float
    texts: tuple[str, ...]


def plan(rng: random.Random, texts: int, *, seconds: float) -> list[Work]:
    """Cut so many texts, each different, into batches that come within so many seconds."""
    sizes = list[int]()
    while (left := texts - sum(sizes)) > 0:
        bounds = rng.choices((SMALL, MIDDLE, LARGE), weights=(5, 9, 1))[0]
        sizes.append(min(left, rng.randint(*bounds)))
    moments = sorted(rng.uniform(0, seconds) for _ in sizes)
    numbers = iter(range(texts))
    return [
        Work(key=f"batch-{n}", at=at, texts=tuple(f"text {next(numbers)}" for _ in range(size)))
        for n, (at, size) in enumerate(zip(moments, sizes, strict=True))
    ]


class Submitter:
    """Submits from a thread. `accepted` has the texts of each batch id that came with a 202; `outcomes` all answers."""

    def __init__(self, url: str, work: Sequence[Work]) -> None:
        self.accepted: dict[str, tuple[str, ...]] = {}
        self.outcomes: Counter[str] = Counter()
        self._url, self._work = url, work
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._submit_all, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up.set()
        self._thread.join(60)

    def wait(self, timeout: float) -> bool:
        """Wait until every batch is accepted; False when that takes longer."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _submit_all(self) -> None:
        began = time.monotonic()
        for work in self._work:
            self._given_up.wait(max(0.0, began + work.at - time.monotonic()))
            for batch_id in self._attempts(work):
                if batch_id or self._given_up.is_set():
                    break
                self._given_up.wait(0.1)

    def _attempts(self, work: Work) -> Iterator[str]:
        while True:
            outcome, batch_id = self._submit(work)
            self.outcomes[outcome] += 1
            if batch_id:
                self.accepted[batch_id] = work.texts
            yield batch_id

    def _submit(self, work: Work) -> tuple[str, str]:
        try:
            answer = requests.post(
                f"{self._url}/api/v1/external/m/embed",
                json={"texts": work.texts},
                headers={"Idempotency-Key": work.key},
                timeout=30,
            )
        except requests.RequestException:
            return "broken", ""
        body = answer.json()
        return ("accepted", body["batch_id"]) if answer.status_code == 202 else (body["code"], "")
