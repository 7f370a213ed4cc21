"""Everything about calling models."""

from django.apps import AppConfig


class IntegrationsConfig(AppConfig):
    """Models, endpoints, breakers, records."""

    name = "integrations"
    verbose_name = "Model servers"

    def ready(self) -> None:
        """Register the system checks."""
        from integrations import checks  # noqa: F401, PLC0415 - registers on import, needs the models loaded
