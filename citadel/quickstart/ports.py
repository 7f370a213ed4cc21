"""Ports of 127.0.0.1."""

import random
import socket
from collections.abc import Mapping

from django.core.management.base import CommandError


def free(count: int, *, together: bool = False) -> list[int]:
    """Return ports that nobody listens on now, in a row where `together`. Raises CommandError.

    Below 32,768: from there on Linux gives ports to outgoing connections, and might before a server has started.
    """
    step = count if together else 1
    found: list[int] = []
    for first in random.sample(range(12_000, 32_000, step), k=20_000 // step):  # nosec B311 # no secret
        candidates = range(first, first + step)
        if all(map(_is_free, candidates)):
            found += candidates
        if len(found) >= count:
            return found
    raise CommandError(f"There are no {count} free ports on 127.0.0.1.")


def require_free(wanted: Mapping[int, str]) -> None:
    """Raise CommandError naming each port that is taken, and the option that says where else to go."""
    taken = [f"  port {port} ({what})" for port, what in wanted.items() if not _is_free(port)]
    if taken:
        raise CommandError("\n".join(["Something else already listens on 127.0.0.1:", *taken]))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: a connection of the last run that is still closing does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
