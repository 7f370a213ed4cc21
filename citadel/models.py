"""What only the console keeps."""

from typing import ClassVar

from django.db import models


class LogInAttempt(models.Model):
    """An attempt to log in that has not succeeded. Its name is kept as a digest: people type passwords there."""

    at = models.DateTimeField()
    name = models.CharField(max_length=64)
    address = models.CharField(max_length=64)

    class Meta:
        default_permissions = ()
        indexes: ClassVar = [
            models.Index(fields=["name", "at"], name="log_in_name"),
            models.Index(fields=["address", "at"], name="log_in_address"),
            models.Index(fields=["at"], name="log_in_at"),
        ]

    def __str__(self) -> str:
        return f"{self.at:%F %T}"
