"""Ports of 127.0.0.1."""

import contextlib
import socket
from collections.abc import Mapping

from django.core.management.base import CommandError


def free(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    with contextlib.ExitStack() as opened:
        bound = [opened.enter_context(socket.socket()) for _ in range(count)]
        for one in bound:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in bound]


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
