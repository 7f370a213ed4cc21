"""The documents of the live part, for the OpenAPI schema."""

from rest_framework import serializers


class ErrorSerializer(serializers.Serializer[None]):
    """What went wrong, as OpenAI says it."""

    message = serializers.CharField()
    type = serializers.CharField(
        help_text="invalid_request_error, authentication_error, permission_error, rate_limit_error or server_error"
    )
    param = serializers.CharField(allow_null=True, help_text="The field that is wrong.")
    code = serializers.CharField(help_text="Citadel's own code: docs/errors.md lists them.")


class OpenAIErrorSerializer(serializers.Serializer[None]):
    """Every error below /v1/."""

    error = ErrorSerializer()


class EmbeddingsRequestSerializer(serializers.Serializer[None]):
    """What to embed."""

    model = serializers.CharField()
    input = serializers.JSONField(
        help_text="A string, or a list of strings. Token ids only for a model that takes them."
    )
    encoding_format = serializers.ChoiceField(["float", "base64"], required=False)
    dimensions = serializers.IntegerField(
        required=False, help_text="Shorter vectors, where the model's servers can give them."
    )
    user = serializers.CharField(required=False, help_text="Taken and not kept.")
    input_type = serializers.ChoiceField(
        ["query", "passage"],
        required=False,
        help_text="Beyond OpenAI: the model's prefix for it.",
    )


class EmbeddingSerializer(serializers.Serializer[None]):
    """One vector."""

    object = serializers.CharField(help_text="embedding")
    index = serializers.IntegerField(help_text="Position of its text, from 0.")
    embedding = serializers.JSONField(help_text="Numbers, or base64 of little-endian float32.")


class UsageSerializer(serializers.Serializer[None]):
    """Tokens as the model server counted them; 0 where it does not say."""

    prompt_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()


class EmbeddingListSerializer(serializers.Serializer[None]):
    """Vectors in the order of the texts."""

    object = serializers.CharField(help_text="list")
    data = EmbeddingSerializer(many=True)  # type: ignore[assignment]  # the metaclass takes it out of the class
    model = serializers.CharField()
    usage = UsageSerializer()


class ModelExtensionSerializer(serializers.Serializer[None]):
    """What OpenAI has no word for."""

    patterns = serializers.ListField(child=serializers.CharField())
    state = serializers.CharField(help_text="available, circuit_open, draining or disabled")
    embeddings = serializers.BooleanField(help_text="Whether /v1/embeddings answers for it.")
    batches = serializers.BooleanField(help_text="Whether /v1/batches takes it.")
    dimensions = serializers.IntegerField(allow_null=True)


class ModelSerializer(serializers.Serializer[None]):
    """A model."""

    id = serializers.CharField()
    object = serializers.CharField(help_text="model")
    created = serializers.IntegerField(help_text="0: not noted.")
    owned_by = serializers.CharField()
    citadel = ModelExtensionSerializer()


class ModelListSerializer(serializers.Serializer[None]):
    """All models."""

    object = serializers.CharField(help_text="list")
    data = ModelSerializer(many=True)  # type: ignore[assignment]  # the metaclass takes it out of the class
