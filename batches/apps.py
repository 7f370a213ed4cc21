"""Everything about queued work."""

from django.apps import AppConfig


class BatchesConfig(AppConfig):
    """Batches, chunks, workers."""

    name = "batches"
    verbose_name = "Queue"
