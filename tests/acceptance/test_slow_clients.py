"""Clients that never finish sending are cut off, and stop nobody else."""

import re
from pathlib import Path

import pytest
from django.conf import settings

from citadel.quickstart import plan
from integrations import operations, snapshot
from tests.made_api import serve
from tests.processes import Stack, wait_until
from tests.running import WEB, answers, free_port
from tests.slow_clients import SlowClients, timed_calls
from tests.upstreams import Upstream

CLIENTS = 300
ROOT = Path(settings.BASE_DIR)
WITH_A_LIMIT = r"--http1-header-read-timeout[\", ]+\d+"


def test_hundreds_of_half_sent_heads_and_bodies_are_cut_off_while_live_calls_go_on(stack: Stack) -> None:
    with Upstream() as upstream:
        serve("m", "real_time", upstream)
        key = operations.create_key("team-a", ["embed"], actor="tests")
        snapshot.bump()
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        options = ["--host", "127.0.0.1", "--port", str(port), "--http1-header-read-timeout", "2000"]
        web = stack.start("web", [*WEB, *options], BODY_READ_TIMEOUT="2")
        wait_until(lambda: answers(f"{url}/health/live"), 30)
        with SlowClients(url, CLIENTS, path="/api/v1/external/m/embed", key=key) as slow:
            timed_calls(url, 50, model="m", key=key)
            wait_until(lambda: slow.cut == CLIENTS, 60)
        timed_calls(url, 5, model="m", key=key)
        assert upstream.calls == 55
        web.stop()


@pytest.mark.parametrize("path", ["deploy/systemd/citadel-web.service", "deploy/Dockerfile"])
def test_what_we_ship_gives_heads_a_time_limit(path: str) -> None:
    assert re.search(WITH_A_LIMIT, (ROOT / path).read_text())


def test_quickstart_gives_heads_a_time_limit() -> None:
    assert re.search(WITH_A_LIMIT, Path(plan.__file__).read_text())
