"""OpenAI's own client, pointed at a Citadel of the tests."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from openai import AsyncOpenAI, OpenAI

from integrations import operations, snapshot


def a_key(*scopes: str, name: str = "team-a") -> str:
    """A key of this client with these scopes; every scope but operate by default."""
    key = operations.create_key(name, scopes or ("embed", "batch", "read"), actor="tests")
    snapshot.load()
    return key


class Clients:
    """Makes clients and closes them: a connection that is left open is a warning, and so an error."""

    def __init__(self, url: str, key: str, stack: ExitStack) -> None:
        self.url, self.key, self._stack = url, key, stack
        self.plain = self.one()

    def one(self, *, key: str = "", **options: Any) -> OpenAI:
        """The synchronous client; retries only where a test says so."""
        made = OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, **({"max_retries": 0} | options))
        return self._stack.enter_context(made)

    def asynchronous(self, **options: Any) -> AsyncOpenAI:
        """The asynchronous client, which its user closes."""
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.key, **({"max_retries": 0} | options))


@contextmanager
def clients(url: str, key: str) -> Iterator[Clients]:
    """Clients of the Citadel at `url` that show this key."""
    with ExitStack() as stack:
        yield Clients(url, key, stack)
