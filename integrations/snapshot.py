"""The configuration as frozen values, swapped whole.

A process never reads the configuration's tables on the way of a call: it reads `current()`. A thread asks every
SNAPSHOT_POLL_INTERVAL (250 ms) whether ConfigVersion has grown, so that an edit, a trip or a reset is acted upon in
every process within a second, with no message that could be lost. While PostgreSQL is away the last snapshot stays; a
web process that starts without it takes the last good one from a file.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import F, Prefetch

from integrations import models, snapshot_file
from integrations.errors import NotReady
from integrations.values import Assignment, Endpoint, Forced, Key, Model, Snapshot, hash_key

__all__ = [
    "Assignment",
    "Endpoint",
    "Forced",
    "Key",
    "Model",
    "Snapshot",
    "bump",
    "compose",
    "current",
    "hash_key",
    "load",
    "on_change",
    "peek",
    "start_watcher",
    "stop_watcher",
]

log = logging.getLogger(__name__)

# --- The current one -------------------------------------------------------------------------------------------------

_DATABASE_ERRORS = (DatabaseError, InterfaceError)
_lock = threading.Lock()
_current: Snapshot | None = None
_listeners: list[Callable[[Snapshot], None]] = []


def current() -> Snapshot:
    """Return the snapshot to act upon. Raises NotReady while there is none.

    Where the watcher runs this is one read of memory. In a process without it (a command, a synchronous server) the
    version is asked for at each call, so that such a process is never behind.
    """
    if _watcher.running:
        # Never a query here: the caller may be on an event loop.
        if _current is None:
            raise NotReady(retry_after=5)
        return _current
    try:
        if _current is None or _stored_version() != _current.version:
            return load()
    except _DATABASE_ERRORS as error:
        log.warning("configuration not read: %s", type(error).__name__)
    return _current or _swap(snapshot_file.read())


def peek() -> Snapshot | None:
    """Return what `current` last returned, without asking anybody: safe on an event loop."""
    return _current


def load() -> Snapshot:
    """Read the configuration from PostgreSQL and make it the current one. Raises django.db.DatabaseError."""
    with transaction.atomic():
        if len(connection.atomic_blocks) == 1:
            with connection.cursor() as cursor:
                # All tables as of one moment: an edit in between must not give half of itself. Inside a writer's own
                # transaction it is too late to ask for that, and not needed: the writer sees what it wrote.
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        return _swap(_read())


def bump() -> None:
    """Make every process read the configuration anew once the surrounding transaction has committed."""
    if not models.ConfigVersion.objects.filter(id=1).update(version=F("version") + 1):
        models.ConfigVersion.objects.bulk_create([models.ConfigVersion(id=1, version=2)], ignore_conflicts=True)


def on_change(listener: Callable[[Snapshot], None]) -> None:
    """Call `listener` with each new snapshot, in the thread that made it current. Twice is once."""
    if listener not in _listeners:
        _listeners.append(listener)


def _swap(new: Snapshot) -> Snapshot:
    global _current
    with _lock:
        _current = new
    for listener in _listeners:
        listener(new)
    return new


def _stored_version() -> int:
    row = models.ConfigVersion.objects.filter(id=1).values_list("version", flat=True).first()
    return row if row is not None else 1


def _read() -> Snapshot:
    version = _stored_version()
    rows = models.ModelConfig.objects.prefetch_related(
        Prefetch("endpoints", models.Endpoint.objects.filter(enabled=True)), "assignments", "fallbacks"
    ).order_by("id")
    keys = models.ApiKey.objects.filter(enabled=True)
    return Snapshot(
        version=version,
        models={row.slug: _model(row) for row in rows},
        keys={k.hash: _key(k) for k in keys},
    )


def _key(row: models.ApiKey) -> Key:
    return Key(
        prefix=row.prefix,
        client=row.client,
        scopes=frozenset(row.scopes),
        expires_at=row.expires_at,
        models=frozenset(row.allowed_models),
        requests_per_minute=row.requests_per_minute,
        texts_per_minute=row.texts_per_minute,
        texts_per_day=row.texts_per_day,
    )


def _model(row: models.ModelConfig) -> Model:
    return compose(
        row,
        endpoints=row.endpoints.all(),
        assignments=row.assignments.all(),
        fallbacks=(f.slug for f in row.fallbacks.all()),
    )


def compose(
    row: models.ModelConfig,
    *,
    endpoints: Iterable[models.Endpoint],
    assignments: Iterable[models.PatternAssignment] = (),
    fallbacks: Iterable[str] = (),
) -> Model:
    """Return a model with these rows, which need not be stored, as a process would act upon it."""
    return Model(
        slug=row.slug,
        enabled=row.enabled,
        draining=row.draining,
        drain_reason=row.drain_reason,
        upstream_model=row.upstream_model,
        dimensions=row.dimensions,
        embedding_space=row.embedding_space,
        query_prefix=row.query_prefix,
        passage_prefix=row.passage_prefix,
        normalise=row.normalise,
        truncate=row.truncate,
        coalesce=row.coalesce,
        takes_token_ids=row.takes_token_ids,
        cache=row.cache,
        cache_epoch=row.cache_epoch,
        max_waiting_texts=_first(row.max_waiting_texts, settings.MAX_WAITING_TEXTS),
        endpoints=tuple(_endpoint(e, row) for e in endpoints),
        assignments=tuple(_assignment(a) for a in assignments),
        fallbacks=tuple(fallbacks),
    )


def _endpoint(row: models.Endpoint, model: models.ModelConfig) -> Endpoint:
    forced = Forced(reason=row.forced_reason, by=row.forced_by, at=row.forced_at, until=row.forced_until)
    return Endpoint(
        id=row.pk or 0,
        model=model.slug,
        url=row.url.rstrip("/"),
        protocol=row.protocol,
        upstream_model=row.upstream_model or model.upstream_model,
        max_batch=row.max_batch,
        max_in_flight=_first(row.max_in_flight, settings.ENDPOINT_MAX_IN_FLIGHT),
        min_target=_first(row.min_target, settings.COALESCE_MIN_TARGET),
        max_target=_first(row.max_target, settings.COALESCE_MAX_TARGET),
        auth_header=row.auth_header,
        auth_env=row.auth_env,
        ca_file=row.ca_file,
        breaker_epoch=row.breaker_epoch,
        forced=forced if row.forced_open else None,
    )


def _assignment(row: models.PatternAssignment) -> Assignment:
    deadline = _first(row.deadline, settings.REAL_TIME_TIMEOUT)
    return Assignment(
        pattern=row.pattern,
        deadline=deadline,
        connect_timeout=_first(row.connect_timeout, settings.CONNECT_TIMEOUT),
        attempt_timeout=_first(row.attempt_timeout, settings.ATTEMPT_TIMEOUT or deadline / 3),
        retry_attempts=_first(row.retry_attempts, settings.PATTERN_RETRY_ATTEMPTS),
        breaker_threshold=_first(row.breaker_threshold, settings.PATTERN_CIRCUIT_BREAKER_THRESHOLD),
        breaker_reset_timeout=_first(row.breaker_reset_timeout, settings.BREAKER_RESET_TIMEOUT),
        urgent_threshold=_first(row.urgent_threshold, settings.HYBRID_URGENT_THRESHOLD),
        batch_size=_first(row.batch_size, settings.BULK_BATCH_SIZE),
        processing_interval=_first(row.processing_interval, settings.BULK_PROCESSING_INTERVAL),
    )


def _first(own: Any, default: Any) -> Any:
    """The row's own value, 0 included, or the default where the row leaves it open."""
    return default if own is None else own


# --- The watcher -----------------------------------------------------------------------------------------------------


class _Watcher:
    """Asks for the version again and again, in a thread with a connection of its own."""

    def __init__(self) -> None:
        self.running = False
        self._stop = threading.Event()
        self._tried = threading.Event()
        self._thread: threading.Thread | None = None
        self._keep = False

    def start(self, *, keep_file: bool, wait: float) -> None:
        """Load once, from the file if PostgreSQL is away, then watch."""
        if self._thread is None or not self._thread.is_alive():
            self._keep = keep_file
            self._stop.clear()
            self._tried.clear()
            self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)
            self._thread.start()
        self._tried.wait(wait)

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._thread, self.running = None, False

    def _run(self) -> None:
        self._first_load()
        while not self._stop.wait(settings.SNAPSHOT_POLL_INTERVAL):
            try:
                self._look()
            except _DATABASE_ERRORS as error:
                log.debug("configuration not read: %s", type(error).__name__)
                connection.close()
        connection.close()

    def _first_load(self) -> None:
        try:
            self._loaded(load())
        except _DATABASE_ERRORS:
            connection.close()
            try:
                _swap(snapshot_file.read())
            except NotReady:
                log.error("no configuration: PostgreSQL does not answer and none was kept")
        self.running = True
        self._tried.set()

    def _look(self) -> None:
        # The connection is kept, whatever DATABASE_CONN_MAX_AGE says: a new one every 250 ms costs PostgreSQL a process
        # each time. One that is lost is noticed by the question itself.
        if _current is None or _stored_version() != _current.version:
            self._loaded(load())

    def _loaded(self, snapshot: Snapshot) -> None:
        if self._keep:
            snapshot_file.save(snapshot)


_watcher = _Watcher()


def start_watcher(*, keep_file: bool = False, wait: float = 10.0) -> None:
    """Keep `current` fresh from now on; return after the first try to load, or after `wait` seconds.

    `keep_file` also stores each version for a start without PostgreSQL.
    """
    _watcher.start(keep_file=keep_file, wait=wait)


def stop_watcher() -> None:
    """Stop the thread and close its connection."""
    _watcher.stop()
