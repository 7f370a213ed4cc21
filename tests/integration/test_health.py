"""Health: alive always, ready with a configuration, and the missing parts named within a second."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client

from batches import heartbeats
from integrations import snapshot
from integrations.api.health import Check, run_checks
from tests.made_api import problem

pytestmark = pytest.mark.usefixtures("redis_db")


@pytest.fixture
def http(settings: LazySettings, transactional_db: None) -> Client:
    settings.WHITENOISE_AUTOREFRESH = True  # no reading of every static file
    snapshot.load()
    return Client(raise_request_exception=False)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def ready(http: Client, query: str = "") -> Any:
    return http.get(f"/health/ready{query}")


def test_a_process_is_alive_without_a_key_or_anything_else(http: Client, settings: LazySettings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"

    assert http.get("/health/live").json() == {"status": "ok"}


def test_everything_there_is_ok_also_for_those_who_need_the_queue(http: Client) -> None:
    heartbeats.beat("worker-1", heartbeats.WORKER)

    for query in ("", "?need=queue"):
        answer = ready(http, query)
        assert answer.status_code == 200
        assert answer.json() == {
            "status": "ok",
            "degraded": [],
            "checks": {"database": "ok", "redis": "ok", "workers": "ok"},
            "config_version": snapshot.current().version,
        }


def test_without_workers_live_calls_go_on_and_the_queue_is_missed(http: Client) -> None:
    answer = ready(http)

    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["degraded"]) == ("degraded", ["workers"])
    strict = ready(http, "?need=queue")
    assert problem(strict)["code"] == "queue_unavailable"
    assert "workers" in problem(strict)["detail"]


def test_a_redis_that_says_nothing_is_named_within_the_time_limit(
    http: Client, settings: LazySettings, silent_port: int
) -> None:
    settings.REDIS_URL = f"redis://127.0.0.1:{silent_port}/0"
    heartbeats.beat("worker-1", heartbeats.WORKER)

    answer = ready(http)

    assert answer.status_code == 200
    assert answer.json()["degraded"] == ["redis"]
    assert ready(http, "?need=queue").status_code == 200


def test_an_unknown_need_is_refused(http: Client) -> None:
    assert list(problem(ready(http, "?need=gold"))["errors"]) == ["need"]


PROGRAM = """
import sys, django
django.setup()
from django.test import Client
from django.conf import settings
settings.WHITENOISE_AUTOREFRESH = True
from integrations import snapshot_file
from integrations.values import Snapshot
if "kept" in sys.argv:
    snapshot_file.save(Snapshot(version=7, models={}, keys={}))
answer = Client(raise_request_exception=False).get("/health/ready" + sys.argv[1])
print(answer.status_code, answer.content.decode())
"""


def without_database(*arguments: str, port: int, state: str) -> str:
    """What a process answers whose PostgreSQL is at `port`: "status body"."""
    env = os.environ | {
        "DJANGO_SETTINGS_MODULE": "citadel.settings",
        "DATABASE_URL": f"postgresql://postgres@127.0.0.1:{port}/none",
        "CITADEL_STATE_DIR": state,
        "ALLOWED_HOSTS": "testserver",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_a_process_that_never_had_a_configuration_is_not_ready(tmp_path: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]

    answer = without_database("", port=port, state=str(tmp_path))

    assert answer.startswith("503 ")
    assert '"code":"not_ready"' in answer


def test_a_process_with_a_configuration_outlives_its_database(tmp_path: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]

    assert without_database("", "kept", port=port, state=str(tmp_path)).startswith("200 ")
    strict = without_database("?need=queue", "kept", port=port, state=str(tmp_path))
    assert strict.startswith("503 ")
    assert "database, workers" in strict


def test_a_check_that_hangs_is_asked_once_however_often_one_looks() -> None:
    asked: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as line:
        peer, _ = server.accept()

        def hang() -> bytes:
            asked.append(time.monotonic())
            return line.recv(1)

        checks = {"slow": Check("slow", hang), "fast": Check("fast", lambda: True)}
        for _ in range(3):
            assert run_checks(checks, timeout=0.05) == {"slow": "failed", "fast": "ok"}
        assert len(asked) == 1
        peer.send(b"xx")  # one for the question that hung, one for a new one
        assert run_checks({"slow": checks["slow"]}, timeout=5) == {"slow": "ok"}
        peer.close()
