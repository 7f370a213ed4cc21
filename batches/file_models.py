"""Files that clients upload, and the batches that they make of them in OpenAI's terms.

A FileBatch is the parent of the BatchJobs that its file's lines were sorted into: it owns what only the file knows (its
states, its lines, its output), the jobs own the work. Lock order: the parent's row first, then its jobs, the lowest id
first.
"""

from typing import ClassVar

from django.db import models


class StoredFile(models.Model):
    """One file in the storage: uploaded, or written by a batch. Its row comes before its first byte."""

    class State(models.TextChoices):
        WRITING = "writing", "writing"  # on its way into the storage; shown to nobody
        READY = "ready", "ready"
        DELETED = "deleted", "deleted"  # shown to nobody; the storage may still have it

    class Purpose(models.TextChoices):
        BATCH = "batch", "batch"  # what a client uploads
        BATCH_OUTPUT = "batch_output", "batch output"  # what a batch leaves

    file_id = models.CharField(max_length=64, unique=True)
    client = models.CharField(max_length=100, blank=True)
    purpose = models.CharField(max_length=16, choices=Purpose)
    filename = models.CharField(max_length=255)
    state = models.CharField(max_length=8, choices=State, default=State.WRITING)
    size = models.PositiveBigIntegerField(default=0)
    # Where the storage keeps it, as the storage itself says.
    stored_as = models.CharField(max_length=255, blank=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["client", "-id"], name="file_client"),
            models.Index(fields=["expires_at"], name="file_expiry", condition=models.Q(state="ready")),
            models.Index(fields=["created_at"], name="file_leftover", condition=~models.Q(state="ready")),
        ]
        verbose_name = "file"

    def __str__(self) -> str:
        return self.file_id


class FileBatch(models.Model):
    """What a client asked for with one file."""

    class State(models.TextChoices):
        VALIDATING = "validating", "validating"  # its lines wait to be read, or are just read
        IN_PROGRESS = "in_progress", "in progress"  # its jobs are in the queue
        FINALIZING = "finalizing", "finalizing"  # its jobs have ended, its output is written
        COMPLETED = "completed", "completed"  # each line has a vector or an error
        FAILED = "failed", "failed"  # its lines were refused and nothing queued; or its file is lost
        EXPIRED = "expired", "expired"  # its window passed; what was finished is in its output
        CANCELLING = "cancelling", "cancelling"  # its jobs have ended, what was finished is written
        CANCELLED = "cancelled", "cancelled"  # what was finished is in its output

    ACTIVE: ClassVar = (State.VALIDATING, State.IN_PROGRESS, State.FINALIZING, State.CANCELLING)
    TRANSITIONS: ClassVar[dict[str, tuple[str, ...]]] = {
        State.VALIDATING: (State.IN_PROGRESS, State.FAILED, State.EXPIRED, State.CANCELLING),
        State.IN_PROGRESS: (State.FINALIZING, State.CANCELLING),
        State.FINALIZING: (State.COMPLETED, State.EXPIRED, State.FAILED),
        State.CANCELLING: (State.CANCELLED,),
        State.COMPLETED: (State.IN_PROGRESS,),  # retry of the lines that failed
        State.EXPIRED: (State.IN_PROGRESS,),
        State.FAILED: (),
        State.CANCELLED: (),
    }

    batch_id = models.CharField(max_length=64, unique=True)
    client = models.CharField(max_length=100, blank=True)
    # Under whose limits the texts count, once they are known; "" for a client without a key.
    key_prefix = models.CharField(max_length=32, blank=True)
    state = models.CharField(max_length=12, choices=State, default=State.VALIDATING)
    endpoint = models.CharField(max_length=64)
    window_seconds = models.PositiveIntegerField()
    completion_window = models.CharField(max_length=8)
    metadata = models.JSONField(null=True, blank=True)
    request_id = models.CharField(max_length=64)
    idempotency_key = models.CharField(max_length=255, null=True, blank=True)
    body_digest = models.CharField(max_length=64, blank=True)
    # Seconds that its output is kept; null: as all files are.
    output_expiry = models.PositiveIntegerField(null=True, blank=True)

    input_file_id = models.CharField(max_length=64)
    output_file_id = models.CharField(max_length=64, blank=True)
    error_file_id = models.CharField(max_length=64, blank=True)

    # Which job has the lines of which model: [{"model", "dimensions", "input_type", "job"}], see batches.file_lines.
    groups = models.JSONField(default=list)
    # [{"code", "message", "param", "line"}]: why its lines were refused.
    errors = models.JSONField(default=list)
    # Lines, as OpenAI's request_counts has them, and texts: a line may hold several.
    total = models.PositiveIntegerField(default=0)
    texts = models.PositiveIntegerField(default=0)
    # As its output has them; while it is in work the jobs know better.
    completed = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)

    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    in_progress_at = models.DateTimeField(null=True, blank=True)
    finalizing_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)
    failed_at = models.DateTimeField(null=True, blank=True)
    expired_at = models.DateTimeField(null=True, blank=True)
    cancelling_at = models.DateTimeField(null=True, blank=True)
    cancelled_at = models.DateTimeField(null=True, blank=True)

    # Not looked at before: the model's queue was full, or the key's limit reached.
    available_at = models.DateTimeField()
    waits_for = models.CharField(max_length=300, blank=True)
    # Who reads or writes its lines now, as with a chunk's lease.
    lease_token = models.UUIDField(null=True, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["client", "-id"], name="file_batch_client"),
            models.Index(
                fields=["id"],
                name="file_batch_active",
                condition=models.Q(state__in=["validating", "in_progress", "finalizing", "cancelling"]),
            ),
            models.Index(fields=["input_file_id"], name="file_batch_input"),
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["client", "idempotency_key"],
                name="file_batch_idempotency",
                condition=models.Q(idempotency_key__isnull=False),
            ),
        ]
        verbose_name = "file batch"
        verbose_name_plural = "file batches"

    def __str__(self) -> str:
        return self.batch_id
