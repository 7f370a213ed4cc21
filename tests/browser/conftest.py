"""A real browser before real processes. Debian's chromium; .ci/run installs it where it is missing."""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group, User
from django.db import connection
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.operators import Staff
from tests.processes import Stack

CHROMIUM = "/usr/bin/chromium"
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
UNSAFE = "DJANGO_ALLOW_ASYNC_UNSAFE"
PATIENCE_MS = 30_000
expect.set_options(timeout=20_000)  # a busy machine is slow, and what is waited for comes by itself

PASSWORD = "correct horse battery"


@functools.cache
def hashed() -> str:
    """PASSWORD as it is stored; hashing it takes half a second."""
    return make_password(PASSWORD)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for a module's tests; each has contexts of its own.

    Playwright's event loop runs in this thread: Django would take every query of ours for one on an event loop, and no
    other module's tests may find that loop.
    """
    os.environ[UNSAFE] = "true"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=QUIET)
            yield browser
            browser.close()
    finally:
        del os.environ[UNSAFE]


class Operator:
    """Somebody at a browser: what the page complained about is kept, and must be nothing at the end."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context, self.url = context, url
        self.complaints: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("console", lambda message: self._heard(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _heard(self, kind: str, text: str) -> None:
        # A request that fails as the test means it to is no complaint about the page.
        if kind == "error" and not re.search(
            r"Failed to load resource|^htmx:\w+$|htmx:(response|send)Error|Response Status", text
        ):
            self.complaints.append(text)

    def go(self, path: str) -> Page:
        """Open a page."""
        self.page.goto(self.url + path)
        return self.page

    def log_in(self, name: str = "ada") -> Page:
        """Log in on the page that is open."""
        self.page.fill("[name=username]", name)
        self.page.fill("[name=password]", PASSWORD)
        self.page.click("#login-form button[type=submit]")
        self.page.wait_for_url(lambda url: "/login/" not in url)
        return self.page


@pytest.fixture
def users(stack: Stack) -> Iterator[None]:
    """ada may do everything, vic may only look."""
    stack.common[UNSAFE] = ""  # for this process alone
    User.objects.create(username="ada", password=hashed(), is_staff=True, is_superuser=True)
    vic = User.objects.create(username="vic", password=hashed(), is_staff=True)
    vic.groups.add(Group.objects.get(name="viewer"))
    yield
    with connection.cursor() as cursor:
        for table in ("auth_user_groups", "auth_user", "django_session"):
            cursor.execute(f'DELETE FROM "{table}"')


Sit = Callable[..., Operator]


@pytest.fixture
def sit(browser: Browser, users: None) -> Iterator[Sit]:
    """`sit(url, width=…, scheme=…)` seats an operator; at the end no page may have complained."""
    with contextlib.ExitStack() as seats:
        seated: list[Operator] = []

        def seat(url: str, *, width: int = 1280, scheme: str = "light", **options: Any) -> Operator:
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme, timezone_id="Asia/Tokyo", **options
            )
            seats.callback(context.close)
            context.set_default_timeout(20_000)
            seated.append(Operator(context, url))
            return seated[-1]

        yield seat
        assert [complaint for one in seated for complaint in one.complaints] == []


class Console:
    """The console of one web process; each operator has a browser profile of their own."""

    def __init__(self, browser: Browser, stack: Stack, staff: Staff) -> None:
        self.browser, self.staff = browser, staff
        # Only this test may be so careless as to use the ORM beside an event loop.
        self.process, self.url = stack.web(DJANGO_ALLOW_ASYNC_UNSAFE="")
        # What a page complained about; the test fails if there is anything.
        self.complaints: list[str] = []

    def page(self, name: str, role: str = "", *, width: int = 1280, dark: bool = False) -> Page:
        """Return an empty page of this operator, logged in: a superuser, or with a role."""
        scheme = "dark" if dark else "light"
        context = self.browser.new_context(
            base_url=self.url, viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        context.set_default_timeout(PATIENCE_MS)
        context.add_cookies([{"name": "sessionid", "value": self.staff.session(name, role), "url": self.url}])
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        return page


@pytest.fixture
def console(browser: Browser, stack: Stack, staff: Staff) -> Iterator[Console]:
    """The console of a web process on the stack's database."""
    opened = Console(browser, stack, staff)
    yield opened
    assert opened.complaints == []
