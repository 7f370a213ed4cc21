"""The documents of the API, for the OpenAPI schema; bodies.py writes them and embed_request.py reads them."""

from django.conf import settings
from rest_framework import serializers

from integrations.patterns import Pattern


class ProblemSerializer(serializers.Serializer[None]):
    """RFC 9457 problem; docs/errors.md has every code."""

    type = serializers.CharField(help_text="Address of the code's description, relative to this server.")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    code = serializers.CharField()
    request_id = serializers.CharField()
    # DRF takes fields off the class, so that Serializer.errors is not hidden by this one.
    errors = serializers.DictField(  # type: ignore[assignment]
        child=serializers.ListField(child=serializers.CharField()),
        required=False,
        help_text="For a body that is not valid: field (as in texts.3) -> what is wrong with it.",
    )


class EmbedOptionsSerializer(serializers.Serializer[None]):
    """What a request says besides its texts."""

    urgent = serializers.BooleanField(required=False, help_text="true: answer now. false: may wait in the queue.")
    batch = serializers.BooleanField(required=False, help_text="true: always queue.")
    pattern = serializers.ChoiceField(
        [str(p) for p in Pattern], required=False, help_text="By default the first of the model's that accepts."
    )
    input_type = serializers.ChoiceField(["query", "passage"], required=False)
    priority = serializers.IntegerField(
        min_value=0, max_value=9, default=5, required=False, help_text="Order of queued work; 9 goes first."
    )
    callback_url = serializers.CharField(
        required=False, help_text="https:// address that is told when the queued work has ended; see docs/callbacks.md."
    )


class EmbedRequestSerializer(EmbedOptionsSerializer):
    """Exactly one of `text` and `texts`."""

    text = serializers.CharField(required=False, help_text=f"At most {settings.MAX_TEXT_BYTES} bytes of UTF-8.")
    texts = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text=f"At most {settings.LIVE_MAX_TEXTS} live, {settings.QUEUED_MAX_TEXTS} queued.",
    )
    client_metadata = serializers.DictField(
        child=serializers.CharField(), required=False, help_text="At most 16 short strings, kept with a batch."
    )


class LineSerializer(serializers.Serializer[None]):
    """One line of an NDJSON body."""

    text = serializers.CharField()


class LiveMetadataSerializer(serializers.Serializer[None]):
    """How a live answer came about."""

    pattern_type = serializers.CharField()
    urgent = serializers.BooleanField()
    processed_at = serializers.DateTimeField()
    request_id = serializers.CharField()
    attempts = serializers.IntegerField(help_text="Exchanges with model servers that this answer took.")
    dimensions = serializers.IntegerField()
    upstream_model = serializers.CharField()
    cached = serializers.BooleanField()
    failover_from = serializers.CharField(required=False, help_text="The endpoint that was asked first and failed.")


class LiveAnswerSerializer(serializers.Serializer[None]):
    """Vectors: `embedding` for `text`, `embeddings` for `texts`, in the order of the texts."""

    embedding = serializers.ListField(child=serializers.FloatField(), required=False)
    embeddings = serializers.ListField(child=serializers.ListField(child=serializers.FloatField()), required=False)
    model = serializers.CharField()
    pattern = serializers.CharField()
    processing_mode = serializers.CharField(required=False, help_text="Only for hybrid: real_time.")
    processing_time_ms = serializers.FloatField()
    endpoint = serializers.CharField(help_text="The model server that answered.")
    metadata = LiveMetadataSerializer()


class QueuedMetadataSerializer(serializers.Serializer[None]):
    """How a request was queued."""

    pattern_type = serializers.CharField()
    urgent = serializers.BooleanField(required=False, help_text="Only for hybrid.")
    batch_size = serializers.IntegerField(required=False, help_text="Only for bulk_only: texts of the batch.")
    queued_at = serializers.DateTimeField()
    request_id = serializers.CharField()


class QueuedAnswerSerializer(serializers.Serializer[None]):
    """A batch that was stored; Location says where to ask for it."""

    status = serializers.CharField(help_text="queued")
    model = serializers.CharField()
    pattern = serializers.CharField()
    processing_mode = serializers.CharField(required=False, help_text="Only for hybrid: bulk.")
    batch_id = serializers.CharField()
    items_count = serializers.IntegerField()
    estimated_completion = serializers.DateTimeField()
    queue_position = serializers.IntegerField()
    metadata = QueuedMetadataSerializer()


class DrillRequestSerializer(serializers.Serializer[None]):
    """Which model's failover to try."""

    model = serializers.CharField()
    simulate_failure = serializers.BooleanField(default=True, required=False)


class DrillStepSerializer(serializers.Serializer[None]):
    """One step of a drill."""

    step = serializers.CharField()
    passed = serializers.BooleanField()
    at = serializers.DateTimeField()
    duration_ms = serializers.FloatField()
    detail = serializers.CharField()


class DrillAnswerSerializer(serializers.Serializer[None]):
    """What a drill found."""

    model = serializers.CharField()
    simulate_failure = serializers.BooleanField()
    failover = serializers.CharField(help_text="What would take over: endpoint, fallback, queue or none_configured.")
    passed = serializers.BooleanField()
    steps = DrillStepSerializer(many=True)
    started_at = serializers.DateTimeField()
    duration_ms = serializers.FloatField()
    request_id = serializers.CharField()


class LiveSerializer(serializers.Serializer[None]):
    """The process answers."""

    status = serializers.CharField()


class ReadySerializer(serializers.Serializer[None]):
    """What of the installation is missing while this process serves live calls."""

    status = serializers.CharField(help_text="ok or degraded")
    degraded = serializers.ListField(child=serializers.CharField())
    checks = serializers.DictField(child=serializers.CharField(), help_text="Part -> ok, failed or unknown.")
    config_version = serializers.IntegerField()
