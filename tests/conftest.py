"""Real PostgreSQL and Redis for every test, in databases that only this run uses."""

import os
from collections.abc import Iterator

import pytest
import redis

PG_URL = os.environ.get("TEST_DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS_SERVER = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379")


def _claim_redis_db() -> int:
    """Take one of the databases 1 to 15 for an hour; 0 holds only who took which."""
    ledger = redis.Redis.from_url(f"{REDIS_SERVER}/0")
    for number in range(1, 16):
        if ledger.set(f"citadel:tests:{number}", os.getpid(), nx=True, ex=3600):
            return number
    raise RuntimeError("Redis databases 1 to 15 are all taken by other test runs")


REDIS_DB = _claim_redis_db()
os.environ["DATABASE_URL"] = PG_URL
os.environ["REDIS_URL"] = f"{REDIS_SERVER}/{REDIS_DB}"
os.environ["TEST_DATABASE_NAME"] = f"citadel_test_{os.getpid()}"


def pytest_unconfigure() -> None:
    """Give the Redis database back, empty."""
    redis.Redis.from_url(os.environ["REDIS_URL"]).flushdb()
    redis.Redis.from_url(f"{REDIS_SERVER}/0").delete(f"citadel:tests:{REDIS_DB}")


@pytest.fixture(scope="session")
def django_db_modify_db_settings() -> None:
    from django.conf import settings

    settings.DATABASES["default"]["TEST"] = {"NAME": os.environ["TEST_DATABASE_NAME"]}


@pytest.fixture
def redis_db() -> Iterator["redis.Redis"]:
    """This run's Redis database, empty before and after."""
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    client.flushdb()
    yield client
    client.flushdb()
    client.close()
