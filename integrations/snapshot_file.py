"""The last good configuration in a file, for a web process that starts while PostgreSQL is away."""

import logging
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from django.conf import settings

from integrations.errors import NotReady
from integrations.values import Assignment, Endpoint, Forced, Key, Model, Snapshot

log = logging.getLogger(__name__)


def _file() -> Path:
    return Path(settings.STATE_DIR) / "snapshot.json"


def save(snapshot: Snapshot) -> None:
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


def read() -> Snapshot:
    """Return the kept snapshot. Raises NotReady where there is none that can be read."""
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
    return kept


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
        models=frozenset(data["models"]),
        requests_per_minute=data["requests_per_minute"],
        texts_per_minute=data["texts_per_minute"],
        texts_per_day=data["texts_per_day"],
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
