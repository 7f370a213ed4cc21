"""What a process that serves others must not start with."""

from typing import Final

from django.core.exceptions import ImproperlyConfigured

# As many as `manage.py check --deploy` asks for.
SHORTEST: Final = 50
FEWEST_DIFFERENT: Final = 5
# Django's own mark for a key that came with a sample.
SAMPLE: Final = "django-insecure-"


def refuse_unsafe(*, secret_key: str, debug: bool) -> None:
    """Raise ImproperlyConfigured for a secret that is missing, short or a sample's, and for debug pages."""
    if not secret_key:
        raise ImproperlyConfigured("SECRET_KEY is not set: in production each process would make its own.")
    if len(secret_key) < SHORTEST or len(set(secret_key)) < FEWEST_DIFFERENT or secret_key.startswith(SAMPLE):
        raise ImproperlyConfigured(
            f"SECRET_KEY is too simple: in production it must be {SHORTEST} random characters or more. Make one with "
            "python -c 'import secrets; print(secrets.token_urlsafe(50))'"
        )
    if debug:
        raise ImproperlyConfigured("DEBUG is on: in production its pages would show everybody the settings.")
