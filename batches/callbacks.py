"""Callbacks: when a batch ends, its client is told, at least once, by a signed POST (Standard Webhooks).

    batch ends --announce--> Delivery pending --2xx--> delivered
                                 |   ^
                                 |   | later, CALLBACK_ATTEMPTS in all
                                 +---+--410, or the last attempt--> given_up

Nobody who ends a batch thinks of its callback: `announce` finds ended batches that have none yet, in one transaction
each, so that no crash loses one. A delivery is claimed with a lease; the process that died with it lets another repeat
it after that time, under the same webhook-id.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from django.conf import settings
from django.db import transaction

from batches import clock
from batches.models import BatchJob, Delivery
from integrations import callback_targets, transport
from integrations.errors import CitadelError
from integrations.protocols import HttpRequest

log = logging.getLogger(__name__)

SLICE: Final = 100
AT_ONCE: Final = 20
GONE: Final = 410
LONGEST_WAIT: Final = 4 * 3600.0
_PREFIX: Final = "whsec_"


def announce() -> bool:
    """Make the deliveries of batches that have ended; return whether there may be more."""
    with transaction.atomic():
        due = BatchJob.objects.filter(callback_for=None, finished_at__isnull=False).exclude(callback_url="")
        jobs = list(due.select_for_update(skip_locked=True).order_by("id")[:SLICE])
        now = clock.now()
        Delivery.objects.bulk_create(_delivery(job, now) for job in jobs)
        for job in jobs:
            job.callback_for = job.finished_at
        BatchJob.objects.bulk_update(jobs, ["callback_for"])
    return len(jobs) == SLICE


def _delivery(job: BatchJob, now: datetime) -> Delivery:
    event = f"batch.{job.state}"
    body = {
        "type": event,
        "timestamp": job.finished_at,
        "data": {
            "batch_id": job.batch_id,
            "status": job.state,
            "model": job.model,
            "pattern": job.pattern,
            "counts": {"total": job.total, "completed": job.completed, "failed": job.failed},
            "finished_at": job.finished_at,
            "request_id": job.request_id,
            "client_metadata": job.client_metadata,
        },
    }
    text = orjson.dumps(body, option=orjson.OPT_UTC_Z | orjson.OPT_OMIT_MICROSECONDS).decode()
    return Delivery(
        batch=job,
        webhook_id=f"msg_{secrets.token_urlsafe(18)}",
        event=event,
        body=text,
        created_at=now,
        next_at=now,
    )


def deliver_due() -> int:
    """Make one attempt at each of some deliveries that are due; return how many that were."""
    claimed = _claim()
    if claimed:
        outcomes = asyncio.run(_attempt_all(claimed))
        for delivery, outcome in zip(claimed, outcomes, strict=True):
            _settle(delivery, outcome)
    return len(claimed)


def _claim() -> list[Delivery]:
    with transaction.atomic():
        now = clock.now()
        due = Delivery.objects.filter(state=Delivery.State.PENDING, next_at__lte=now)
        rows = list(
            due.select_for_update(skip_locked=True, of=("self",)).select_related("batch").order_by("next_at")[:AT_ONCE]
        )
        for row in rows:
            row.attempts += 1
            # Until then it is this process's. Whoever dies with it has then made an attempt that counts.
            row.next_at = now + timedelta(seconds=2 * settings.CALLBACK_TIMEOUT + 1)
        Delivery.objects.bulk_update(rows, ["attempts", "next_at"])
    return rows


async def _attempt_all(deliveries: Sequence[Delivery]) -> list[int | str]:
    return await asyncio.gather(*(_attempt(delivery) for delivery in deliveries))


async def _attempt(delivery: Delivery) -> int | str:
    """The status of the answer, or why there was none."""
    url, body = delivery.batch.callback_url, delivery.body.encode()
    if why := callback_targets.why_not(url):
        return why  # an operator has changed what is allowed
    sent_at = int(clock_seconds())
    headers = {
        "Content-Type": "application/json",
        "webhook-id": delivery.webhook_id,
        "webhook-timestamp": str(sent_at),
        "webhook-signature": signatures(delivery.batch.client, delivery.webhook_id, sent_at, body=body),
    }
    request = HttpRequest(method="POST", url=url, headers=headers, body=body)
    try:
        return await transport.notify(request, allow=callback_targets.guard(url), timeout=settings.CALLBACK_TIMEOUT)
    except CitadelError as error:
        return error.detail


def clock_seconds() -> float:
    """Return the time for a signature; receivers compare it with their own."""
    return datetime.now().astimezone().timestamp()


def _settle(delivery: Delivery, outcome: int | str) -> None:
    """Store what came of an attempt, unless another has taken the delivery over."""
    status = outcome if isinstance(outcome, int) else None
    delivery.last_status, delivery.last_error = status, "" if status else str(outcome)[:200]
    now, mine = (
        clock.now(),
        Delivery.objects.filter(pk=delivery.pk, next_at=delivery.next_at, attempts=delivery.attempts),
    )
    if status is not None and 200 <= status < 300:
        delivery.state, delivery.delivered_at = Delivery.State.DELIVERED, now
    elif status == GONE or delivery.attempts >= settings.CALLBACK_ATTEMPTS:
        delivery.state = Delivery.State.GIVEN_UP
    mine.update(
        state=delivery.state,
        delivered_at=delivery.delivered_at,
        last_status=delivery.last_status,
        last_error=delivery.last_error,
        next_at=now + timedelta(seconds=backoff(delivery.attempts)),
    )
    log.info("callback of %s: %s, attempt %s", delivery.batch.batch_id, status or "no answer", delivery.attempts)


def backoff(attempts: int) -> float:
    """Return how long to wait after so many attempts: four times longer each time, with jitter."""
    seconds = min(settings.CALLBACK_BACKOFF * 4.0 ** (attempts - 1), LONGEST_WAIT)
    return seconds * random.uniform(0.8, 1.2)  # nosec B311 # jitter


# --- Signatures ------------------------------------------------------------------------------------------------------


def secrets_of(client: str) -> list[str]:
    """Return the client's own secrets, as Standard Webhooks writes them; with the first it is signed first.

    Made of CALLBACK_SECRET and the name, so that no client can sign for another, and nothing need be stored.
    """
    return [_PREFIX + base64.b64encode(key).decode() for key in _keys(client)]


def signatures(client: str, webhook_id: str, timestamp: int, *, body: bytes) -> str:
    """Return the header webhook-signature: one signature for each of CALLBACK_SECRET's values."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return " ".join("v1," + base64.b64encode(_hmac(key, signed)).decode() for key in _keys(client))


def _keys(client: str) -> list[bytes]:
    return [_hmac(secret.encode(), b"citadel callbacks:" + client.encode()) for secret in settings.CALLBACK_SECRETS]


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


# --- What is shown --------------------------------------------------------------------------------------------------


def shown(job: BatchJob) -> dict[str, Any] | None:
    """What came of the batch's last callback, for those who may see the batch; None without one."""
    if not job.callback_url:
        return None
    last = job.deliveries.order_by("-id").first()
    return {
        "url": job.callback_url,
        "status": last.state if last else "waiting",
        "event": last.event if last else None,
        "webhook_id": last.webhook_id if last else None,
        "attempts": last.attempts if last else 0,
        "last_status": last.last_status if last else None,
        "last_error": (last.last_error or None) if last else None,
        "next_attempt_at": last.next_at if last and last.state == Delivery.State.PENDING else None,
        "delivered_at": last.delivered_at if last else None,
    }


def shown_to_operators(job: BatchJob) -> dict[str, Any] | None:
    """The same without the query of the address, in which clients keep secrets of their own."""
    found = shown(job)
    return found and {**found, "url": urlsplit(found["url"])._replace(query="").geturl()}
