"""What the batch addresses take in their query, and the documents they answer with for the OpenAPI schema."""

import re
from datetime import timedelta
from typing import Any, Final

from rest_framework import serializers

from batches.models import BatchJob, Delivery

MAX_PAGE: Final = 1000
_WINDOW: Final = re.compile(r"([0-9]{1,8})([smhd]?)")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_WINDOW: Final = timedelta(days=90)


class WindowField(serializers.Field[timedelta, str, str, Any]):
    """A stretch of time up to now: seconds, or a number with s, m, h or d."""

    default_error_messages = {"invalid": "Must be seconds, or a number with s, m, h or d; at most 90d."}

    def to_internal_value(self, data: str) -> timedelta:
        """Return the time. Raises ValidationError."""
        match = _WINDOW.fullmatch(data)
        seconds = int(match[1]) * _UNITS[match[2]] if match else 0
        if not 0 < seconds <= _LONGEST_WINDOW.total_seconds():
            self.fail("invalid")
        return timedelta(seconds=seconds)

    def to_representation(self, value: timedelta) -> str:
        """Return it in seconds."""
        return f"{value.total_seconds():.0f}s"


class StatusQuery(serializers.Serializer[None]):
    """Of GET batch/queue/status."""

    window = WindowField(required=False, default=timedelta(days=1))


class ResultsQuery(serializers.Serializer[None]):
    """Of GET batch/{id}/results."""

    offset = serializers.IntegerField(required=False, default=0, min_value=0, max_value=2**31 - 1)
    limit = serializers.IntegerField(required=False, default=100, min_value=1, max_value=MAX_PAGE)


class ListQuery(serializers.Serializer[None]):
    """Of GET batch."""

    model = serializers.CharField(required=False, help_text="Only batches of this model.")
    state = serializers.ChoiceField(BatchJob.State.values, required=False, help_text="Only batches in this state.")
    created_after = serializers.DateTimeField(required=False, help_text="Only batches submitted at this time or later.")
    created_before = serializers.DateTimeField(required=False, help_text="Only batches submitted before this time.")
    cursor = serializers.CharField(required=False, help_text="Where the page begins, as `next` had it.")
    limit = serializers.IntegerField(required=False, default=50, min_value=1, max_value=MAX_PAGE)


class CountsSerializer(serializers.Serializer[None]):
    """Texts of a batch; those without an outcome are the rest of `total`."""

    total = serializers.IntegerField()
    completed = serializers.IntegerField(help_text="With a vector.")
    failed = serializers.IntegerField(help_text="With an error.")


class BatchMetadataSerializer(serializers.Serializer[None]):
    """What the submission said."""

    pattern_type = serializers.CharField()
    batch_size = serializers.IntegerField()
    queued_at = serializers.DateTimeField()
    request_id = serializers.CharField()
    input_type = serializers.CharField(allow_blank=True)
    client_metadata = serializers.DictField(child=serializers.CharField())


class BatchSummarySerializer(serializers.Serializer[None]):
    """A batch as the list has it: `estimated_completion` is what was promised when it was queued."""

    batch_id = serializers.CharField()
    status = serializers.ChoiceField(BatchJob.State.values)
    model = serializers.CharField()
    pattern = serializers.CharField()
    priority = serializers.IntegerField()
    counts = CountsSerializer()
    progress = serializers.FloatField(help_text="Share of the texts that have an outcome, 0 to 1.")
    estimated_completion = serializers.DateTimeField(allow_null=True)
    queued_at = serializers.DateTimeField()
    released_at = serializers.DateTimeField(allow_null=True)
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    expires_at = serializers.DateTimeField()
    purged_at = serializers.DateTimeField(allow_null=True, help_text="Since when texts and vectors are gone.")
    metadata = BatchMetadataSerializer()


class CallbackSerializer(serializers.Serializer[None]):
    """What came of a batch's last callback."""

    url = serializers.CharField()
    status = serializers.ChoiceField(
        ["waiting", *Delivery.State.values], help_text="waiting: the batch has not ended. pending: to be sent (again)."
    )
    event = serializers.CharField(allow_null=True)
    webhook_id = serializers.CharField(allow_null=True)
    attempts = serializers.IntegerField()
    last_status = serializers.IntegerField(allow_null=True, help_text="HTTP status of the last answer.")
    last_error = serializers.CharField(allow_null=True)
    next_attempt_at = serializers.DateTimeField(allow_null=True)
    delivered_at = serializers.DateTimeField(allow_null=True)


class BatchSerializer(BatchSummarySerializer):
    """One batch: `estimated_completion` is the estimate of now, null once it has ended."""

    callback = CallbackSerializer(allow_null=True, help_text="null for a batch without callback_url.")

    queue_position = serializers.IntegerField(
        allow_null=True, help_text="From 1 among the batches waiting for this model; null once a worker has begun."
    )


class BatchListSerializer(serializers.Serializer[None]):
    """A page of batches, the newest first."""

    batches = BatchSummarySerializer(many=True)
    next = serializers.CharField(allow_null=True, help_text="Address of the next page; null on the last.")


class TextErrorSerializer(serializers.Serializer[None]):
    """Why a text has no vector."""

    code = serializers.CharField()
    detail = serializers.CharField()


class ResultSerializer(serializers.Serializer[None]):
    """What came of one text."""

    index = serializers.IntegerField(help_text="Position of the text in the submission, from 0.")
    status = serializers.ChoiceField(
        ["completed", "failed", "pending", "cancelled", "expired", "purged"],
        help_text="cancelled and expired: the batch ended before this text had its turn. purged: deleted.",
    )
    embedding = serializers.ListField(child=serializers.FloatField(), required=False, help_text="If completed.")
    error = TextErrorSerializer(required=False, help_text="If failed.")
    endpoint = serializers.CharField(required=False, help_text="The model server that answered.")
    upstream_model = serializers.CharField(required=False)


class ResultsSerializer(serializers.Serializer[None]):
    """A page of results, in the order of submission."""

    results = ResultSerializer(many=True)
    total = serializers.IntegerField(help_text="Texts of the batch.")
    next = serializers.CharField(allow_null=True, help_text="Address of the next page; null on the last.")


class QueueStatusSerializer(serializers.Serializer[None]):
    """Batches by state: pending and processing now, the others as they ended within the window."""

    total_jobs = serializers.IntegerField(help_text="pending + processing + completed + failed")
    pending_jobs = serializers.IntegerField()
    processing_jobs = serializers.IntegerField()
    completed_jobs = serializers.IntegerField()
    failed_jobs = serializers.IntegerField()
    cancelled_jobs = serializers.IntegerField()
    expired_jobs = serializers.IntegerField()


class ProcessingStatsSerializer(serializers.Serializer[None]):
    """Of the batches that ended within the window; null where there is nothing to measure."""

    avg_processing_time_seconds = serializers.FloatField(allow_null=True)
    items_per_minute = serializers.FloatField(
        allow_null=True,
        help_text="Texts, while there was a batch in work: of the last 100 batches, and of those in work.",
    )
    success_rate = serializers.FloatField(allow_null=True, help_text="Percentage of texts that got a vector.")
    estimate_error_median_seconds = serializers.FloatField(
        allow_null=True, help_text="Between estimated and real completion, of the last 100 completed batches."
    )


class ModelQueueSerializer(serializers.Serializer[None]):
    """One model's batches now."""

    pending = serializers.IntegerField()
    processing = serializers.IntegerField()


class ModelLimitSerializer(serializers.Serializer[None]):
    """One model's texts without an outcome, and how many it may have: more are refused with queue_full."""

    waiting_texts = serializers.IntegerField()
    max_waiting_texts = serializers.IntegerField()


class QueueSerializer(serializers.Serializer[None]):
    """The queue as it is."""

    queue_status = QueueStatusSerializer()
    processing_stats = ProcessingStatsSerializer()
    model_queues = serializers.DictField(child=ModelQueueSerializer())
    limits = serializers.DictField(child=ModelLimitSerializer())
    oldest_pending_seconds = serializers.FloatField(allow_null=True)
    window_seconds = serializers.IntegerField()
