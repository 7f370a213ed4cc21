"""`python -m citadel.quickstart.prepare`: tables, the nine models and the operator's account, before Citadel starts.

One process for all three: each start of Django costs half a second.
"""

import os

import django
from django.contrib.auth import get_user_model
from django.core.management import call_command

OPERATOR = "operator"
PASSWORD = "CITADEL_OPERATOR_PASSWORD"  # nosec B105 # the variable's name


def prepare() -> bool:
    """Bring the database up to date; return whether the operator's password is the one given."""
    call_command("migrate", verbosity=0)
    call_command("sync_models")
    return ensure_operator(os.environ[PASSWORD])


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
