"""Advisory locks of PostgreSQL: held until the transaction ends, whatever becomes of the process.

Order, for those who take both: an Idempotency-Key's lock first, then a model's.
"""

import hashlib

from django.db import connection


def hold(*name: str) -> None:
    """Wait for the lock called `name` and hold it until the surrounding transaction has ended.

    It must be a statement of its own: only the next statement sees what the former holder has committed.
    """
    digest = hashlib.blake2b("\0".join(name).encode(), digest_size=8).digest()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [int.from_bytes(digest, "big", signed=True)])
