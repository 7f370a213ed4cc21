"""The configuration as frozen values, swapped whole.

A process never reads the configuration's tables on the way of a call: it reads `current()`. A thread asks every
SNAPSHOT_POLL_INTERVAL (250 ms) whether ConfigVersion has grown, so that an edit, a trip or a reset is acted upon in every
process within a second, with no message that could be lost. While PostgreSQL is away the last snapshot stays; a web
process that starts without it takes the last good one from a file.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import F, Prefetch

from integrations import models
from integrations.errors import ModelDisabled, ModelNotFound, NotReady

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forced:
    """An operator has opened the breaker."""

    reason: str
    by: str
    at: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One base URL that serves a model, every default filled in."""

    id: int
    model: str
    url: str
    protocol: str
    upstream_model: str
    max_batch: int | None
    max_in_flight: int
    auth_header: str
    auth_env: str
    ca_file: str
    breaker_epoch: int
    forced: Forced | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A pattern of a model, every default filled in. Times in seconds."""

    pattern: str
    deadline: float
    connect_timeout: float
    attempt_timeout: float
    retry_attempts: int
    breaker_threshold: int
    breaker_reset_timeout: float
    urgent_threshold: int
    batch_size: int
    processing_interval: float

    @property
    def queues(self) -> bool:
        """Whether this pattern can put work in the queue."""
        return self.pattern != "real_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model; `endpoints` holds the enabled ones, in order of preference."""

    slug: str
    enabled: bool
    draining: bool
    drain_reason: str
    upstream_model: str
    dimensions: int | None
    embedding_space: str
    query_prefix: str
    passage_prefix: str
    normalise: bool
    truncate: str
    max_waiting_texts: int
    endpoints: tuple[Endpoint, ...]
    assignments: tuple[Assignment, ...]
    fallbacks: tuple[str, ...]

    def prefix(self, input_type: str) -> str:
        """What goes before each text of this input type."""
        return {"query": self.query_prefix, "passage": self.passage_prefix}.get(input_type, "")

    @property
    def queue_assignment(self) -> Assignment | None:
        """The assignment whose batch size and interval rule this model's queue; None for a live-only model."""
        return next((a for a in self.assignments if a.queues), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key as a process knows it: by its hash."""

    prefix: str
    client: str
    scopes: frozenset[str]
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The whole configuration at one version."""

    version: int
    models: Mapping[str, Model]
    keys: Mapping[str, Key]

    def model(self, slug: str) -> Model:
        """Return the model, whatever its state. Raises ModelNotFound."""
        try:
            return self.models[slug]
        except KeyError:
            raise ModelNotFound(f"No model is called “{slug}”.") from None

    def serving(self, slug: str, *, live: bool) -> Model:
        """Return the model if it takes work now. Raises ModelNotFound or ModelDisabled."""
        model = self.model(slug)
        if not model.enabled:
            raise ModelDisabled(f"{slug} is switched off.", retry_after=60)
        if live and model.draining:
            why = f": {model.drain_reason}" if model.drain_reason else ""
            raise ModelDisabled(f"{slug} is drained for maintenance{why}.", retry_after=30)
        return model

    def endpoint(self, endpoint_id: int) -> Endpoint | None:
        """Return the enabled endpoint with this id, if there is one."""
        return next((e for m in self.models.values() for e in m.endpoints if e.id == endpoint_id), None)


def hash_key(key: str) -> str:
    """Return what is stored of an API key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


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
    if _watcher.running and _current is not None:
        return _current
    try:
        if _current is None or _stored_version() != _current.version:
            return load()
    except _DATABASE_ERRORS as error:
        log.warning("configuration not read: %s", type(error).__name__)
    return _current or _load_file()


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
    """Call `listener` with each new snapshot, in the thread that made it current."""
    _listeners.append(listener)


def _swap(new: Snapshot) -> Snapshot:
    global _current  # noqa: PLW0603 - the one place where it is replaced
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
    return Key(prefix=row.prefix, client=row.client, scopes=frozenset(row.scopes), expires_at=row.expires_at)


def _model(row: models.ModelConfig) -> Model:
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
        max_waiting_texts=_first(row.max_waiting_texts, settings.MAX_WAITING_TEXTS),
        endpoints=tuple(_endpoint(e, row) for e in row.endpoints.all()),
        assignments=tuple(_assignment(a) for a in row.assignments.all()),
        fallbacks=tuple(f.slug for f in row.fallbacks.all()),
    )


def _endpoint(row: models.Endpoint, model: models.ModelConfig) -> Endpoint:
    forced = Forced(reason=row.forced_reason, by=row.forced_by, at=row.forced_at, until=row.forced_until)
    return Endpoint(
        id=row.pk,
        model=model.slug,
        url=row.url.rstrip("/"),
        protocol=row.protocol,
        upstream_model=row.upstream_model or model.upstream_model,
        max_batch=row.max_batch,
        max_in_flight=_first(row.max_in_flight, settings.ENDPOINT_MAX_IN_FLIGHT),
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


# --- The file for a start without PostgreSQL -------------------------------------------------------------------------


def _file() -> Path:
    return Path(settings.STATE_DIR) / "snapshot.json"


def save_file(snapshot: Snapshot) -> None:
    """Keep `snapshot` for a start without PostgreSQL: hashes of keys are in it, so only its owner may read it."""
    path = _file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.touch(mode=0o600)
        partial.write_bytes(orjson.dumps(snapshot, default=list))
        partial.replace(path)
    except OSError as error:
        log.warning("the configuration could not be kept in %s: %s", path.name, error)


def _load_file() -> Snapshot:
    """Make the kept snapshot the current one. Raises NotReady where there is none that can be read."""
    try:
        data = orjson.loads(_file().read_bytes())
        kept = Snapshot(
            version=data["version"],
            models={slug: _model_from(m) for slug, m in data["models"].items()},
            keys={hash_: _key_from(k) for hash_, k in data["keys"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotReady(retry_after=5) from error
    log.warning("PostgreSQL does not answer: going on with the configuration kept in version %s", kept.version)
    return _swap(kept)


def _model_from(data: dict[str, Any]) -> Model:
    endpoints = tuple(_endpoint_from(e) for e in data.pop("endpoints"))
    assignments = tuple(Assignment(**a) for a in data.pop("assignments"))
    return Model(endpoints=endpoints, assignments=assignments, fallbacks=tuple(data.pop("fallbacks")), **data)


def _endpoint_from(data: dict[str, Any]) -> Endpoint:
    forced = data.pop("forced")
    if forced is not None:
        forced = Forced(reason=forced["reason"], by=forced["by"], at=_time(forced["at"]), until=_time(forced["until"]))
    return Endpoint(forced=forced, **data)


def _key_from(data: dict[str, Any]) -> Key:
    return Key(
        prefix=data["prefix"],
        client=data["client"],
        scopes=frozenset(data["scopes"]),
        expires_at=_time(data["expires_at"]),
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


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
                _load_file()
            except NotReady:
                log.error("no configuration: PostgreSQL does not answer and none was kept")  # noqa: TRY400
        self.running = True
        self._tried.set()

    def _look(self) -> None:
        connection.close_if_unusable_or_obsolete()
        if _current is None or _stored_version() != _current.version:
            self._loaded(load())

    def _loaded(self, snapshot: Snapshot) -> None:
        if self._keep:
            save_file(snapshot)


_watcher = _Watcher()


def start_watcher(*, keep_file: bool = False, wait: float = 10.0) -> None:
    """Keep `current` fresh from now on; return after the first try to load, or after `wait` seconds.

    `keep_file` also stores each version for a start without PostgreSQL.
    """
    _watcher.start(keep_file=keep_file, wait=wait)


def stop_watcher() -> None:
    """Stop the thread and close its connection."""
    _watcher.stop()
