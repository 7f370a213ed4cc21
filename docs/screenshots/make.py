"""Take the pictures of this folder from a real Citadel: python docs/screenshots/make.py

Needs PostgreSQL and Redis (TEST_DATABASE_URL and TEST_REDIS_URL, as the tests do) and Debian's chromium. It makes a
database of its own, fills it with sample data, starts the web server and a worker, and removes all of it again. With
`--all DIR` it also takes every page, wide and narrow, light and dark, empty and with data, for a look at each of them.
"""

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import psycopg2
from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
POSTGRES = os.environ.get("TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379") + "/15"
LARGEST = 300_000  # bytes of a picture
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ARGS += ["--disable-component-update", "--disable-sync"]
SLUGS = ("phi3", "general", "openchat", "hermes", "mixtral", "yi34", "deepcoder", "imp", "deepseek")
PASSWORD = "only for pictures"
# name -> page; the call and the audit entry are the newest ones.
CALLS, AUDIT = "/admin/integrations/callrecord/", "/admin/integrations/auditentry/"
MODELS, BATCHES = "/admin/integrations/modelconfig/", "/admin/batches/batchjob/"
PAGES = {
    "dashboard": "/admin/",
    "breakers": "/admin/breakers/",
    "trip": "/admin/breakers/trip/?endpoint=1&endpoint=3",
    "models": MODELS,
    "model": f"{MODELS} -> first",
    "model-new": f"{MODELS}add/",
    "batches": BATCHES,
    "batch": f"{BATCHES}?state=completed -> first",
    "batch-failed": f"{BATCHES}?state=failed -> first",
    "queue": "/admin/batches/workerheartbeat/queue/",
    "rq": "/admin/django_rq/dashboard/",
    "calls": CALLS,
    "call": f"{CALLS}?outcome=upstream_failed&model=phi3 -> first",
    "transitions": "/admin/integrations/breakerevent/",
    "audit": AUDIT,
    "audit-entry": f"{AUDIT} -> first",
    "canaries": "/admin/integrations/canary/",
    "file-batches": "/admin/batches/filebatch/",
    "keys": "/admin/integrations/apikey/",
    "key-new": "/admin/integrations/apikey/add/",
    "users": "/admin/auth/user/",
}
# Those that the documentation shows: name, width, scheme.
SHOWN = (
    ("dashboard", 1280, "light"),
    ("dashboard", 1280, "dark"),
    ("dashboard", 390, "light"),
    ("breakers", 1280, "light"),
    ("trip", 1280, "light"),
    ("calls", 1280, "dark"),
    ("call", 1280, "light"),
    ("audit-entry", 1280, "light"),
)


@contextlib.contextmanager
def database() -> Iterator[str]:
    """A database of our own."""
    name = f"citadel_pictures_{os.getpid()}"
    server = psycopg2.connect(POSTGRES)
    server.autocommit = True
    with server.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        try:
            yield POSTGRES.rsplit("/", 1)[0] + f"/{name}"
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
            server.close()


@contextlib.contextmanager
def running(*command: str, env: dict[str, str]) -> Iterator[None]:
    """A process for as long as it is needed."""
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(15)


@contextlib.contextmanager
def model_servers(env: dict[str, str]) -> Iterator[dict[str, str]]:
    """Two servers that answer for every model; phi3 has both. Yields what sync_models makes of them."""
    ports = [str(free_port()) for _ in range(2)]
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(running(sys.executable, "-m", "tests.upstreams", "--port", port, env=env))
        first, second = (f"http://127.0.0.1:{port}" for port in ports)
        yield {f"{slug.upper()}_ENDPOINT": first for slug in SLUGS} | {"PHI3_ENDPOINT": f"{first},{second}"}


def manage(env: dict[str, str], *arguments: str) -> None:
    """Run a command of manage.py."""
    subprocess.run([sys.executable, "manage.py", *arguments], cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str) -> None:
    """Wait until the web server answers."""
    for _ in range(300):
        with contextlib.suppress(OSError), urlopen(f"{url}/health/live", timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer")


def open_page(browser: Browser, url: str, *, width: int, scheme: str) -> Page:
    """A page of an operator who is logged in."""
    size = {"width": width, "height": 800}
    context = browser.new_context(viewport=size, color_scheme=scheme, timezone_id="Europe/Berlin")  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{url}/admin/login/")
    page.fill("[name=username]", "ada")
    page.fill("[name=password]", PASSWORD)
    page.click("#login-form button[type=submit]")
    page.wait_for_url(lambda address: "/login/" not in address)
    return page


def take(page: Page, url: str, name: str, to: Path) -> None:
    """Open the page called `name` and take its picture."""
    address, _, first = PAGES[name].partition(" -> ")
    page.goto(url + address)
    if first and page.locator("#result_list tbody a").count():
        page.locator("#result_list tbody a").first.click()
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(700)
    page.screenshot(path=to, full_page=name == "dashboard")
    size = to.stat().st_size
    print(f"{to.name}: {size // 1000} kB")
    if size > LARGEST:
        raise SystemExit(f"{to} is over {LARGEST} bytes")


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", metavar="DIR", type=Path, help="every page in every form, into this folder")
    folder = parser.parse_args().all
    with contextlib.ExitStack() as stack:
        port, state = free_port(), stack.enter_context(tempfile.TemporaryDirectory())
        env = {**os.environ, "DATABASE_URL": stack.enter_context(database()), "REDIS_URL": REDIS}
        env |= {"SECRET_KEY": "pictures", "CITADEL_STATE_DIR": state, "DJANGO_SUPERUSER_PASSWORD": PASSWORD}
        env |= stack.enter_context(model_servers(env))
        manage(env, "migrate")
        manage(env, "createsuperuser", "--noinput", "--username", "ada", "--email", "ada@example.com")
        web = (sys.executable, "-m", "granian", "citadel.asgi:application", "--interface", "asgi")
        stack.enter_context(running(*web, "--host", "127.0.0.1", "--port", str(port), env=env))
        url = f"http://127.0.0.1:{port}"
        wait_for(url)
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", headless=True, args=ARGS)
        if folder:
            each_form(browser, url, folder, "empty")
        manage(env, "sync_models")
        manage(env, "load_sample_data", "--calls", "60000", "--batches", "400", "--days", "1")
        for kind in ("worker", "scheduler"):
            stack.enter_context(running(sys.executable, "manage.py", kind, env=env))
        page = open_page(browser, url, width=1280, scheme="light")
        trip(page, url)
        page.wait_for_timeout(5000)  # the worker says that it is there
        for name, width, scheme in SHOWN:
            page = open_page(browser, url, width=width, scheme=scheme)
            take(page, url, name, HERE / f"{name}-{width}-{scheme}.png")
            page.context.close()
        if folder:
            each_form(browser, url, folder, "data")
        browser.close()


def trip(page: Page, url: str) -> None:
    """Something to be seen."""
    page.goto(f"{url}/admin/breakers/trip/?endpoint=2")
    page.fill("[name=reason]", "new GPU")
    page.select_option("[name=lasts]", "60")
    page.click("text=Trip now")
    page.wait_for_url("**/admin/breakers/")


def each_form(browser: Browser, url: str, folder: Path, what: str) -> None:
    """Every page, wide and narrow, light and dark."""
    folder.mkdir(parents=True, exist_ok=True)
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            page = open_page(browser, url, width=width, scheme=scheme)
            for name in PAGES:
                take(page, url, name, folder / f"{name}-{what}-{width}-{scheme}.png")
            page.context.close()


if __name__ == "__main__":
    main()
