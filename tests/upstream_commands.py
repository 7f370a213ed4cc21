"""What a test tells a model server to do wrong: one method for each failure of tests/upstream_failures.py."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.upstream_failures import FAILURES


@dataclass(slots=True, kw_only=True)
class _Failure:
    kind: str
    times: int | None
    on: str
    options: dict[str, Any]


class Commands:
    """Failures set and not yet used. Each method takes times=None (until cleared) and on="embed" or "health"."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._failures: list[_Failure] = []
        self.poisoned: set[str] = set()
        self.crashing: set[str] = set()

    def fail(self, kind: str, *, times: int | None = None, on: str = "embed", **options: Any) -> None:
        """Set a failure by its name; the methods below say what each takes."""
        failure = _Failure(kind=kind, times=times, on=on, options=options)
        if kind not in FAILURES:
            raise ValueError(f"no failure is called {kind}")
        with self._lock:
            if times is None:
                self._failures = [f for f in self._failures if f.times is not None or f.on != on]
            self._failures.append(failure)

    def clear(self) -> None:
        """Behave again: no failure, no poison."""
        with self._lock:
            self._failures.clear()
            self.poisoned.clear()
            self.crashing.clear()

    def poison(self, text: str) -> None:
        """Refuse calls that hold `text`, in the protocol's own manner."""
        self.poisoned.add(text)

    def crash_on(self, text: str) -> None:
        """Answer 500 to calls that hold `text`."""
        self.crashing.add(text)

    def status(self, code: int, *, headers: Mapping[str, str] | None = None, body: str = "", **when: Any) -> None:
        """Answer with this status."""
        self.fail("status", code=code, headers=headers, body=body, **when)

    def hang(self, **when: Any) -> None:
        """Take the request and never answer."""
        self.fail("hang", **when)

    def drop(self, **when: Any) -> None:
        """Close the connection instead of answering, without one byte."""
        self.fail("drop", **when)

    def reset(self, **when: Any) -> None:
        """Reset the connection in the middle of the body."""
        self.fail("reset", **when)

    def short(self, **when: Any) -> None:
        """Close it there."""
        self.fail("short", **when)

    def html(self, **when: Any) -> None:
        """Answer 200 with a page for people, as a proxy in between does."""
        self.fail("html", **when)

    def truncated(self, **when: Any) -> None:
        """Answer 200 with the first half of the JSON as the whole body."""
        self.fail("truncated", **when)

    def wrong_count(self, **when: Any) -> None:
        """Leave out the last vector."""
        self.fail("wrong_count", **when)

    def wrong_dimension(self, **when: Any) -> None:
        """Give vectors one number longer than promised."""
        self.fail("wrong_dimension", **when)

    def nan(self, **when: Any) -> None:
        """Put NaN in the first vector."""
        self.fail("nan", **when)

    def shuffled(self, **when: Any) -> None:
        """Give the vectors in another order than the texts; only the openai protocol can say so (`index`)."""
        self.fail("shuffled", **when)

    def twice(self, **when: Any) -> None:
        """Answer rightly, and a moment later once more with the vectors of other texts."""
        self.fail("twice", **when)

    def slow(self, delay: float, **when: Any) -> None:
        """Answer rightly after `delay` seconds."""
        self.fail("slow", delay=delay, **when)

    def trickle(self, interval: float = 0.05, **when: Any) -> None:
        """Answer rightly, one byte each `interval` seconds."""
        self.fail("trickle", interval=interval, **when)

    def big(self, size: int, **when: Any) -> None:
        """Answer rightly, padded with white space to `size` bytes."""
        self.fail("big", size=size, **when)

    def gzip_bomb(self, size: int, **when: Any) -> None:
        """The same, compressed to a thousandth."""
        self.fail("gzip_bomb", size=size, **when)

    def redirect(self, url: str, *, code: int = 307, **when: Any) -> None:
        """Send the caller elsewhere."""
        self.fail("status", code=code, headers={"Location": url}, **when)

    def next_failure(self, on: str) -> _Failure | None:
        """Take the failure that the next request meets, if there is one."""
        with self._lock:
            failure = next((f for f in self._failures if f.on == on), None)
            if failure and failure.times is not None:
                failure.times -= 1
                if failure.times <= 0:
                    self._failures.remove(failure)
            return failure
