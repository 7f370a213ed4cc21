"""The storm's own connections to PostgreSQL: each is opened for one thing, as the server comes and goes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2


@contextmanager
def connected(database_url: str) -> Iterator[Any]:
    """A cursor of a connection of its own; its transaction is committed at the end."""
    server = psycopg2.connect(database_url)
    try:
        with server, server.cursor() as cursor:
            yield cursor
    finally:
        server.close()


def owners(database_url: str) -> set[str]:
    """Return the workers that hold a chunk now; none where PostgreSQL does not answer yet."""
    try:
        with connected(database_url) as cursor:
            cursor.execute("SELECT DISTINCT lease_owner FROM batches_batchchunk WHERE state = 'claimed'")
            return {name for (name,) in cursor.fetchall()}
    except psycopg2.OperationalError:
        return set()


def all_ended(database_url: str) -> bool:
    """Whether no batch is active."""
    with connected(database_url) as cursor:
        cursor.execute("SELECT count(*) FROM batches_batchjob WHERE state IN ('queued', 'processing')")
        return bool(cursor.fetchone() == (0,))
