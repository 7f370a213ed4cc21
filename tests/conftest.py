"""Real PostgreSQL and Redis for every test, in databases that only this run uses.

Those on 127.0.0.1:5432 and :6379 (or of TEST_DATABASE_URL and TEST_REDIS_URL) where they answer; else both from wheels,
for as long as the run lasts. TEST_SERVERS=embedded takes the latter in any case.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import environ
import psycopg2
import pytest
import redis
from django.conf import settings
from django.db import connections
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from citadel.quickstart import embedded

pytest_plugins = (
    "tests.fixtures_console",
    "tests.fixtures_records",
    "tests.processes",
    "tests.operators",
    "tests.fixtures_files",
)

# No test judges speed: in a fresh clone on a busy machine the first text alone takes seconds to draw.
hypothesis_settings.register_profile("citadel", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("citadel")

PG_URL = os.environ.get("TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS_SERVER = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379")
STARTED = contextlib.ExitStack()
# The storm lasts a minute and more; the others of these start processes or ask for every page.
LONGEST = ("test_storm.py", "tests/acceptance/", "tests/browser/", "tests/access/")


def _both_answer() -> bool:
    try:
        psycopg2.connect(PG_URL, connect_timeout=3).close()
        with redis.Redis.from_url(f"{REDIS_SERVER}/0", socket_connect_timeout=3) as client:
            client.ping()
    except (psycopg2.Error, redis.RedisError):
        return False
    return True


def _start_both() -> tuple[str, str]:
    """Start both; return their addresses. Their password goes to libpq through its own variable."""
    folder = tempfile.mkdtemp(prefix="citadel-tests-")
    STARTED.callback(shutil.rmtree, folder, ignore_errors=True)
    servers = STARTED.enter_context(embedded.running(Path(folder)))
    os.environ["PGPASSWORD"] = servers.password
    return (
        f"postgresql://postgres@127.0.0.1:{servers.postgres_port}/postgres",
        f"redis://:{servers.password}@127.0.0.1:{servers.redis_port}",
    )


def _claim_redis_db() -> int:
    """Take one of the databases 1 to 15 for an hour; 0 holds only who took which."""
    with redis.Redis.from_url(f"{REDIS_SERVER}/0") as ledger:
        for number in range(1, 16):
            if ledger.set(f"citadel:tests:{number}", os.getpid(), nx=True, ex=3600):
                return number
    raise RuntimeError("Redis databases 1 to 15 are all taken by other test runs")


if os.environ.get("TEST_SERVERS") == "embedded" or not _both_answer():
    PG_URL, REDIS_SERVER = _start_both()
REDIS_DB = _claim_redis_db()
os.environ["DATABASE_URL"] = PG_URL
os.environ["REDIS_URL"] = f"{REDIS_SERVER}/{REDIS_DB}"
os.environ["TEST_DATABASE_NAME"] = f"citadel_test_{os.getpid()}"


def pytest_unconfigure() -> None:
    """Give the Redis database back, empty, and stop what this run has started."""
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as used:
        used.flushdb()
    with redis.Redis.from_url(f"{REDIS_SERVER}/0") as ledger:
        ledger.delete(f"citadel:tests:{REDIS_DB}")
    STARTED.close()


def pytest_configure() -> None:
    """Settings are read before this file is: point them at what this run has claimed."""
    settings.REDIS_URL = os.environ["REDIS_URL"]
    for queue in settings.RQ_QUEUES.values():
        queue["URL"] = settings.REDIS_URL
    settings.OPENAI_FILES_DIR = Path(STARTED.enter_context(tempfile.TemporaryDirectory(prefix="citadel-files-")))
    settings.STORAGES["client_files"]["OPTIONS"]["location"] = str(settings.OPENAI_FILES_DIR)
    found = environ.Env.db_url_config(PG_URL)
    connections.settings["default"].update({name: found[name] for name in ("HOST", "PORT", "USER", "PASSWORD", "NAME")})


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the files with the longest tests first: what is left for the end is short, and no processor idles then.

    pytest-xdist keeps this order with --no-loadscope-reorder; within each group the order stays the random one.
    """
    items.sort(key=lambda item: next((n for n, folder in enumerate(LONGEST) if folder in item.nodeid), len(LONGEST)))


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    connections.settings["default"]["TEST"]["NAME"] = os.environ["TEST_DATABASE_NAME"]


@pytest.fixture
def redis_db() -> Iterator["redis.Redis"]:
    """This run's Redis database, empty before and after."""
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    client.flushdb()
    yield client
    client.flushdb()
    client.close()
