"""Which file has work to do, and the lease under which one process does it.

As with chunks: a token and a time limit on PostgreSQL's clock; whatever is written in the end counts only under the
token. A process that is killed leaves a lease that runs out, and the next one begins the file anew.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction

from batches.models import FileBatch

log = logging.getLogger(__name__)

# The longest that a file which had to wait is not looked at, in seconds.
LONGEST_WAIT: Final = 60.0

# A time limit further ahead than it can have been set was set before the clock stepped back.
_CLAIM: Final = f"""
UPDATE batches_filebatch f SET
    lease_token = gen_random_uuid(), lease_until = clock_timestamp() + %(lease)s * interval '1 second',
    state = CASE WHEN f.state = 'in_progress' THEN 'finalizing' ELSE f.state END,
    finalizing_at = CASE WHEN f.state = 'in_progress' THEN clock_timestamp() ELSE f.finalizing_at END
WHERE f.id = (
    SELECT id FROM batches_filebatch due
    WHERE due.state IN ('validating', 'in_progress', 'finalizing', 'cancelling')
        AND (due.available_at <= now() OR due.available_at > now() + interval '{LONGEST_WAIT + 60} seconds')
        AND (due.lease_until IS NULL OR due.lease_until < now()
            OR due.lease_until > clock_timestamp() + (%(lease)s + 1) * interval '1 second')
        AND (due.state <> 'in_progress' OR NOT EXISTS (
            SELECT FROM batches_batchjob j WHERE j.file_batch_id = due.id AND j.state IN ('queued', 'processing')))
    ORDER BY due.available_at, due.id FOR UPDATE SKIP LOCKED LIMIT 1
)
RETURNING f.id
"""  # nosec B608 # made of constants

# SKIP LOCKED: the row is locked by this very process while it stores what it has found.
_RENEW: Final = """
UPDATE batches_filebatch SET lease_until = clock_timestamp() + %(lease)s * interval '1 second'
WHERE id IN (SELECT id FROM batches_filebatch WHERE id = %(id)s AND lease_token = %(token)s FOR UPDATE SKIP LOCKED)
"""

_POSTPONE: Final = """
UPDATE batches_filebatch SET available_at = clock_timestamp() + %(delay)s * interval '1 second', waits_for = %(why)s,
    lease_token = NULL, lease_until = NULL
WHERE id = %(id)s AND lease_token = %(token)s
"""


class Lost(Exception):
    """The file is no longer this process's: it was cancelled, or somebody else has it."""


def claim() -> FileBatch | None:
    """Take a file that has work to do; None when there is none."""
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"lease": settings.CHUNK_LEASE})
        row = cursor.fetchone()
    return FileBatch.objects.get(pk=row[0]) if row else None


@contextmanager
def renewing(batch: FileBatch) -> Iterator[None]:
    """Hold a claimed file's lease for as long as it takes: a storage may be slow, a file large."""
    stop = threading.Event()
    thread = threading.Thread(target=_renew, args=(batch, stop), name="file-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _renew(batch: FileBatch, stop: threading.Event) -> None:
    while not stop.wait(settings.CHUNK_LEASE / 3):
        try:
            _execute(_RENEW, batch, lease=settings.CHUNK_LEASE)
        except (DatabaseError, InterfaceError) as error:
            log.debug("lease not renewed: %s", type(error).__name__)
            connection.close()
    connection.close()


def postpone(batch: FileBatch, delay: float, why: str) -> None:
    """Let go of the file, and let nobody look at it for `delay` seconds."""
    _execute(_POSTPONE, batch, delay=min(delay, LONGEST_WAIT), why=why[:300])


def _execute(statement: str, batch: FileBatch, **values: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, {"id": batch.pk, "token": str(batch.lease_token), **values})


@contextmanager
def settling(batch: FileBatch) -> Iterator[FileBatch]:
    """A transaction in which the file is still this process's; what it writes ends the lease. Raises Lost."""
    with transaction.atomic():
        mine = FileBatch.objects.select_for_update().filter(
            pk=batch.pk, lease_token=batch.lease_token, state=batch.state
        )
        row = mine.first()
        if row is None:
            raise Lost
        row.lease_token, row.lease_until, row.waits_for = None, None, ""
        yield row
