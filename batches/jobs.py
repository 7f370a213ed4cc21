"""RQ's entry points. A job carries a batch's id and nothing else: what to do is asked of PostgreSQL."""

import logging
import time

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

from batches import claiming, heartbeats, processing, queues, turns
from batches.claiming import Target

log = logging.getLogger(__name__)

AWAY = (OperationalError, InterfaceError)


def work(batch_id: str) -> None:
    """Work on a batch, or on that of a client whose turn it is, for one slice; ask others to help if it is large."""
    _slice(batch_id, helpers=True)


def assist(batch_id: str) -> None:
    """Help another worker's batch for one slice."""
    _slice(batch_id, helpers=False)


def after(queue: str, batch_id: str) -> None:
    """After a slice, its job being gone: put a batch that has more to do back behind the others. Never raises.

    Only then does this worker's heartbeat stop naming the batch: between the two, rescue must not enqueue it again.
    """
    pulse = processing.current().pulse
    try:
        if queue == queues.BATCH_QUEUE and _has_more(batch_id):
            queues.enqueue(batch_id, replace=True)
        pulse.works_on("")
    except AWAY as error:
        pulse.batch_id = ""  # the next beat says so
        _away(batch_id, error)


def _slice(batch_id: str, *, helpers: bool) -> None:
    try:
        # Not Django's close_if_unusable_or_obsolete: that would connect anew for each slice.
        if connection.connection is not None and not connection.is_usable():
            connection.close()
        target = claiming.find(batch_id)
        if target is None:
            return
        target = turns.next_target(target)
        if helpers:
            _ask_for_helpers(target)
        processing.current().work(target)
    except AWAY as error:
        _away(batch_id, error)
    except Exception:
        # Put back at once, it would break the next slice at once: let others have the worker for a moment.
        log.exception("slice failed", extra={"batch_id": batch_id})
        time.sleep(1)


def _has_more(batch_id: str) -> bool:
    target = claiming.find(batch_id)
    return target is not None and processing.serving(target.model) is not None and claiming.claimable(batch_id) > 0


def _ask_for_helpers(target: Target) -> None:
    """One helper for each further BULK_CALLS_IN_FLIGHT chunks that wait, as long as there are workers."""
    own = settings.BULK_CALLS_IN_FLIGHT
    model = processing.serving(target.model)
    if model is None or target.total <= own * claiming.call_size(model):
        return
    others = heartbeats.workers_alive() - 1
    waiting = claiming.claimable(target.batch_id, limit=own * (others + 1)) if others > 0 else 0
    queues.enqueue_helpers(target.batch_id, min(others, -(-waiting // own) - 1))


def _away(batch_id: str, error: Exception) -> None:
    """PostgreSQL is away: this slice is over, and the scheduler enqueues the batch again."""
    log.warning("slice ended: PostgreSQL does not answer", extra={"batch_id": batch_id, "error": str(error)})
    connection.close()
