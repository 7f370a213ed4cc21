"""The one door to RQ: two lists in Redis that hold batch ids, and the worker that takes them.

`batch_queue` holds each released batch once; `batch_helpers` holds `{batch_id}-{n}`, further hands for a large batch.
Redis holds hints only: what is lost here, batches.rescue puts back from PostgreSQL.
"""

import contextlib
import functools
import logging
import signal
import time
import uuid
from collections.abc import Callable
from types import FrameType
from typing import Any

import django_rq
import redis
from django.conf import settings
from django_rq.queues import DjangoRQ
from rq.exceptions import DuplicateJobError, InvalidJobOperation, NoSuchJobError, StopRequested
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker

log = logging.getLogger(__name__)

BATCH_QUEUE, BATCH_HELPERS = "batch_queue", "batch_helpers"
# Entry points by name: a web process that only enqueues need not import what works on batches.
WORK, HELP = "batches.jobs.work", "batches.jobs.assist"
# RQ blocks for WORKER_TTL - 15 s on its lists and allows 10 s more for the answer; a Redis that falls silent is noticed
# within that time.
WORKER_TTL = 30
# RQ keeps a job that raised for so long. The batch itself is safe in PostgreSQL.
FAILURE_TTL = 60
# A slice takes BULK_SLICE; this only ends one that hangs on PostgreSQL.
SLICE_LIMIT = 300

# What django-rq's pages fall over when a job or a worker is gone by the time that somebody asks for it.
GONE = (NoSuchJobError, InvalidJobOperation, ValueError, AssertionError)


class BatchQueue(DjangoRQ):
    """RQ's queue under its bare name, so that `redis-cli llen batch_queue` counts the batches that wait."""

    redis_queue_namespace_prefix = ""


@functools.cache
def _connection(url: str) -> "redis.Redis":
    """Return this process's connection pool for short commands; it is safe to share among threads and after a fork."""
    return redis.Redis.from_url(
        url, socket_timeout=settings.REDIS_TIMEOUT, socket_connect_timeout=settings.REDIS_TIMEOUT
    )


def _queue(name: str) -> Queue:
    return django_rq.get_queue(name, connection=_connection(settings.REDIS_URL))


def enqueue(batch_id: str, *, replace: bool = False) -> bool:
    """Put a batch behind the others, once. Never raises; False when Redis did not take it.

    Call it after the commit: a worker that finds no such batch forgets it. `replace` is for those who know that no
    worker runs this job: it removes what a killed worker has left of it.
    """
    try:
        _put(BATCH_QUEUE, WORK, batch_id, batch_id, replace=replace)
    except redis.RedisError as error:
        log.warning("batch not enqueued: Redis does not answer", extra={"batch_id": batch_id, "error": str(error)})
        return False
    return True


def enqueue_helpers(batch_id: str, count: int) -> None:
    """Ask `count` further workers for a slice of this batch. Never raises: helpers only make it faster."""
    try:
        for number in range(1, count + 1):
            _put(BATCH_HELPERS, HELP, f"{batch_id}-{number}", batch_id, replace=True)
    except redis.RedisError as error:
        log.warning("no helpers: Redis does not answer", extra={"batch_id": batch_id, "error": str(error)})


def listed() -> frozenset[str] | None:
    """Return the ids of the batches in `batch_queue`, None when Redis does not answer."""
    try:
        return frozenset(_queue(BATCH_QUEUE).get_job_ids())
    except redis.RedisError:
        return None


def lengths() -> dict[str, int] | None:
    """Return how many entries each list has, None when Redis does not answer."""
    try:
        return {name: _queue(name).count for name in (BATCH_QUEUE, BATCH_HELPERS)}
    except redis.RedisError:
        return None


def remove(batch_id: str) -> None:
    """Take a batch out of the list. Never raises: a worker that gets an ended batch does nothing with it."""
    try:
        queue = _queue(BATCH_QUEUE)
        queue.remove(batch_id)
        _delete(queue, batch_id)
    except redis.RedisError:
        log.warning("batch left in its list: Redis does not answer", extra={"batch_id": batch_id})


def answers() -> bool:
    """Whether Redis answers now."""
    try:
        return bool(_connection(settings.REDIS_URL).ping())
    except redis.RedisError:
        return False


def _put(name: str, function: str, job_id: str, batch_id: str, *, replace: bool) -> None:
    queue = _queue(name)
    if replace and queue.get_job_position(job_id) is None:
        _delete(queue, job_id)
    # A duplicate stands in the list, or runs and is put back afterwards.
    with contextlib.suppress(DuplicateJobError):
        queue.enqueue(
            function,
            batch_id,
            job_id=job_id,
            unique=True,
            result_ttl=0,
            failure_ttl=FAILURE_TTL,
            job_timeout=SLICE_LIMIT,
        )


def _delete(queue: Queue, job_id: str) -> None:
    # Built, not fetched: after a kill or a flush there may be no hash, or one too empty to be read back.
    job = Job(job_id, connection=queue.connection, serializer=queue.serializer)
    job.origin = queue.name
    with contextlib.suppress(InvalidJobOperation):
        job.delete()
    queue.connection.delete(job.key)


class BatchWorker(SimpleWorker):
    """RQ's worker without a process per job: the gateway's loop, its connections and the snapshot stay warm.

    Signals, pubsub and logging are ours: RQ would wait for the whole job without telling it anything.
    """

    max_connection_wait_time = 2.0
    after_job: Callable[[str, str], None] | None = None
    busy = False

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run one slice; then, the job's hash being gone, let its batch be put back, whatever became of the slice."""
        self.busy, batch_id = True, job.args[0]
        try:
            super().execute_job(job, queue)
        finally:
            if self.after_job is not None:
                self.after_job(queue.name, batch_id)
            self.busy = False

    def handle_job_success(self, job: Job, *args: Any, **options: Any) -> None:
        """Let RQ forget the job, also when Redis has forgotten it first."""
        try:
            super().handle_job_success(job, *args, **options)
        except InvalidJobOperation:
            log.info("Redis was emptied while a slice ran", extra={"job": job.id})

    def stop(self) -> None:
        """Take no further job. Safe in a signal handler: it touches neither locks nor Redis."""
        self._stop_requested = True

    def subscribe(self) -> None:
        """Take no commands by pubsub: it would cost a thread and a connection."""

    def teardown(self) -> None:
        """Sign off from Redis, if it is there."""
        try:
            super().teardown()  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            log.warning("worker not signed off: Redis does not answer", extra={"error": str(error)})

    def _install_signal_handlers(self) -> None:
        pass  # Station has them


class Station:
    """Runs a BatchWorker until told to stop, and a new one each time that Redis went away under it."""

    def __init__(self, name: str, *, after_job: Callable[[str, str], None], on_stop: Callable[[], None]) -> None:
        self._name, self._after_job, self._on_stop = name, after_job, on_stop
        self._worker: BatchWorker | None = None
        self._waiting = False
        self.stopping = False

    def install_signal_handlers(self) -> None:
        """Stop on SIGTERM and SIGINT."""
        signal.signal(signal.SIGTERM, self.request_stop)
        signal.signal(signal.SIGINT, self.request_stop)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Finish the running slice early and take no further job; a second signal changes nothing."""
        if self.stopping:
            return
        self.stopping = True
        self._on_stop()
        worker = self._worker
        if worker is not None:
            worker.stop()
        if self._waiting and (worker is None or not worker.busy):
            raise StopRequested  # breaks the blocking wait for a job; RQ's loop knows it

    def run(self, *, burst: bool = False) -> None:
        """Take jobs until a signal arrives; with `burst`, until both lists are empty."""
        self._waiting = True
        try:
            while not self.stopping:
                self._run_worker(burst=burst)
                if burst:
                    break
                if not self.stopping:
                    time.sleep(1)  # Redis went away
        except StopRequested:
            pass
        finally:
            self._waiting = False

    def _run_worker(self, *, burst: bool) -> None:
        try:
            self._worker = self._new_worker()
            self._worker.work(burst=burst, logging_level="WARNING")
        except redis.RedisError as error:
            log.warning("worker waits: Redis does not answer", extra={"worker": self._name, "error": str(error)})
        finally:
            self._worker = None

    def _new_worker(self) -> BatchWorker:
        # TCP keepalive is redis-py's default; to say so would fail for a unix socket.
        connection = redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=settings.REDIS_TIMEOUT)
        queues = [django_rq.get_queue(name, connection=connection) for name in (BATCH_QUEUE, BATCH_HELPERS)]
        options: dict[str, Any] = {"worker_ttl": WORKER_TTL, "serializer": JSONSerializer, "queue_class": BatchQueue}
        # A name that RQ has not seen: it refuses one whose owner was killed a minute ago.
        worker = BatchWorker(queues, name=f"{self._name}-{uuid.uuid4().hex[:6]}", connection=connection, **options)
        worker.after_job = self._after_job
        worker.log_job_description = False
        return worker
