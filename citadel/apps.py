"""The composition root and quickstart."""

from django.apps import AppConfig


class CitadelConfig(AppConfig):
    """Ties integrations and batches together."""

    name = "citadel"
