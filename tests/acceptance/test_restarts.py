"""Web processes that are told to stop, or are renewed, under load."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from integrations.models import CallRecord
from tests.load import Load
from tests.made_api import serve
from tests.processes import Process, Stack, wait_until
from tests.upstreams import Upstream

SCOPES = {"CITADEL_ANONYMOUS_SCOPES": "embed,batch,read,operate"}
PATH = "/api/v1/external/m/embed"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(delay=0.02) as server:
        yield server


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """Where a socket may lie: pytest's own folders have names too long for one."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "web.sock"


def children(process: Process) -> set[int]:
    """Granian's own workers."""
    return {child.pid for child in psutil.Process(process.pid).children()}


def test_a_web_process_that_stops_under_load_answers_and_records_every_call_that_it_took(
    stack: Stack, upstream: Upstream
) -> None:
    serve("m", "real_time", upstream)
    web, url = stack.web(**SCOPES)
    with Load(url + PATH, keep_alive=False) as load:
        load.wait_for(100)
        web.stop(within=30)
        load.wait_for(20)
    # "broken" are connections that the kernel held for a process that never took them: none of their texts was asked
    # for. Without a proxy in between nobody can hand these to another process.
    assert set(load.outcomes) <= {"ok", "refused", "broken"}
    assert load.outcomes["ok"] == upstream.calls == upstream.answered
    assert CallRecord.objects.filter(code="ok").count() == load.outcomes["ok"]
    assert not CallRecord.objects.exclude(code="ok").exists()


def test_a_rolling_restart_behind_a_proxy_fails_no_live_call(
    stack: Stack, upstream: Upstream, socket_path: Path
) -> None:
    serve("m", "real_time", upstream)
    web = stack.web_behind(socket_path, processes=2, **SCOPES)
    # As deploy/nginx.conf does: a connection a call, over the socket that old and new processes inherit; a call whose
    # connection ends without an answer is made once more.
    with Load(PATH, unix=socket_path, keep_alive=False, retry=True) as load:
        before = children(web)
        load.wait_for(100)
        web.signal(signal.SIGHUP)
        wait_until(lambda: len(children(web)) == 2 and not children(web) & before, 60)
        load.wait_for(100)
    assert load.outcomes == {"ok": load.calls}
    # What was made once more had not been begun, and was rare.
    assert upstream.calls == load.calls
    assert load.retried <= load.calls / 50
