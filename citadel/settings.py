"""Every setting of Citadel, read from the environment; docs/settings.md explains each one."""

import re
import secrets
from pathlib import Path
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured

from citadel import production
from citadel.console.navigation import NAVIGATION

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
env.read_env(BASE_DIR / ".env")

# --- The process ---------------------------------------------------------------------------------------------------

DEBUG: bool = env.bool("DEBUG", default=False)
# Behind TLS set CITADEL_HTTPS=true; the bundled nginx sample sends X-Forwarded-Proto.
HTTPS: bool = env.bool("CITADEL_HTTPS", default=False)
PRODUCTION: bool = HTTPS or env.str("CITADEL_ENV", default="") == "production"
# Without a key each start makes its own: sessions then end with the process, and two web processes do not share them.
SECRET_KEY: str = env.str("SECRET_KEY", default="") or secrets.token_urlsafe(50)
if PRODUCTION:
    production.refuse_unsafe(secret_key=env.str("SECRET_KEY", default=""), debug=DEBUG)
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", default=[])
TIME_ZONE: str = env.str("TIME_ZONE", default="UTC")
USE_TZ = True
LANGUAGE_CODE = "en-us"
LOG_LEVEL: str = env.str("LOG_LEVEL", default="INFO")
# Where a web process keeps the last good configuration for a start without PostgreSQL (mode 0600).
STATE_DIR: Path = Path(env.str("CITADEL_STATE_DIR", default=str(BASE_DIR / ".citadel")))

# --- PostgreSQL and Redis ------------------------------------------------------------------------------------------

DATABASES: dict[str, dict[str, Any]] = {
    "default": env.db_url("DATABASE_URL", default="postgresql://postgres@127.0.0.1:5432/citadel"),
}
if not DATABASES["default"]["ENGINE"].endswith("postgresql"):
    raise ImproperlyConfigured("DATABASE_URL must name a PostgreSQL database: postgresql://user@host:5432/name")
DATABASES["default"]["OPTIONS"] = {"connect_timeout": 5, **DATABASES["default"].get("OPTIONS", {})}
DATABASES["default"]["CONN_MAX_AGE"] = env.int("DATABASE_CONN_MAX_AGE", default=0)
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL: str = env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")
REDIS_TIMEOUT: float = env.float("REDIS_TIMEOUT", default=1.0)
RQ_QUEUES: dict[str, dict[str, Any]] = {
    name: {
        "URL": REDIS_URL,
        "SERIALIZER": "rq.serializers.JSONSerializer",
        "DEFAULT_TIMEOUT": 3600,
        "DEFAULT_RESULT_TTL": 0,
    }
    for name in ("batch_queue", "batch_helpers")
}
RQ: dict[str, Any] = {
    "COMMIT_MODE": "auto",
    # Here, as django-rq's pages do not look for it at the single queue: they would show, and empty, other lists.
    "QUEUE_CLASS": "batches.queues.BatchQueue",
    "WORKER_CLASS": "batches.queues.BatchWorker",
}

# --- Settings of the patterns: defaults that an assignment may override in the admin --------------------------------

REAL_TIME_TIMEOUT: float = env.float("REAL_TIME_TIMEOUT", default=30.0)
HYBRID_URGENT_THRESHOLD: int = env.int("HYBRID_URGENT_THRESHOLD", default=5)
BULK_BATCH_SIZE: int = env.int("BULK_BATCH_SIZE", default=100)
BULK_PROCESSING_INTERVAL: float = env.float("BULK_PROCESSING_INTERVAL", default=300.0)
PATTERN_RETRY_ATTEMPTS: int = env.int("PATTERN_RETRY_ATTEMPTS", default=3)
PATTERN_CIRCUIT_BREAKER_THRESHOLD: int = env.int("PATTERN_CIRCUIT_BREAKER_THRESHOLD", default=10)
CONNECT_TIMEOUT: float = env.float("CONNECT_TIMEOUT", default=2.0)
# 0 means a third of the deadline: a silent first endpoint leaves time for two more.
ATTEMPT_TIMEOUT: float = env.float("ATTEMPT_TIMEOUT", default=0.0)
BULK_TIMEOUT: float = env.float("BULK_TIMEOUT", default=120.0)
BREAKER_RESET_TIMEOUT: float = env.float("BREAKER_RESET_TIMEOUT", default=30.0)
BREAKER_RESET_TIMEOUT_MAX: float = env.float("BREAKER_RESET_TIMEOUT_MAX", default=300.0)
RETRY_BUDGET_PERCENT: float = env.float("RETRY_BUDGET_PERCENT", default=20.0)
RETRY_BUDGET_MINIMUM: int = env.int("RETRY_BUDGET_MINIMUM", default=10)
RETRY_BACKOFF: float = env.float("RETRY_BACKOFF", default=0.1)
ENDPOINT_MAX_IN_FLIGHT: int = env.int("ENDPOINT_MAX_IN_FLIGHT", default=100)
COALESCE_MAX_TEXTS: int = env.int("COALESCE_MAX_TEXTS", default=32)
COALESCE_MAX_WAITING: int = env.int("COALESCE_MAX_WAITING", default=4096)
COALESCE_MIN_TARGET: int = env.int("COALESCE_MIN_TARGET", default=1)
COALESCE_MAX_TARGET: int = env.int("COALESCE_MAX_TARGET", default=1000)
CACHE_TTL: float = env.float("CACHE_TTL", default=86400.0)
CACHE_MAX_TEXTS: int = env.int("CACHE_MAX_TEXTS", default=50_000)
CACHE_LOCAL_TEXTS: int = env.int("CACHE_LOCAL_TEXTS", default=1_000)
CACHE_TIMEOUT: float = env.float("CACHE_TIMEOUT", default=0.005)
MAX_UPSTREAM_BYTES: int = env.int("MAX_UPSTREAM_BYTES", default=64 * 2**20)

# --- What a client may send ----------------------------------------------------------------------------------------

LIVE_MAX_TEXTS: int = env.int("LIVE_MAX_TEXTS", default=256)
OPENAI_MAX_INPUTS: int = env.int("OPENAI_MAX_INPUTS", default=2048)
QUEUED_MAX_TEXTS: int = env.int("QUEUED_MAX_TEXTS", default=10_000)
MAX_BATCH_TEXTS: int = env.int("MAX_BATCH_TEXTS", default=1_000_000)
MAX_TEXT_BYTES: int = env.int("MAX_TEXT_BYTES", default=256 * 2**10)
MAX_JSON_BODY_BYTES: int = env.int("MAX_JSON_BODY_BYTES", default=16 * 2**20)
MAX_NDJSON_BODY_BYTES: int = env.int("MAX_NDJSON_BODY_BYTES", default=4 * 2**30)
BODY_READ_TIMEOUT: float = env.float("BODY_READ_TIMEOUT", default=30.0)
# The door bounds every body before Django sees it; this is for the fields of a form beside a file.
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_JSON_BODY_BYTES

# --- Queued work ---------------------------------------------------------------------------------------------------

MAX_WAITING_TEXTS: int = env.int("MAX_WAITING_TEXTS", default=5_000_000)
BULK_EXPIRY: float = env.float("BULK_EXPIRY", default=24 * 3600.0)
BULK_SLICE: float = env.float("BULK_SLICE", default=5.0)
BULK_CALLS_IN_FLIGHT: int = env.int("BULK_CALLS_IN_FLIGHT", default=4)
BULK_BLIND_CALLS: int = env.int("BULK_BLIND_CALLS", default=2)
BULK_PRIOR_TEXTS_PER_SECOND: float = env.float("BULK_PRIOR_TEXTS_PER_SECOND", default=100.0)
CHUNK_LEASE: float = env.float("CHUNK_LEASE", default=10.0)
CHUNK_MAX_ATTEMPTS: int = env.int("CHUNK_MAX_ATTEMPTS", default=5)
CHUNK_BACKOFF: float = env.float("CHUNK_BACKOFF", default=2.0)
CHUNK_BACKOFF_MAX: float = env.float("CHUNK_BACKOFF_MAX", default=120.0)
IDEMPOTENCY_WINDOW: float = env.float("IDEMPOTENCY_WINDOW", default=24 * 3600.0)
RESULT_RETENTION: float = env.float("RESULT_RETENTION", default=30 * 86400.0)
SCHEDULER_INTERVAL: float = env.float("SCHEDULER_INTERVAL", default=1.0)
WORKER_HEARTBEAT_INTERVAL: float = env.float("WORKER_HEARTBEAT_INTERVAL", default=2.0)
WORKER_STOP_TIMEOUT: float = env.float("WORKER_STOP_TIMEOUT", default=5.0)

# --- Files of OpenAI's API, and the batches made of them ------------------------------------------------------------

OPENAI_FILE_MAX_BYTES: int = env.int("OPENAI_FILE_MAX_BYTES", default=200 * 2**20)
OPENAI_FILE_EXPIRY: float = env.float("OPENAI_FILE_EXPIRY", default=30 * 86400.0)
OPENAI_BATCH_MAX_LINES: int = env.int("OPENAI_BATCH_MAX_LINES", default=50_000)
OPENAI_BATCH_MAX_GROUPS: int = env.int("OPENAI_BATCH_MAX_GROUPS", default=20)
# Web processes and schedulers must see the same files: on several hosts a shared folder, or another storage. What is on
# its way into the storage is here, too.
OPENAI_FILES_DIR: Path = Path(env.str("OPENAI_FILES_DIR", default=str(STATE_DIR / "files")))
OPENAI_FILES_STORAGE: str = env.str("OPENAI_FILES_STORAGE", default="django.core.files.storage.FileSystemStorage")
# May hold a secret, as the keys of an object store.
OPENAI_FILES_STORAGE_OPTIONS: dict[str, Any] = env.json("OPENAI_FILES_STORAGE_OPTIONS", default={}) or (
    {"location": str(OPENAI_FILES_DIR), "file_permissions_mode": 0o600, "directory_permissions_mode": 0o700}
    if OPENAI_FILES_STORAGE.endswith(".FileSystemStorage")
    else {}
)
STORAGES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},  # nothing uses it
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    "client_files": {"BACKEND": OPENAI_FILES_STORAGE, "OPTIONS": OPENAI_FILES_STORAGE_OPTIONS},
}

# --- Callbacks -----------------------------------------------------------------------------------------------------

# Each client's secret is made of it. Several, separated by commas: all sign, while receivers change over to the first.
CALLBACK_SECRETS: list[str] = env.list("CALLBACK_SECRET", default=[])
CALLBACK_ALLOW_HTTP: bool = env.bool("CALLBACK_ALLOW_HTTP", default=False)
CALLBACK_ALLOWED_HOSTS: list[str] = env.list("CALLBACK_ALLOWED_HOSTS", default=[])
CALLBACK_ALLOWED_NETWORKS: list[str] = env.list("CALLBACK_ALLOWED_NETWORKS", default=[])
CALLBACK_TIMEOUT: float = env.float("CALLBACK_TIMEOUT", default=10.0)
CALLBACK_ATTEMPTS: int = env.int("CALLBACK_ATTEMPTS", default=8)
CALLBACK_BACKOFF: float = env.float("CALLBACK_BACKOFF", default=5.0)

# --- Configuration, records, access --------------------------------------------------------------------------------

SNAPSHOT_POLL_INTERVAL: float = env.float("SNAPSHOT_POLL_INTERVAL", default=0.25)
RECORD_BUFFER_SIZE: int = env.int("RECORD_BUFFER_SIZE", default=50_000)
RECORD_FLUSH_INTERVAL: float = env.float("RECORD_FLUSH_INTERVAL", default=0.1)
RECORD_FLUSH_ROWS: int = env.int("RECORD_FLUSH_ROWS", default=500)
CALL_RECORD_RETENTION: float = env.float("CALL_RECORD_RETENTION", default=30 * 86400.0)

BREAKER_EVENT_RETENTION: float = env.float("BREAKER_EVENT_RETENTION", default=90 * 86400.0)

# --- Canaries: one fixed text, asked of every endpoint now and then -------------------------------------------------

CANARY_INTERVAL: float = env.float("CANARY_INTERVAL", default=60.0)
CANARY_TIMEOUT: float = env.float("CANARY_TIMEOUT", default=10.0)
CANARY_MIN_COSINE: float = env.float("CANARY_MIN_COSINE", default=0.99)

CITADEL_ANONYMOUS_SCOPES: list[str] = env.list("CITADEL_ANONYMOUS_SCOPES", default=[])

# The nine models of the user's card, in the order in which its status lists them. A comma separates the replicas of one
# model, in order of preference.
SEED_ENDPOINTS: dict[str, list[str]] = {
    slug: env.list(f"{slug.upper()}_ENDPOINT", default=[])
    for slug in ("phi3", "hermes", "mixtral", "yi34", "openchat", "deepcoder", "imp", "deepseek", "general")
}
# ollama, openai or tei: what the seeded endpoints speak; each may name its own as {slug}_PROTOCOL.
SEED_PROTOCOLS: dict[str, str] = {
    slug: env.str(f"{slug.upper()}_PROTOCOL", default=env.str("SEED_PROTOCOL", default="ollama"))
    for slug in SEED_ENDPOINTS
}
# The servers' own names for them; {slug}_UPSTREAM_MODEL where it is not the slug.
SEED_UPSTREAM_MODELS: dict[str, str] = {
    slug: env.str(f"{slug.upper()}_UPSTREAM_MODEL", default="") or slug for slug in SEED_ENDPOINTS
}

# --- Django --------------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_rq",
    "integrations",
    "batches",
    "citadel",
]
MIDDLEWARE = [
    "integrations.api.middleware.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "citadel.console.middleware.ConsoleMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "citadel.urls"
ASGI_APPLICATION = "citadel.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "OPTIONS": {
            "loaders": [
                (
                    "django.template.loaders.cached.Loader",
                    ["citadel.console.loaders.OwnTemplates", "citadel.console.loaders.AppTemplates"],
                ),
            ],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_REDIRECT_URL = "/admin/"
STATIC_URL = "/static/"
# Static files come from the packages themselves: no collectstatic step on the way to a first answer.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["integrations.api.authentication.ApiKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["integrations.api.authentication.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["integrations.api.renderers.OrjsonRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    # OPTIONS would tell a view's insides to anybody; the description of the API is /api/schema/.
    "DEFAULT_METADATA_CLASS": None,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "integrations.api.problems.exception_handler",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "Citadel",
    "DESCRIPTION": "Embeddings from your own model servers: live, or queued.",
    "VERSION": "0.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": [],
    "SERVE_AUTHENTICATION": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "BatchStateEnum": "batches.models.BatchJob.State",
        "FileBatchStateEnum": "batches.models.FileBatch.State",
        "BreakerStateEnum": ["closed", "half_open", "open", "forced_open"],
    },
}
UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Citadel",
    "SITE_HEADER": "Citadel",
    "SITE_SUBHEADER": "Embeddings",
    "SITE_SYMBOL": "castle",
    "SITE_URL": None,
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": f"{STATIC_URL}citadel/icon.svg"}],
    "SHOW_HISTORY": False,  # the audit trail is the history, of every way in
    "SHOW_BACK_BUTTON": False,
    "LOGIN": {"form": "citadel.log_in.LogInForm"},
    "STYLES": [f"{STATIC_URL}citadel/console.css"],
    "SCRIPTS": [f"{STATIC_URL}citadel/idiomorph-ext.min.js", f"{STATIC_URL}citadel/console.js"],
    "DASHBOARD_CALLBACK": "citadel.console.dashboard.context",
    "SIDEBAR": {"show_search": False, "show_all_applications": False, "navigation": NAVIGATION},
    "COLORS": {
        # A calm blue; the tones red, amber and green are left to what they say.
        "primary": {
            "50": "oklch(97% .014 254.604)",
            "100": "oklch(93.2% .032 255.585)",
            "200": "oklch(88.2% .059 254.128)",
            "300": "oklch(80.9% .105 251.813)",
            "400": "oklch(70.7% .165 254.624)",
            "500": "oklch(62.3% .214 259.815)",
            "600": "oklch(54.6% .245 262.881)",
            "700": "oklch(48.8% .243 264.376)",
            "800": "oklch(42.4% .199 265.638)",
            "900": "oklch(37.9% .146 265.522)",
            "950": "oklch(28.2% .091 267.935)",
        },
    },
}

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request_id": {"()": "integrations.logs.RequestIdFilter"}},
    "formatters": {
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "format": "%(asctime)s %(levelname)s %(name)s %(message)s %(request_id)s",
            "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        },
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "json", "filters": ["request_id"]},
    },
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {"django.server": {"handlers": ["stderr"], "level": LOG_LEVEL, "propagate": False}},
}

# --- Safety in production ------------------------------------------------------------------------------------------

SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "citadel.console.middleware.csrf_failure"
# Proxies in front that add to X-Forwarded-For; 0 believes nobody but the peer.
PROXIES: int = env.int("CITADEL_PROXIES", default=int(HTTPS))
if HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [re.escape("health/")]
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = True
