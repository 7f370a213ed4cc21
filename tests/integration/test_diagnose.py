"""diagnose asks every part by itself, names what is wrong, and shows no secret."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from batches import heartbeats
from citadel.diagnosis import without_password
from integrations import breakers, loop, operations
from integrations.models import Endpoint, ModelConfig, PatternAssignment
from tests.upstreams import Upstream

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_threads(redis_db: Any) -> Iterator[None]:
    root = logging.getLogger()
    level = root.level  # which the command settles for a process of its own
    yield
    root.setLevel(level)
    loop.stop()
    breakers.stop()


@pytest.fixture
def phi3(db: None) -> Iterator[Upstream]:
    with Upstream("tei") as upstream:
        rows = [Endpoint(url=upstream.url, protocol="tei"), PatternAssignment(pattern="real_time")]
        operations.save_model(ModelConfig(slug="phi3", upstream_model="test-model"), rows=rows, actor="ann")
        yield upstream


def run(*args: str) -> tuple[str, str]:
    """What it prints, and the refusal if there was one."""
    out = StringIO()
    try:
        call_command("diagnose", *args, stdout=out, stderr=StringIO())
    except CommandError as error:
        return out.getvalue(), str(error)
    return out.getvalue(), ""


def test_a_sound_installation_has_no_problems(phi3: Upstream) -> None:
    heartbeats.beat("worker-1", heartbeats.WORKER)
    heartbeats.beat("scheduler", heartbeats.SCHEDULER)
    out, refused = run("--json")
    found = json.loads(out)
    assert (refused, found["problems"]) == ("", [])
    assert found["database"]["migrations_pending"] == []
    assert found["redis"]["answers"] is True
    assert found["configuration"]["models"] == {"phi3": ["real_time"]}
    assert [(p["name"], p["alive"]) for p in found["processes"]] == [("scheduler", True), ("worker-1", True)]
    assert [(b["status"], b["shared"]) for b in found["breakers"]] == [("closed", True)]
    assert [(e["endpoint"], e["ok"], e["dimensions"]) for e in found["endpoints"]] == [(phi3.url, True, 8)]


def test_every_problem_is_a_sentence_and_the_status_says_so(phi3: Upstream) -> None:
    phi3.status(500)
    operations.trip_breaker([Endpoint.objects.get().pk], actor="ann", reason="fire")
    out, refused = run()
    assert refused == "3 problems were found."
    assert "no worker is alive" in out
    assert "no scheduler is alive" in out
    assert f"endpoints: phi3: {phi3.url}: " in out
    assert "forced_open" in out
    assert "fire" in out


def test_settings_are_shown_with_verbose_and_without_secrets(phi3: Upstream, settings: Any) -> None:
    settings.SECRET_KEY = "very-secret"
    settings.CITADEL_ANONYMOUS_SCOPES = ["read"]
    assert "REAL_TIME_TIMEOUT" not in run()[0]
    shown = run("--verbose")[0] + run("--json")[0]
    assert "REAL_TIME_TIMEOUT" in shown
    assert "very-secret" not in shown


def test_a_wrong_configuration_is_a_problem(phi3: Upstream) -> None:
    ModelConfig.objects.get().assignments.all().delete()
    assert "configuration: phi3: patterns: Assign at least one pattern." in run()[0]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:hunter2@127.0.0.1:6379/0", "redis://:***@127.0.0.1:6379/0"),
        ("rediss://ann:hunter2@host/0", "rediss://ann:***@host/0"),
    ],
)
def test_a_password_in_an_address_is_hidden(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_without_postgresql_and_redis_it_still_says_all_it_can() -> None:
    env = {
        **os.environ,
        "DATABASE_URL": "postgresql://ann:hunter2@127.0.0.1:1/none",
        "REDIS_URL": "redis://:hunter2@127.0.0.1:1/0",
    }
    command = [sys.executable, "manage.py", "diagnose", "--verbose", "--debug"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "REAL_TIME_TIMEOUT" in done.stdout
    assert "redis: no answer" in done.stdout
    assert "database: connection to server" in done.stdout
    assert "Traceback" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
