"""Operators of a stack's console, logged in without the half second that hashing a password takes.

def test_something(stack: Stack, staff: Staff) -> None:
    process, url = stack.web()
    session = staff.session("vera", role="viewer")     # a cookie's value, for a browser
    vera = staff.client("vera", url)                    # the same over plain HTTP
"""

import importlib
from collections.abc import Iterator

import pytest
import requests
from django.apps import apps
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import Group, User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.test import override_settings

from tests.processes import SECRET_KEY, Stack

ROLES = ("viewer", "operator", "administrator")


def create_roles() -> None:
    """Make the roles as the migrations do, where a test has emptied every table."""
    importlib.import_module("citadel.migrations.0001_roles").create(apps, None)
    for later in ("0003_canaries_role", "0004_files_role"):
        importlib.import_module(f"citadel.migrations.{later}").allow(apps, None)


class Client(requests.Session):
    """A browser's requests without a browser: relative addresses, the session's cookie, the token for forms."""

    def __init__(self, base: str, session: str) -> None:
        super().__init__()
        self.base = base
        self.cookies.set("sessionid", session)
        self.cookies.set("csrftoken", "t" * 32)

    def get_page(self, address: str) -> requests.Response:
        """GET an address of the console; redirects are not followed."""
        return self.get(self.base + address, allow_redirects=False, timeout=30)

    def submit(self, address: str, **fields: object) -> requests.Response:
        """POST a form to an address of the console; redirects are not followed."""
        data = {"csrfmiddlewaretoken": "t" * 32, **fields}
        return self.post(self.base + address, data=data, allow_redirects=False, timeout=30)


class Staff:
    """The users of one stack."""

    def user(self, name: str, role: str = "") -> User:
        """Return the user, made on first use: with a role, or a superuser."""
        found = User.objects.filter(username=name).first()
        if found is None:
            found = User.objects.create(username=name, is_staff=True, is_superuser=not role)
            found.groups.set(Group.objects.filter(name=role))
        return found

    def session(self, name: str, role: str = "") -> str:
        """Log the user in; return the session's id."""
        user = self.user(name, role)
        with override_settings(SECRET_KEY=SECRET_KEY):
            store = SessionStore()
            store[SESSION_KEY] = str(user.pk)
            store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
            store[HASH_SESSION_KEY] = user.get_session_auth_hash()
            store.create()
        return str(store.session_key)

    def client(self, name: str, base: str, role: str = "") -> Client:
        """Log the user in over plain HTTP."""
        return Client(base, self.session(name, role))


@pytest.fixture
def staff(stack: Stack) -> Iterator[Staff]:
    """Users of the stack's console; removed with the test."""
    yield Staff()
    Session.objects.all().delete()
    User.objects.all().delete()
