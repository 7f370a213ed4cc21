"""Every route of the URL conf, and for each a request that reaches it, whatever it is allowed to do there."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver

_CONVERTER = re.compile(r"<(?:\w+:)?(\w+)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One address: its pattern as the URL conf has it, and the name under which the tables list it."""

    pattern: str
    name: str

    def path(self, values: Mapping[str, Any]) -> str:
        """The address with `values` in its places."""
        return "/" + _CONVERTER.sub(lambda match: str(values[match[1]]), self.pattern)


def routes() -> list[Route]:
    """All of them. What has no name, and one of two with the same name, is listed under its pattern."""
    found: list[Route] = []
    for pattern, name in _walk(get_resolver().url_patterns):
        taken = name is None or any(route.name == name for route in found)
        found.append(Route(pattern=pattern, name=pattern if taken or name is None else name))
    return found


def _walk(patterns: list[URLPattern | URLResolver], before: str = "") -> Iterator[tuple[str, str | None]]:
    for pattern in patterns:
        path = before + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _walk(pattern.url_patterns, path)
        else:
            yield path, pattern.name
