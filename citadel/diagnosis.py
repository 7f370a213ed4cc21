"""What `manage.py diagnose` finds out: each part is asked by itself, so that one that is down hides no other."""

import platform
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import django
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from batches import heartbeats, queues
from batches.models import WorkerHeartbeat
from integrations import breakers, rules, snapshot
from integrations.models import ConfigVersion, ModelConfig
from integrations.probing import probe_all

# Settings that say something about how Citadel behaves here. SECRET_KEY is missing on purpose.
SHOWN = (
    "DEBUG", "ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "TIME_ZONE", "LOG_LEVEL", "STATE_DIR",
    "HTTPS", "PRODUCTION", "PROXIES",
    "REDIS_URL", "REDIS_TIMEOUT",
    "REAL_TIME_TIMEOUT", "HYBRID_URGENT_THRESHOLD", "BULK_BATCH_SIZE", "BULK_PROCESSING_INTERVAL",
    "PATTERN_RETRY_ATTEMPTS", "PATTERN_CIRCUIT_BREAKER_THRESHOLD", "CONNECT_TIMEOUT", "ATTEMPT_TIMEOUT",
    "BULK_TIMEOUT", "BREAKER_RESET_TIMEOUT", "BREAKER_RESET_TIMEOUT_MAX", "RETRY_BUDGET_PERCENT",
    "RETRY_BUDGET_MINIMUM", "RETRY_BACKOFF", "ENDPOINT_MAX_IN_FLIGHT", "MAX_UPSTREAM_BYTES",
    "CACHE_TTL", "CACHE_MAX_TEXTS", "CACHE_LOCAL_TEXTS", "CACHE_TIMEOUT",
    "COALESCE_MAX_TEXTS", "COALESCE_MAX_WAITING", "COALESCE_MIN_TARGET", "COALESCE_MAX_TARGET",
    "LIVE_MAX_TEXTS", "OPENAI_MAX_INPUTS", "QUEUED_MAX_TEXTS", "MAX_BATCH_TEXTS", "MAX_TEXT_BYTES",
    "MAX_JSON_BODY_BYTES", "MAX_NDJSON_BODY_BYTES", "BODY_READ_TIMEOUT",
    "MAX_WAITING_TEXTS", "BULK_EXPIRY", "BULK_SLICE", "BULK_CALLS_IN_FLIGHT", "BULK_BLIND_CALLS",
    "BULK_PRIOR_TEXTS_PER_SECOND",
    "CHUNK_LEASE", "CHUNK_MAX_ATTEMPTS", "CHUNK_BACKOFF", "CHUNK_BACKOFF_MAX", "IDEMPOTENCY_WINDOW",
    "RESULT_RETENTION", "SCHEDULER_INTERVAL", "WORKER_HEARTBEAT_INTERVAL", "WORKER_STOP_TIMEOUT",
    "OPENAI_FILE_MAX_BYTES", "OPENAI_FILE_EXPIRY", "OPENAI_BATCH_MAX_LINES", "OPENAI_BATCH_MAX_GROUPS",
    "OPENAI_FILES_DIR", "OPENAI_FILES_STORAGE",
    "CALLBACK_ALLOW_HTTP", "CALLBACK_ALLOWED_HOSTS", "CALLBACK_ALLOWED_NETWORKS", "CALLBACK_TIMEOUT",
    "CALLBACK_ATTEMPTS", "CALLBACK_BACKOFF",
    "SNAPSHOT_POLL_INTERVAL", "RECORD_BUFFER_SIZE", "RECORD_FLUSH_INTERVAL", "RECORD_FLUSH_ROWS",
    "CALL_RECORD_RETENTION", "BREAKER_EVENT_RETENTION", "CANARY_INTERVAL", "CANARY_TIMEOUT", "CANARY_MIN_COSINE",
    "CITADEL_ANONYMOUS_SCOPES",
    "SEED_ENDPOINTS", "SEED_PROTOCOLS", "SEED_UPSTREAM_MODELS",
)  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Diagnosis:
    """What was found: the parts as plain values, the problems as sentences, tracebacks for those who asked."""

    parts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    traces: list[str] = field(default_factory=list)

    def ask(self, part: str, question: Callable[[], Any]) -> None:
        """Put the answer, or the reason why there is none, into `parts`."""
        try:
            self.parts[part] = question()
        except Exception as error:  # whatever it is, the other parts are still worth asking
            self.parts[part] = {"error": f"{type(error).__name__}: {_first_line(error)}"}
            self.problems.append(f"{part}: {_first_line(error)}")
            self.traces.append(traceback.format_exc())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def diagnose() -> Diagnosis:
    """Ask every part, the model servers last."""
    found = Diagnosis()
    found.ask("versions", lambda: {"python": platform.python_version(), "django": django.get_version()})
    found.ask("settings", shown_settings)
    found.ask("database", lambda: _database(found))
    found.ask("redis", lambda: _redis(found))
    found.ask("configuration", lambda: _configuration(found))
    found.ask("processes", lambda: _processes(found))
    found.ask("breakers", _breakers)
    found.ask("endpoints", lambda: _endpoints(found))
    return found


def shown_settings() -> Mapping[str, Any]:
    """Return the settings without secrets."""
    shown = {name: getattr(settings, name) for name in SHOWN}
    shown["REDIS_URL"] = without_password(shown["REDIS_URL"])
    shown |= {name: str(shown[name]) for name in ("STATE_DIR", "OPENAI_FILES_DIR")}
    return shown


def without_password(url: str) -> str:
    """Return the URL with *** for its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


def _database(found: Diagnosis) -> Mapping[str, Any]:
    own = connection.settings_dict
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        version = cursor.fetchone()[0]
    executor = MigrationExecutor(connection)
    pending = [str(migration) for migration, _ in executor.migration_plan(executor.loader.graph.leaf_nodes())]
    if pending:
        found.problems.append(f"database: {len(pending)} migrations are not applied; run `manage.py migrate`")
    place = {"host": own["HOST"], "port": str(own["PORT"]), "name": own["NAME"], "user": own["USER"]}
    return {**place, "server": version, "migrations_pending": pending}


def _redis(found: Diagnosis) -> Mapping[str, Any]:
    answers = queues.answers()
    if not answers:
        found.problems.append("redis: no answer; the queue waits and each process counts failures by itself")
    return {"url": without_password(settings.REDIS_URL), "answers": answers}


def _configuration(found: Diagnosis) -> Mapping[str, Any]:
    row = ConfigVersion.objects.filter(id=1).first()
    current = snapshot.load()
    errors = {
        f"{model.slug}: {path}": " ".join(messages)
        for model in ModelConfig.objects.all()
        for path, messages in {**rules.warnings_of(model), **rules.errors_of(model)}.items()
    }
    found.problems.extend(f"configuration: {path}: {why}" for path, why in errors.items())
    return {
        "version": current.version,
        "changed_seconds_ago": _seconds_since(row.updated_at) if row else None,
        "models": {m.slug: [a.pattern for a in m.assignments] for m in current.models.values()},
        "drained": [m.slug for m in current.models.values() if m.draining],
        "keys": len(current.keys),
    }


def _processes(found: Diagnosis) -> list[Mapping[str, Any]]:
    if not heartbeats.workers_alive():
        found.problems.append("processes: no worker is alive; queued work waits")
    if not heartbeats.schedulers_alive():
        found.problems.append("processes: no scheduler is alive; nothing is released, rescued or expired")
    return [
        {
            "name": row.name,
            "kind": row.kind,
            "host": row.host,
            "pid": row.pid,
            "alive": (age := _seconds_since(row.seen_at)) <= heartbeats.alive_within(),
            "seen_seconds_ago": age,
            "batch_id": row.batch_id,
            "chunks_in_flight": row.chunks_in_flight,
        }
        for row in WorkerHeartbeat.objects.order_by("kind", "name")
    ]


def _seconds_since(moment: Any) -> float:
    return round(float((timezone.now() - moment).total_seconds()), 1)


def _breakers() -> list[Mapping[str, Any]]:
    shared = breakers.live.exchange()
    views = [(e, breakers.state_of(e)) for m in snapshot.load().models.values() for e in m.endpoints]
    return [
        {
            "model": endpoint.model,
            "endpoint": endpoint.url,
            "status": view.status,
            "failure_count": view.failure_count,
            "reason": view.reason,
            "by": view.by,
            "until": view.until.isoformat() if view.until else None,
            "shared": shared,
        }
        for endpoint, view in views
    ]


def _endpoints(found: Diagnosis) -> list[Mapping[str, Any]]:
    answers = probe_all(m for m in snapshot.load().models.values() if m.enabled)
    # A model without any is among the configuration's problems already.
    failed = [(a, a.endpoint) for a in answers if not a.ok and a.endpoint is not None]
    found.problems.extend(f"endpoints: {a.model}: {endpoint.url}: {a.error}" for a, endpoint in failed)
    return [
        {
            "model": answer.model,
            "endpoint": answer.endpoint.url if answer.endpoint else None,
            "protocol": answer.endpoint.protocol if answer.endpoint else None,
            "ok": answer.ok,
            "dimensions": answer.probe.dimensions if answer.probe else None,
            "ms": round(answer.probe.ms, 1) if answer.probe and answer.probe.ms is not None else None,
            "error": answer.error,
        }
        for answer in answers
    ]
