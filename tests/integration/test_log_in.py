"""The console's log-in: what it counts, whom it lets wait, and what it keeps."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client, RequestFactory
from django.utils import timezone

from citadel import log_in
from citadel.models import LogInAttempt
from tests.made_batches import at_once

PAGE = "/admin/login/"


@pytest.fixture(autouse=True)
def quick(settings: Any) -> None:
    settings.WHITENOISE_AUTOREFRESH = True
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def ann(db: None) -> User:
    return User.objects.create_superuser("ann", password="right horse battery")


def attempt(name: str = "ann", password: str = "wrong", *, address: str = "192.0.2.1") -> Any:
    return Client().post(PAGE, {"username": name, "password": password}, REMOTE_ADDR=address)


def throttled(answer: Any) -> bool:
    return b"Too many failed attempts. Try again in" in answer.content


def test_after_five_failures_even_the_right_password_has_to_wait(ann: User) -> None:
    assert [throttled(attempt()) for _ in range(6)] == [False] * 5 + [True]
    assert throttled(attempt(password="right horse battery"))
    assert throttled(attempt("ANN"))
    # Not for somebody else's address: a stranger cannot lock an operator out.
    assert attempt(password="right horse battery", address="192.0.2.2").status_code == 302


def test_the_time_passes_and_a_success_forgets(ann: User) -> None:
    for _ in range(4):
        attempt()
    assert attempt(password="right horse battery").status_code == 302
    assert not LogInAttempt.objects.exists()
    for _ in range(5):
        attempt()
    LogInAttempt.objects.update(at=timezone.now() - log_in.WINDOW + timedelta(minutes=2))
    assert b"Try again in 2 minutes." in attempt().content
    LogInAttempt.objects.update(at=timezone.now() - log_in.WINDOW)
    assert attempt(password="right horse battery").status_code == 302


def test_one_address_may_not_try_many_names_nor_many_addresses_one_name(ann: User) -> None:
    assert [throttled(attempt(f"name-{n}")) for n in range(21)] == [False] * 20 + [True]
    LogInAttempt.objects.all().delete()
    for n in range(100):
        log_in.begin("ann", f"198.51.100.{n}")
    assert throttled(attempt(address="203.0.113.1"))


@pytest.mark.django_db(transaction=True)
def test_attempts_at_the_same_moment_are_all_counted() -> None:
    outcomes = at_once(*[lambda: log_in.begin("ann", "192.0.2.1")] * 12)
    assert sum(isinstance(outcome, ValidationError) for outcome in outcomes) == 7


def test_neither_name_nor_password_nor_address_is_kept(ann: User) -> None:
    attempt("a password typed too early", "and the other")
    kept = str(LogInAttempt.objects.values().get())
    for word in ("password", "typed", "other", "192.0.2"):
        assert word not in kept


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, "203.0.113.9", "192.0.2.1"),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "made-up, 203.0.113.9", "203.0.113.9"),
        (2, "made-up, 203.0.113.9, 10.0.0.1", "203.0.113.9"),
        (1, "", "192.0.2.1"),
    ],
)
def test_a_made_up_forwarded_address_is_not_believed(settings: Any, proxies: int, forwarded: str, address: str) -> None:
    settings.PROXIES = proxies
    request = RequestFactory().post(PAGE, REMOTE_ADDR="192.0.2.1", headers={"X-Forwarded-For": forwarded})
    assert log_in.address_of(request) == address
