"""Records belong to one test: whatever it recorded is written or gone, and the writer's connection closed, after it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from integrations import recorder
from integrations.calls import Call
from integrations.patterns import Attempt

PHI3 = "http://127.0.0.1:11403"
REPLICA = "http://127.0.0.1:11413"


@pytest.fixture
def records(transactional_db: None) -> Iterator[None]:
    """For tests whose calls are to be written: stops the writer before the tables are emptied."""
    yield
    recorder.stop()


def a_call(**fields: Any) -> Call:
    """Return a live call of phi3 that succeeded at its first attempt; `fields` make it another."""
    given = {
        "started_at": datetime.now(UTC),
        "request_id": "req-1",
        "client": "team-a",
        "model": "phi3",
        "pattern": "real_time",
        "mode": "live",
        "code": "ok",
        "duration_ms": 85.2,
        "texts": 1,
        "endpoint": PHI3,
    } | fields
    if "attempts" not in given and given["endpoint"]:
        given["attempts"] = (Attempt(endpoint=given["endpoint"], outcome=given["code"], ms=given["duration_ms"]),)
    return Call(**given)
