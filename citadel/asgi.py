"""The ASGI application: the live door, and Django behind it."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "citadel.settings")
# First: the door's own imports need the applications loaded.
django_application = get_asgi_application()

from integrations.live import LiveDoor  # noqa: E402

application = LiveDoor(django_application)
