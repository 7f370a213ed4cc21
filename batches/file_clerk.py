"""The clerk reads files and writes their output, in a thread of the scheduler's process.

Not a job of RQ's: helpers have their turn when no batch waits, and under load that is never. A file may take a while,
and no tick of the scheduler waits for it. Of several schedulers each takes files of its own.
"""

import logging

from django.db import DatabaseError, InterfaceError

from batches import file_intake, file_lease, file_output
from batches.models import FileBatch
from integrations.errors import CitadelError

log = logging.getLogger(__name__)

# After an error that nobody foresaw, in seconds: others have their turn, and the log has room.
PAUSE = 10.0


def do_one() -> bool:
    """Read or finish one file; False when there is none. Raises DatabaseError, InterfaceError."""
    batch = file_lease.claim()
    if batch is None:
        return False
    try:
        with file_lease.renewing(batch):
            _work(batch)
    except file_lease.Lost:
        log.info("file batch left to others", extra={"batch_id": batch.batch_id})
    except file_intake.NotYet as error:
        file_lease.postpone(batch, error.seconds, str(error))
    except CitadelError as error:
        file_lease.postpone(batch, error.retry_after or PAUSE, error.detail)
    except (DatabaseError, InterfaceError):
        raise
    except Exception:
        log.exception("file batch not done", extra={"batch_id": batch.batch_id})
        file_lease.postpone(batch, PAUSE, "Citadel failed on this file; the operator's log says why.")
    return True


def _work(batch: FileBatch) -> None:
    if batch.state == FileBatch.State.VALIDATING:
        file_intake.take_in(batch)
    else:
        file_output.give_out(batch)
