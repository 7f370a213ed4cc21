"""The configuration, the record of calls and the operators' trail, as PostgreSQL keeps them.

The live path never reads these rows: it reads integrations.snapshot. Every write of an operator goes through
integrations.operations, which validates, audits and bumps ConfigVersion in one transaction.
"""

from typing import Any, ClassVar

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.utils import timezone

from integrations import rules
from integrations.call_models import CallRecord, CallStats

# Django looks for models here.
__all__ = [
    "ApiKey",
    "AuditEntry",
    "BreakerEvent",
    "CallRecord",
    "CallStats",
    "Canary",
    "ConfigVersion",
    "Endpoint",
    "ModelConfig",
    "PatternAssignment",
]

SLUG = RegexValidator(r"\A[A-Za-z0-9_-]+\Z", "Use letters, digits, hyphen and underscore.")


class ConfigVersion(models.Model):
    """One row; its number grows with each change, and every process watches it."""

    version = models.BigIntegerField(default=1)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints: ClassVar = [models.CheckConstraint(condition=models.Q(id=1), name="config_version_one_row")]


class ModelConfig(models.Model):
    """A model as clients know it."""

    class Truncate(models.TextChoices):
        ERROR = "error", "refuse texts over the model's context"
        END = "end", "cut the end of texts over the model's context"

    class OnMoved(models.TextChoices):
        OFF = "off", "do not ask"
        REPORT = "report", "report an endpoint whose vectors have changed"
        TAKE_OUT = "take_out", "report it, and trip its breaker"

    slug = models.CharField(max_length=64, unique=True, validators=[SLUG, rules.not_reserved])
    enabled = models.BooleanField(default=True)
    draining = models.BooleanField(default=False, help_text="Maintenance: live calls are refused, queued work waits.")
    drain_reason = models.CharField(max_length=200, blank=True)
    upstream_model = models.CharField(max_length=200, help_text="The servers' own name for it.")
    dimensions = models.PositiveIntegerField(
        null=True, blank=True, help_text="Length of a vector. Empty: not checked against a fixed number."
    )
    embedding_space = models.CharField(
        max_length=100,
        blank=True,
        help_text="Models with the same space give comparable vectors; needed for a fallback.",
    )
    query_prefix = models.CharField(max_length=200, blank=True)
    passage_prefix = models.CharField(max_length=200, blank=True)
    normalise = models.BooleanField(default=True, help_text="Ask for vectors of length 1 where the protocol can.")
    truncate = models.CharField(max_length=8, choices=Truncate, default=Truncate.ERROR)
    fallbacks = models.ManyToManyField(
        "self",
        symmetrical=False,
        blank=True,
        help_text="Models of the same embedding space to ask when this one cannot.",
    )
    coalesce = models.BooleanField(
        default=True, db_default=True, help_text="Live calls share upstream calls while the servers are busy."
    )
    cache = models.BooleanField(
        default=False, db_default=False, help_text="Live calls get vectors of texts embedded before from Redis."
    )
    takes_token_ids = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Ids that clients of /v1/embeddings send are of this very model's tokenizer: passed on as they are.",
    )
    # Part of what a cached vector is found by.
    cache_epoch = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    max_waiting_texts = models.PositiveIntegerField(null=True, blank=True, help_text="Empty: MAX_WAITING_TEXTS.")
    canary = models.CharField(
        max_length=8,
        choices=OnMoved,
        default=OnMoved.REPORT,
        db_default=OnMoved.REPORT.value,
        help_text="Each endpoint is asked for one fixed text now and then: what follows from another vector.",
    )
    canary_min_cosine = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0.0), MaxValueValidator(1.0)],
        help_text="Below this it is another vector. Empty: CANARY_MIN_COSINE.",
    )

    class Meta:
        ordering: ClassVar = ["slug"]
        verbose_name = "model"
        permissions: ClassVar = [("drain_model", "Can drain a model and end its maintenance")]

    def __str__(self) -> str:
        return self.slug

    def clean(self) -> None:
        """Refuse a slug that differs from another only by case: two models would share one address for people."""
        rules.check_slug_free(self)


class Endpoint(models.Model):
    """One base URL that serves a model."""

    class Protocol(models.TextChoices):
        OLLAMA = "ollama", "Ollama (/api/embed)"
        OPENAI = "openai", "OpenAI (/v1/embeddings)"
        TEI = "tei", "TEI (/embed)"

    model = models.ForeignKey(ModelConfig, on_delete=models.CASCADE, related_name="endpoints")
    position = models.PositiveSmallIntegerField(default=0, help_text="Lower is asked first.")
    url = models.CharField(max_length=300, validators=[rules.endpoint_url])
    protocol = models.CharField(max_length=16, choices=Protocol, default=Protocol.OLLAMA)
    enabled = models.BooleanField(default=True)
    upstream_model = models.CharField(max_length=200, blank=True, help_text="Empty: the model's.")
    max_batch = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Texts in one call. Empty: the protocol's."
    )
    max_in_flight = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Calls at once. Empty: ENDPOINT_MAX_IN_FLIGHT.",
    )
    min_target = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Live calls in flight up to which none waits to be shared. Empty: COALESCE_MIN_TARGET.",
    )
    max_target = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Where that number ends, however many the server seems to take. Empty: COALESCE_MAX_TARGET.",
    )
    auth_header = models.CharField(max_length=64, default="Authorization", blank=True)
    auth_env = models.CharField(
        max_length=100, blank=True, help_text="Name of the environment variable that holds the header's whole value."
    )
    ca_file = models.CharField(
        max_length=300, blank=True, help_text="PEM file of the authority that signed its certificate."
    )
    # The operator's own state of the breaker. It holds until reset, or until the time given.
    forced_open = models.BooleanField(default=False)
    forced_reason = models.CharField(max_length=200, blank=True)
    forced_by = models.CharField(max_length=150, blank=True)
    forced_at = models.DateTimeField(null=True, blank=True)
    forced_until = models.DateTimeField(null=True, blank=True)
    # Grows with each reset by hand: a process that sees it grow forgets the failures it has counted.
    breaker_epoch = models.PositiveIntegerField(default=0)

    class Meta:
        ordering: ClassVar = ["model_id", "position", "id"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["model", "url"], name="endpoint_once_a_model")]
        permissions: ClassVar = [("trip_breaker", "Can trip and reset breakers")]

    def __str__(self) -> str:
        return f"{self.model} at {self.url}"

    @property
    def is_forced_open(self) -> bool:
        """Whether an operator holds its breaker open now."""
        return self.forced_open and (self.forced_until is None or self.forced_until > timezone.now())

    def clean(self) -> None:
        """Write the URL in its one form; refuse bounds, a header or a variable that cannot be one."""
        self.url = rules.base_url(self.url)
        rules.check_targets(self)
        rules.check_auth(self)


class Canary(models.Model):
    """What an endpoint answers to the fixed text, beside what it answered first under the same configuration."""

    class State(models.TextChoices):
        WAITING = "waiting", "waiting"  # it has not answered yet: there is no reference
        WELL = "well", "well"
        MOVED = "moved", "moved"  # another vector: its cosine to the reference is under the bound
        RESIZED = "resized", "resized"  # a vector of another length
        UNLIKE = "unlike", "unlike"  # what it was, but another vector than that of an endpoint before it in order

    ASTRAY: ClassVar = (State.MOVED, State.RESIZED)
    # No constraint in the database: during an upgrade processes that know no canaries may still delete endpoints.
    endpoint = models.OneToOneField(Endpoint, on_delete=models.CASCADE, related_name="canary", db_constraint=False)
    state = models.CharField(max_length=8, choices=State, default=State.WAITING)
    # What the endpoint was last asked under; another configuration takes a new reference.
    fingerprint = models.CharField(max_length=64, blank=True)
    reference = models.BinaryField(null=True)  # float32, little-endian
    reference_at = models.DateTimeField(null=True)
    cosine = models.FloatField(null=True)
    asked_at = models.DateTimeField(null=True)
    # The last time its vector was as it should be: what it gave after that is in doubt once it is astray.
    well_at = models.DateTimeField(null=True)
    since = models.DateTimeField()  # of this state
    error = models.CharField(max_length=300, blank=True, help_text="Why there was no answer the last time.")

    class Meta:
        ordering: ClassVar = ["endpoint__model_id", "endpoint__position", "id"]
        verbose_name_plural = "canaries"

    def __str__(self) -> str:
        return str(self.endpoint)


class PatternAssignment(models.Model):
    """Binds a pattern to a model; empty fields take the pattern's defaults from the settings."""

    class Pattern(models.TextChoices):
        REAL_TIME = "real_time", "real_time"
        HYBRID = "hybrid", "hybrid"
        BULK_ONLY = "bulk_only", "bulk_only"

    model = models.ForeignKey(ModelConfig, on_delete=models.CASCADE, related_name="assignments")
    pattern = models.CharField(max_length=16, choices=Pattern)
    position = models.PositiveSmallIntegerField(default=0, help_text="The first that accepts a request answers it.")
    deadline = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0.1), MaxValueValidator(3600)])
    connect_timeout = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0.05)])
    attempt_timeout = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0.05)])
    retry_attempts = models.PositiveSmallIntegerField(null=True, blank=True)
    breaker_threshold = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    breaker_reset_timeout = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0.1)])
    urgent_threshold = models.PositiveIntegerField(null=True, blank=True)
    batch_size = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    processing_interval = models.FloatField(null=True, blank=True, validators=[MinValueValidator(0)])

    class Meta:
        ordering: ClassVar = ["model_id", "position", "id"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["model", "pattern"], name="pattern_once_a_model")]

    def __str__(self) -> str:
        return f"{self.model}: {self.pattern}"


class ApiKey(models.Model):
    """What a client shows. The key itself is never stored: 256 random bits need no slow hash, SHA-256 is enough."""

    class Scope(models.TextChoices):
        EMBED = "embed", "embed: live calls"
        BATCH = "batch", "batch: queued work and its results"
        READ = "read", "read: status and metrics"
        OPERATE = "operate", "operate: drills"

    LIMITS: ClassVar = ("requests_per_minute", "texts_per_minute", "texts_per_day")

    client = models.CharField(max_length=100, help_text="Who uses it; batches belong to this name.")
    prefix = models.CharField(max_length=12, unique=True, help_text="The first characters, to tell keys apart.")
    hash = models.CharField(max_length=64, unique=True)
    scopes = ArrayField(models.CharField(max_length=16, choices=Scope), default=list)
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    allowed_models = ArrayField(
        models.CharField(max_length=64),
        default=list,
        db_default=[],
        blank=True,
        help_text="Only these models. None chosen: all.",
    )
    # Each of the three: null is no limit.
    requests_per_minute = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Embedding requests. Empty: no limit."
    )
    texts_per_minute = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Texts of them. Empty: no limit."
    )
    texts_per_day = models.PositiveBigIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Texts a day (UTC). Empty: no limit."
    )

    class Meta:
        ordering: ClassVar = ["client", "id"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.client} ({self.prefix}…)"


class BreakerEvent(models.Model):
    """A breaker went from one state to another."""

    at = models.DateTimeField()
    endpoint = models.ForeignKey(Endpoint, null=True, on_delete=models.SET_NULL, related_name="breaker_events")
    model = models.CharField(max_length=64)
    url = models.CharField(max_length=300)
    from_state = models.CharField(max_length=16)
    to_state = models.CharField(max_length=16)
    reason = models.CharField(max_length=300, blank=True)
    actor = models.CharField(max_length=150, blank=True, help_text="Empty: Citadel itself.")
    until = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["-at", "-id"]
        indexes: ClassVar = [
            models.Index(fields=["model", "-at"], name="breaker_model_at"),
            models.Index(fields=["-at"], name="breaker_at"),
        ]

    def __str__(self) -> str:
        return f"{self.url}: {self.from_state} -> {self.to_state}"


class AuditEntry(models.Model):
    """One write of an operator. Nobody may edit it."""

    at = models.DateTimeField(auto_now_add=True)
    actor = models.CharField(max_length=150)
    action = models.CharField(max_length=64)
    model = models.CharField(max_length=64, blank=True)
    target = models.CharField(max_length=300, blank=True)
    before: "models.JSONField[Any, Any]" = models.JSONField(null=True, blank=True)
    after: "models.JSONField[Any, Any]" = models.JSONField(null=True, blank=True)
    reason = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering: ClassVar = ["-at", "-id"]
        indexes: ClassVar = [models.Index(fields=["model", "-at"], name="audit_model_at")]
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.actor}: {self.action} {self.target}"
