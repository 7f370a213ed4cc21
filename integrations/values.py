"""The configuration as frozen values: what a process acts upon, every default filled in."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from integrations.errors import ModelDisabled, ModelNotFound

__all__ = ["Assignment", "Endpoint", "Forced", "Key", "Model", "Snapshot", "hash_key", "new_key"]

KEY_PREFIX = "ck_"


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
    min_target: int = 1  # with a default, as all that a kept snapshot of an older version may lack
    max_target: int = 1000
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
    coalesce: bool = True
    cache: bool = False
    takes_token_ids: bool = False
    cache_epoch: int = 0
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
    models: frozenset[str] = frozenset()  # empty: all
    requests_per_minute: int | None = None
    texts_per_minute: int | None = None
    texts_per_day: int | None = None


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


def new_key() -> str:
    """Return a new API key: 256 random bits, 43 characters behind the prefix."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """Return what is stored of an API key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
