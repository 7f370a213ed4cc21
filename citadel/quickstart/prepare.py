"""`python -m citadel.quickstart.prepare`: tables, models, an account and a key, before Citadel starts.

One process for all of it: each start of Django costs half a second.
"""

import os

import django
from django.contrib.auth import get_user_model
from django.core.management import call_command

from integrations.values import hash_key

OPERATOR = "operator"
CLIENT = "quickstart"
API_KEY = "CITADEL_QUICKSTART_KEY"
PASSWORD = "CITADEL_OPERATOR_PASSWORD"  # nosec B105 # the variable's name


def prepare() -> bool:
    """Bring the database up to date; return whether the operator's password is the one given."""
    call_command("migrate", verbosity=0)
    call_command("sync_models")
    ensure_key(os.environ[API_KEY])
    return ensure_operator(os.environ[PASSWORD])


def ensure_key(key: str) -> None:
    """Make the key for clients that cannot do without one. One that was revoked stays so."""
    from integrations import operations  # noqa: PLC0415 - needs the apps loaded, which this module's names do not
    from integrations.models import ApiKey  # noqa: PLC0415

    if not ApiKey.objects.filter(hash=hash_key(key)).exists():
        operations.create_key(CLIENT, ApiKey.Scope.values, actor="manage.py quickstart", key=key)


def ensure_operator(password: str) -> bool:
    """Make the operator's account where there is none; return whether `password` opens it.

    A password that was changed in the admin stays.
    """
    users = get_user_model()._default_manager
    found = users.filter(username=OPERATOR).first()
    if found is None:
        get_user_model().objects.create_superuser(OPERATOR, password=password)
        return True
    return found.check_password(password)


if __name__ == "__main__":
    django.setup()
    raise SystemExit(0 if prepare() else 3)
