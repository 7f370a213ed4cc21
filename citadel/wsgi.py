"""The WSGI application, for servers without ASGI: everything works, live calls pay for Django's way."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "citadel.settings")
application = get_wsgi_application()
