"""The record of calls, as PostgreSQL keeps it: rows of single calls, and their sums over time."""

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models


class CallRecord(models.Model):
    """One call: a client's live request, a submission, or one upstream call made for the queue."""

    started_at = models.DateTimeField()
    request_id = models.CharField(max_length=64)
    client = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=64)
    pattern = models.CharField(max_length=16)
    mode = models.CharField(max_length=8)  # live, queued (a submission) or bulk (a call for the queue)
    code = models.CharField(max_length=32)  # "ok" or the error's code
    duration_ms = models.FloatField()
    texts = models.PositiveIntegerField()
    endpoint = models.CharField(max_length=300, blank=True)
    failover_from = models.CharField(max_length=300, blank=True)
    # [{"endpoint", "outcome", "ms", "detail" where there is one}], in the order they were made.
    attempts = models.JSONField(default=list)
    batch_id = models.CharField(max_length=128, blank=True)

    class Meta:
        indexes: ClassVar = [
            # What follows the time is judged in the index: that no call is both is seen without looking at the rows.
            models.Index(fields=["-started_at", "pattern", "mode"], name="call_newest"),
            models.Index(fields=["request_id"], name="call_request"),
            models.Index(fields=["model", "-started_at", "mode", "pattern"], name="call_model_started"),
            # What operators look for is rare: small indexes, which cost the ordinary call nothing.
            models.Index(fields=["-started_at", "code", "model"], name="call_failed", condition=~models.Q(code="ok")),
            models.Index(
                fields=["-started_at", "duration_ms", "pattern", "mode", "model", "code"],
                name="call_slowest",
                condition=models.Q(duration_ms__gte=1000),
            ),
            models.Index(fields=["batch_id"], name="call_batch", condition=~models.Q(batch_id="")),
        ]

    def __str__(self) -> str:
        return f"{self.request_id} {self.model} {self.code}"


class CallStats(models.Model):
    """Rollup: what happened in one stretch of time, by model, pattern, mode, endpoint and code."""

    class Width(models.TextChoices):
        MINUTE = "minute", "minute"
        HOUR = "hour", "hour"  # minutes are folded into hours after 2 days
        DAY = "day", "day"  # hours are folded into days after 90 days
        TOTAL = "total", "total"  # since ever: the counters of /metrics
        BEFORE = "before", "before"  # since ever until the bucket: a mark from which long windows are counted

    class Kind(models.TextChoices):
        CALL = "call", "call"  # a whole call; endpoint is the one that answered
        ATTEMPT = "attempt", "attempt"  # one exchange with one endpoint
        CACHE = "cache", "cache"  # texts of live calls for models with a cache; code is hit or miss
        DROP = "drop", "drop"  # a record that was lost, its buffer being full; nothing else is known of it

    width = models.CharField(max_length=8, choices=Width)
    bucket = models.DateTimeField()
    kind = models.CharField(max_length=8, choices=Kind)
    model = models.CharField(max_length=64)
    pattern = models.CharField(max_length=16)
    mode = models.CharField(max_length=8)
    endpoint = models.CharField(max_length=300, blank=True)
    code = models.CharField(max_length=32)
    count = models.BigIntegerField(default=0)
    texts = models.BigIntegerField(default=0)
    retries = models.BigIntegerField(default=0)
    failovers = models.BigIntegerField(default=0)
    total_ms = models.FloatField(default=0)
    # Calls by duration: integrations.histogram says where each place begins.
    histogram = ArrayField(models.BigIntegerField())

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["width", "bucket", "kind", "model", "pattern", "mode", "endpoint", "code"],
                name="call_stats_key",
            )
        ]

    def __str__(self) -> str:
        return f"{self.width} {self.bucket:%F %T} {self.model} {self.code}"
