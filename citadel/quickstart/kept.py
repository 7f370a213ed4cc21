"""What a state folder keeps from one start to the next: secrets, mode 0600, and the ports of the demo servers."""

import fcntl
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from django.core.management.base import CommandError

from integrations import values


def operator_password(state: Path) -> str:
    """Return the operator's password, generated at the first start."""
    return _secret(state / "operator-password", secrets.token_urlsafe(12))


def api_key(state: Path) -> str:
    """Return the key for clients that send one whatever happens, such as OpenAI's, generated at the first start."""
    return _secret(state / "api-key", values.new_key())


def secret_key(state: Path) -> str:
    """Return Django's SECRET_KEY: sessions outlive a restart."""
    return _secret(state / "secret-key", secrets.token_urlsafe(50))


def mark(state: Path) -> str:
    """Return what the environment of each process of this state carries."""
    return _secret(state / "mark", secrets.token_hex(12))


def ports(state: Path, proposed: Sequence[int]) -> list[int]:
    """Return the demo servers' ports: those of the first start, for the database knows the servers by them."""
    return [int(word) for word in json.loads(_secret(state / "ports", json.dumps(list(proposed))))]


def _secret(path: Path, proposed: str) -> str:
    if not path.exists():
        write(path, f"{proposed}\n")
    return path.read_text().strip()


def write(path: Path, text: str) -> None:
    """Write a file for its owner alone, whole or not at all."""
    temporary = path.with_name(f"{path.name}.half")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.rename(path)


def lock(state: Path) -> int:
    """Keep others from this state for as long as the process lives; kill -9 frees it. Raises CommandError."""
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise CommandError(f"A quickstart is already running in {state}. Stop it, or give another --state.") from error
    return descriptor
