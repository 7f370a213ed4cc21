"""The documents of files and batches, for the OpenAPI schema."""

from rest_framework import serializers

from batches.models import FileBatch, StoredFile


class ExpiresAfterSerializer(serializers.Serializer[None]):
    """When a file is deleted by itself."""

    anchor = serializers.ChoiceField(["created_at"])
    seconds = serializers.IntegerField(min_value=3600, max_value=2_592_000)


class UploadSerializer(serializers.Serializer[None]):
    """What to upload."""

    file = serializers.FileField(help_text="JSON lines, see docs/openai.md.")
    purpose = serializers.ChoiceField(["batch"])


class FileSerializer(serializers.Serializer[None]):
    """A file."""

    id = serializers.CharField()
    object = serializers.CharField(help_text="file")
    bytes = serializers.IntegerField()
    created_at = serializers.IntegerField(help_text="Seconds since 1970.")
    expires_at = serializers.IntegerField(allow_null=True)
    filename = serializers.CharField()
    purpose = serializers.ChoiceField(StoredFile.Purpose.values)
    status = serializers.CharField(help_text="processed")


class FileDeletedSerializer(serializers.Serializer[None]):
    """A file that is gone."""

    id = serializers.CharField()
    object = serializers.CharField(help_text="file")
    deleted = serializers.BooleanField()


class _PageSerializer(serializers.Serializer[None]):
    object = serializers.CharField(help_text="list")
    first_id = serializers.CharField(allow_null=True)
    last_id = serializers.CharField(allow_null=True, help_text="Send it as `after` for the next page.")
    has_more = serializers.BooleanField()


class FileListSerializer(_PageSerializer):
    """A page of files."""

    data = FileSerializer(many=True)  # type: ignore[assignment]  # the metaclass takes it out of the class


class BatchRequestSerializer(serializers.Serializer[None]):
    """A batch to be made of an uploaded file."""

    input_file_id = serializers.CharField()
    endpoint = serializers.ChoiceField(["/v1/embeddings"])
    completion_window = serializers.CharField(help_text="24h, or shorter as 6h or 30m.")
    metadata = serializers.DictField(child=serializers.CharField(), required=False, allow_null=True)
    output_expires_after = ExpiresAfterSerializer(required=False, allow_null=True)


class LineErrorSerializer(serializers.Serializer[None]):
    """Why a line cannot be taken."""

    code = serializers.CharField()
    message = serializers.CharField()
    param = serializers.CharField(allow_null=True)
    line = serializers.IntegerField(allow_null=True, help_text="From 1.")


class LineErrorsSerializer(serializers.Serializer[None]):
    """What is wrong with a file: the first hundred faults."""

    object = serializers.CharField(help_text="list")
    data = LineErrorSerializer(many=True)  # type: ignore[assignment]  # the metaclass takes it out of the class


class RequestCountsSerializer(serializers.Serializer[None]):
    """Lines."""

    total = serializers.IntegerField()
    completed = serializers.IntegerField()
    failed = serializers.IntegerField()


class BatchExtensionSerializer(serializers.Serializer[None]):
    """What OpenAI has no word for."""

    batches = serializers.ListField(child=serializers.CharField(), help_text="Its batches in the queue, one a group.")
    texts = serializers.IntegerField(help_text="A line may hold several.")
    waits_for = serializers.CharField(allow_null=True, help_text="Why its lines are not read yet, or not written.")


class FileBatchSerializer(serializers.Serializer[None]):
    """A batch."""

    id = serializers.CharField()
    object = serializers.CharField(help_text="batch")
    endpoint = serializers.CharField()
    model = serializers.CharField(allow_null=True, help_text="null where its lines name several.")
    errors = LineErrorsSerializer(allow_null=True)  # type: ignore[assignment]  # as above
    input_file_id = serializers.CharField()
    completion_window = serializers.CharField()
    status = serializers.ChoiceField(FileBatch.State.values)
    output_file_id = serializers.CharField(allow_null=True)
    error_file_id = serializers.CharField(allow_null=True)
    created_at = serializers.IntegerField()
    in_progress_at = serializers.IntegerField(allow_null=True)
    expires_at = serializers.IntegerField(allow_null=True)
    finalizing_at = serializers.IntegerField(allow_null=True)
    completed_at = serializers.IntegerField(allow_null=True)
    failed_at = serializers.IntegerField(allow_null=True)
    expired_at = serializers.IntegerField(allow_null=True)
    cancelling_at = serializers.IntegerField(allow_null=True)
    cancelled_at = serializers.IntegerField(allow_null=True)
    request_counts = RequestCountsSerializer()
    metadata = serializers.DictField(child=serializers.CharField(), allow_null=True)
    citadel = BatchExtensionSerializer()


class FileBatchListSerializer(_PageSerializer):
    """A page of batches, the newest first."""

    data = FileBatchSerializer(many=True)  # type: ignore[assignment]  # the metaclass takes it out of the class
