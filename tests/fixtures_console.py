"""What tests of the console's pages share: a superuser's client, and pages as words."""

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client


@pytest.fixture(autouse=True)
def static_files_unread(settings: Any) -> None:
    """Each test client makes its own middleware; without this it would read every static file first (a second)."""
    settings.WHITENOISE_AUTOREFRESH = True


@pytest.fixture
def operator(db: None) -> Client:
    """A client of somebody who may do everything."""
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))  # no password: hashing one takes half a second
    return client


def words(answer: Any) -> str:
    """An answer's words, without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.content.decode()))
