"""What status and metrics say about themselves in the OpenAPI description."""

from typing import Final

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers

from integrations import errors
from integrations.api.schema import REQUEST_ID, json_response, problem_responses

_STATES: Final = "closed, half_open, open or forced_open"
_Schema = serializers.Serializer[None]


def _number(text: str = "") -> serializers.FloatField:
    return serializers.FloatField(allow_null=True, help_text=text)


def _count(text: str = "") -> serializers.IntegerField:
    return serializers.IntegerField(allow_null=True, help_text=text)


def _models() -> serializers.ListField:
    return serializers.ListField(child=serializers.CharField(), help_text="In the configuration's order.")


class RealTimeStatusSerializer(_Schema):
    """Live calls of the real_time pattern."""

    models = _models()
    active_requests = serializers.IntegerField(help_text="Under way now, in all processes.")
    success_rate = _number("Percent; null without data.")
    avg_response_time_ms = _number()


class HybridStatusSerializer(_Schema):
    """Requests of the hybrid pattern."""

    models = _models()
    real_time_requests = _count("Answered live.")
    bulk_requests = _count("Sent to the queue.")
    success_rate = _number("Percent, of both.")
    avg_response_time_ms = _number("Of those answered live.")


class BulkOnlyStatusSerializer(_Schema):
    """Batches of the bulk_only pattern's models."""

    models = _models()
    queued_batches = _count("Now.")
    processing_batches = _count("Now.")
    completed_batches = _count("Within the window.")
    success_rate = _number("Percent of the texts of batches that ended within the window.")
    avg_batch_processing_time_ms = _number("From the first claim to the end.")


class PatternsSerializer(_Schema):
    """The three patterns."""

    real_time = RealTimeStatusSerializer()
    hybrid = HybridStatusSerializer()
    bulk_only = BulkOnlyStatusSerializer()


class CanarySerializer(_Schema):
    """What an endpoint answers to the fixed text, beside what it answered first."""

    state = serializers.CharField(
        help_text="waiting, well, moved (another vector), resized (another length) or unlike (its replica)."
    )
    cosine = _number("Of its last vector to the reference; null where there is none.")
    asked_at = serializers.DateTimeField(allow_null=True)
    well_at = serializers.DateTimeField(allow_null=True, help_text="The last time its vector was as it should be.")
    since = serializers.DateTimeField(help_text="Of this state.")


class EndpointBreakerSerializer(_Schema):
    """One endpoint's breaker."""

    url = serializers.CharField()
    state = serializers.CharField(help_text=_STATES)
    failure_count = serializers.IntegerField()
    reason = serializers.CharField(allow_blank=True)
    until = serializers.DateTimeField(allow_null=True, help_text="When a trial may be made, or a trip by hand ends.")
    by = serializers.CharField(allow_blank=True, help_text="The operator who tripped it; empty: Citadel itself.")
    opened_at = serializers.DateTimeField(allow_null=True)
    canary = CanarySerializer(allow_null=True, help_text="null: not asked yet, or PostgreSQL does not answer.")


class BreakerSerializer(_Schema):
    """A model's breaker: its best endpoint's."""

    status = serializers.CharField(allow_null=True, help_text=f"{_STATES}; null: the model has no endpoint.")
    failure_count = serializers.IntegerField()
    endpoints = EndpointBreakerSerializer(many=True)


class StatusSerializer(_Schema):
    """How the patterns do."""

    patterns = PatternsSerializer()
    circuit_breakers = serializers.DictField(child=BreakerSerializer(), help_text="Model -> its breaker.")
    window_seconds = serializers.IntegerField()
    records_dropped = _count("Calls within the window that these figures lack.")
    degraded = serializers.ListField(
        child=serializers.ChoiceField(["database", "redis"]),
        help_text="database: figures are null. redis: breakers and active requests are this process's own.",
    )
    generated_at = serializers.DateTimeField()


class FiguresSerializer(_Schema):
    """Figures of one mode, or of one endpoint's attempts."""

    requests = serializers.IntegerField()
    # DRF takes fields off the class, so that Serializer.errors is not hidden by this one.
    errors = serializers.DictField(child=serializers.IntegerField(), help_text="Code -> count.")  # type: ignore[assignment]
    success_rate = _number("Percent; errors that are the client's own do not count.")
    mean_ms = _number()
    p50_ms = _number()
    p95_ms = _number()
    p99_ms = _number()
    retries = serializers.IntegerField()
    failovers = serializers.IntegerField()
    texts = serializers.IntegerField(help_text="Of those that succeeded.")


class ModesSerializer(_Schema):
    """Live calls, submissions, and upstream calls made for queued texts."""

    live = FiguresSerializer()
    queued = FiguresSerializer()
    bulk = FiguresSerializer()


class RequestFiguresSerializer(FiguresSerializer):
    """Figures of clients' requests, live and queued."""

    latency_of = serializers.ChoiceField(
        ["live", "bulk"], allow_null=True, help_text="Which calls the latencies are of; bulk where none was live."
    )
    batches = serializers.IntegerField(help_text="Accepted by the queue.")
    modes = ModesSerializer()


class CacheFiguresSerializer(_Schema):
    """Texts of live calls for one model: from the cache, and not."""

    hits = serializers.IntegerField()
    misses = serializers.IntegerField()
    hit_rate = _number("Percent.")


class EndpointFiguresSerializer(FiguresSerializer):
    """Figures of the attempts at one endpoint."""

    model = serializers.CharField()
    endpoint = serializers.CharField()


class WindowSerializer(_Schema):
    """Figures of one window."""

    seconds = serializers.IntegerField()
    since = serializers.DateTimeField()
    records_dropped = serializers.IntegerField()
    patterns = serializers.DictField(child=RequestFiguresSerializer())
    models = serializers.DictField(child=RequestFiguresSerializer())
    endpoints = EndpointFiguresSerializer(many=True)
    cache = serializers.DictField(child=CacheFiguresSerializer(), help_text="Models with a cache.")


class MetricsSerializer(_Schema):
    """Figures by window."""

    generated_at = serializers.DateTimeField()
    windows = serializers.DictField(child=WindowSerializer(), help_text="5m, 1h and 24h, or the one asked for.")


_TAGS: Final = ["status"]


def _window(default: str) -> OpenApiParameter:
    text = f"From 60 seconds to 24 hours, as 300, 5m, 1h or 24h. Default: {default}."
    return OpenApiParameter("window", str, description=text)


status = extend_schema(
    operation_id="patterns_status",
    summary="How the patterns do, and every breaker",
    description="Needs the scope `read`. Read from rollups: asking often costs little.",
    tags=_TAGS,
    parameters=[_window("5m"), REQUEST_ID],
    responses={
        **json_response(200, StatusSerializer, "As of now and of the window."),
        **problem_responses(errors.InvalidRequest),
    },
)
metrics = extend_schema(
    operation_id="patterns_metrics",
    summary="Requests, errors and latencies by pattern, model and endpoint",
    description="Needs the scope `read`.",
    tags=_TAGS,
    parameters=[_window("all of 5m, 1h and 24h"), REQUEST_ID],
    responses={
        **json_response(200, MetricsSerializer, "The windows."),
        **problem_responses(errors.InvalidRequest, errors.Unavailable),
    },
)
prometheus = extend_schema(
    operation_id="prometheus_metrics",
    summary="The same for Prometheus",
    description="Needs the scope `read`: give Prometheus a key as its `authorization` credentials.",
    tags=_TAGS,
    parameters=[REQUEST_ID],
    responses={
        (200, "text/plain"): OpenApiResponse(str, description="Prometheus's text format, version 0.0.4."),
        **problem_responses(),
    },
)
