"""Queued work as PostgreSQL keeps it.

A batch is what a client submitted; a chunk is the unit of claim, retry and commit. Which state follows which is the
table TRANSITIONS; every change of state is one UPDATE with the old state in its WHERE clause.

Two rules that every writer keeps:

- Lock order. A transaction that writes both a batch's row and its chunks locks the batch's row first, so that a worker
  that stores a chunk and a client who cancels wait for each other and never deadlock. Of several batches, the lowest
  id first.
- Outcomes. A position of a chunk is pending (see BatchChunk.pending), failed (it is in `errors`) or has a vector (its
  row of `vectors`); BatchJob.failed and BatchJob.completed count the second and third over all chunks, in the same
  transaction that stores them.
"""

from collections.abc import Sequence
from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models

from batches.file_models import FileBatch, StoredFile

__all__ = ["BatchChunk", "BatchJob", "Delivery", "EndedSums", "FileBatch", "StoredFile", "WorkerHeartbeat"]


class BatchJob(models.Model):
    """What one client submitted at once, for one model."""

    class State(models.TextChoices):
        QUEUED = "queued", "queued"  # stored; held until released_at is set, then waiting for a worker
        PROCESSING = "processing", "processing"  # a worker has claimed at least one of its chunks
        COMPLETED = "completed", "completed"  # every text has an outcome, at least one of them a vector
        FAILED = "failed", "failed"  # every text has an outcome, none of them a vector
        CANCELLED = "cancelled", "cancelled"  # by the client or an operator; what was finished is kept
        EXPIRED = "expired", "expired"  # BULK_EXPIRY passed; what was finished is kept

    ACTIVE: ClassVar = (State.QUEUED, State.PROCESSING)
    ENDED: ClassVar = (State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED)
    TRANSITIONS: ClassVar[dict[str, tuple[str, ...]]] = {
        State.QUEUED: (State.PROCESSING, State.CANCELLED, State.EXPIRED),
        State.PROCESSING: (State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED),
        State.COMPLETED: (State.QUEUED,),  # retry of the failed texts
        State.FAILED: (State.QUEUED,),
        State.EXPIRED: (State.QUEUED,),
        State.CANCELLED: (),
    }

    # Which of the batches waiting for one model goes first.
    QUEUE_ORDER: ClassVar = ("-priority", "queued_at", "id")

    batch_id = models.CharField(max_length=128, unique=True)
    client = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=64)
    pattern = models.CharField(max_length=16)
    state = models.CharField(max_length=12, choices=State, default=State.QUEUED)
    priority = models.PositiveSmallIntegerField(default=5)  # 0 to 9; 9 goes first
    input_type = models.CharField(max_length=8, blank=True)
    client_metadata = models.JSONField(default=dict)
    request_id = models.CharField(max_length=64)
    idempotency_key = models.CharField(max_length=255, null=True, blank=True)
    body_digest = models.CharField(max_length=64, blank=True)

    total = models.PositiveIntegerField()
    completed = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)

    submitted_at = models.DateTimeField()
    queued_at = models.DateTimeField()  # since when it is in the queue: the submission, or the last retry
    released_at = models.DateTimeField(null=True, blank=True)
    # Not before this time: an open breaker or a pause postpones the whole batch and burns no attempts.
    available_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField()
    # What was promised at submission or retry; its error is a metric.
    estimated_completion = models.DateTimeField(null=True, blank=True)
    # With the database's own default: processes of the version before go on inserting batches during an upgrade.
    callback_url = models.CharField(max_length=2048, blank=True, default="", db_default="")
    # The end (its finished_at) of which a Delivery tells; null: none does yet.
    callback_for = models.DateTimeField(null=True, blank=True)
    # Since when its texts and vectors are shown to nobody, by DELETE or by RESULT_RETENTION; the record stays.
    purged_at = models.DateTimeField(null=True, blank=True)
    # Whether its chunks are still there: a purge deletes them in slices.
    stored = models.BooleanField(default=True)
    # Ask the model for vectors of this length, shorter than its own.
    dimensions = models.PositiveIntegerField(null=True, blank=True)
    # The file whose lines these texts are.
    file_batch = models.ForeignKey(
        FileBatch, on_delete=models.PROTECT, null=True, blank=True, related_name="jobs", db_index=False
    )

    class Meta:
        indexes: ClassVar = [
            models.Index(
                fields=["model", "state"],
                name="batch_active",
                condition=models.Q(state__in=["queued", "processing"]),
            ),
            models.Index(
                fields=["model", "-priority", "queued_at", "id"],
                name="batch_waiting",
                condition=models.Q(state="queued"),
            ),
            models.Index(
                fields=["-priority", "queued_at", "id"],
                name="batch_order",
                condition=models.Q(state__in=["queued", "processing"], released_at__isnull=False),
            ),
            models.Index(
                fields=["model", "client", "-priority", "queued_at", "id"],
                name="batch_turn",
                condition=models.Q(state__in=["queued", "processing"]),
            ),
            models.Index(
                fields=["model", "queued_at"],
                name="batch_held",
                condition=models.Q(state="queued", released_at__isnull=True),
            ),
            models.Index(
                fields=["expires_at"],
                name="batch_expiry",
                condition=models.Q(state__in=["queued", "processing"]),
            ),
            models.Index(fields=["client", "-id"], name="batch_client"),
            models.Index(
                fields=["file_batch", "id"], name="batch_of_file", condition=models.Q(file_batch__isnull=False)
            ),
            models.Index(fields=["finished_at"], name="batch_finished"),
            models.Index(
                fields=["id"],
                name="batch_unannounced",
                condition=models.Q(callback_for__isnull=True, finished_at__isnull=False) & ~models.Q(callback_url=""),
            ),
            models.Index(fields=["model", "-finished_at"], name="batch_model_finished"),
            models.Index(
                fields=["finished_at"],
                name="batch_retention",
                condition=models.Q(stored=True, finished_at__isnull=False),
            ),
            models.Index(
                fields=["purged_at"],
                name="batch_purging",
                condition=models.Q(stored=True, purged_at__isnull=False),
            ),
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["client", "idempotency_key"],
                name="batch_idempotency",
                condition=models.Q(idempotency_key__isnull=False),
            ),
            models.CheckConstraint(
                condition=models.Q(total__gte=models.F("completed") + models.F("failed")),
                name="batch_counts_fit",
            ),
        ]
        verbose_name = "batch"
        verbose_name_plural = "batches"
        permissions: ClassVar = [("operate_batch", "Can cancel, retry and reorder batches")]

    def __str__(self) -> str:
        return self.batch_id

    @property
    def outstanding(self) -> int:
        """Texts that have no outcome yet."""
        return self.total - self.completed - self.failed


class BatchChunk(models.Model):
    """At most BULK_BATCH_SIZE texts of one batch, in order."""

    class State(models.TextChoices):
        WAITING = "waiting", "waiting"  # may be claimed once available_at has passed
        CLAIMED = "claimed", "claimed"  # a worker holds it until lease_until; after that anyone may claim it
        DONE = "done", "done"  # each of its texts has a vector or an error
        DROPPED = "dropped", "dropped"  # its batch was cancelled or expired first

    batch = models.ForeignKey(BatchJob, on_delete=models.CASCADE, related_name="chunks")
    number = models.PositiveIntegerField()  # from 0
    first = models.PositiveIntegerField()  # position of its first text within the batch
    size = models.PositiveIntegerField()
    state = models.CharField(max_length=8, choices=State, default=State.WAITING)
    attempts = models.PositiveSmallIntegerField(default=0)
    available_at = models.DateTimeField()
    lease_token = models.UUIDField(null=True, blank=True)
    lease_owner = models.CharField(max_length=100, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    # JSON list of `size` strings, as the client sent them: the model's prefix is added when they are embedded.
    texts = models.JSONField()
    # Positions within the chunk that have no outcome yet, ascending; null: all of them. A first run starts with null; a
    # retry lists the positions that had failed, and the rows of the others in `vectors` stay as they are. A done chunk
    # has none, whatever this column says.
    pending = ArrayField(models.PositiveIntegerField(), null=True, blank=True)
    # size x dimensions float32, little-endian, rows in order; the row of a failed or pending text is zeros.
    vectors = models.BinaryField(null=True)
    dimensions = models.PositiveIntegerField(null=True)
    # {"position within the chunk": {"code", "detail"}}
    errors = models.JSONField(default=dict)
    endpoint = models.CharField(max_length=300, blank=True)
    upstream_model = models.CharField(max_length=200, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes: ClassVar = [
            models.Index(
                fields=["batch", "number"],
                name="chunk_unfinished",
                condition=models.Q(state__in=["waiting", "claimed"]),
            ),
            models.Index(fields=["lease_owner"], name="chunk_owner", condition=models.Q(state="claimed")),
        ]
        constraints: ClassVar = [
            # Results are read by position, so this is the index that finds a chunk; `number` follows the same order.
            models.UniqueConstraint(fields=["batch", "first"], name="chunk_first"),
        ]

    def __str__(self) -> str:
        return f"{self.batch_id}/{self.number}"

    def pending_positions(self) -> Sequence[int]:
        """Return the positions within the chunk that have no outcome yet, ascending."""
        if self.state == self.State.DONE:
            return ()
        return range(self.size) if self.pending is None else self.pending


class Delivery(models.Model):
    """One callback: what is sent, and what came of it. A batch that is retried and ends again has another."""

    class State(models.TextChoices):
        PENDING = "pending", "pending"  # to be sent at next_at
        DELIVERED = "delivered", "delivered"  # the receiver has answered 2xx
        GIVEN_UP = "given_up", "given up"  # it has answered 410, or CALLBACK_ATTEMPTS have failed

    batch = models.ForeignKey(BatchJob, on_delete=models.CASCADE, related_name="deliveries")
    webhook_id = models.CharField(max_length=40, unique=True)
    event = models.CharField(max_length=32)
    body = models.TextField()
    state = models.CharField(max_length=10, choices=State, default=State.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    # While an attempt is under way, when another process may take it for lost.
    next_at = models.DateTimeField()
    last_status = models.PositiveSmallIntegerField(null=True, blank=True)
    last_error = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField()
    delivered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        default_permissions = ()
        verbose_name_plural = "deliveries"
        indexes: ClassVar = [
            models.Index(fields=["next_at"], name="delivery_due", condition=models.Q(state="pending")),
        ]

    def __str__(self) -> str:
        return f"{self.webhook_id} {self.state}"


class EndedSums(models.Model):
    """What the batches of one model that ended in one quarter of an hour add up to; see batches.ended.

    Rows of one quarter and model add up. Nothing is lost with them: they are counted anew from the batches, and where
    they are missing the batches are read.
    """

    bucket = models.DateTimeField()  # the quarter's beginning
    model = models.CharField(max_length=64, blank=True)  # "": a row of zeros, which says that the quarter was counted
    # Below zero: a batch that was counted and is retried.
    completed = models.IntegerField()
    failed = models.IntegerField()
    cancelled = models.IntegerField()
    expired = models.IntegerField()
    # Of those that ended completed or failed: texts with a vector and without, batches that a worker began, and the
    # time from the first claim to the end of all these.
    completed_texts = models.BigIntegerField()
    failed_texts = models.BigIntegerField()
    timed = models.IntegerField()
    took = models.DurationField()

    class Meta:
        default_permissions = ()
        indexes: ClassVar = [models.Index(fields=["bucket", "model"], name="ended_sums_bucket")]

    def __str__(self) -> str:
        return f"{self.bucket:%F %T} {self.model}"


class WorkerHeartbeat(models.Model):
    """A worker or scheduler process, as it last said it was alive (PostgreSQL's clock)."""

    name = models.CharField(max_length=100, primary_key=True)
    kind = models.CharField(max_length=12)  # worker or scheduler
    host = models.CharField(max_length=100)
    pid = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    batch_id = models.CharField(max_length=128, blank=True)
    chunks_in_flight = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return self.name
