"""Advisory locks of PostgreSQL: held until the transaction ends, whatever becomes of the process.

Order, for those who take several: an Idempotency-Key's lock first, then that of the ended batches, then a model's.
"""

import hashlib

from django.db import connection


def hold(*name: str, shared: bool = False) -> None:
    """Wait for the lock called `name` and hold it until the surrounding transaction has ended.

    It must be a statement of its own: only the next statement sees what the former holder has committed. shared: beside
    others who hold it so.
    """
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_advisory_xact_lock{'_shared' if shared else ''}(%s)", [_number(name)])


def take(*name: str) -> bool:
    """Hold the lock called `name` as `hold` does if nobody else has it; False, at once, if somebody does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_number(name)])
        return bool(cursor.fetchone()[0])


def _number(name: tuple[str, ...]) -> int:
    digest = hashlib.blake2b("\0".join(name).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
