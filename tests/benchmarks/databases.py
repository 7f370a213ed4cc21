"""A database that only one benchmark uses, on the server that DATABASE_URL names."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2

ROOT = Path(__file__).resolve().parent.parent.parent
MANAGE = (sys.executable, "manage.py")


@contextlib.contextmanager
def own_database() -> Iterator[Mapping[str, str]]:
    """Yield the environment of processes that use a new, migrated database; it is dropped at the end."""
    server = os.environ.get("DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
    name = f"citadel_benchmark_{os.getpid()}"
    execute(server, f"CREATE DATABASE {name}")
    try:
        env = {**os.environ, "DATABASE_URL": urlsplit(server)._replace(path=f"/{name}").geturl()}
        subprocess.run([*MANAGE, "migrate", "-v0", "--skip-checks"], cwd=ROOT, env=env, check=True)
        yield env
    finally:
        execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def execute(server: str, statement: str) -> None:
    """Run one statement that may not be in a transaction."""
    connection = psycopg2.connect(server)
    connection.autocommit = True
    connection.cursor().execute(statement)
    connection.close()
