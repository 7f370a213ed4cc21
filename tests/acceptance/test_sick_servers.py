"""Model servers that hang, flood, crawl or send elsewhere: bounded memory and time, the right code, nobody else slowed.

The web server is a real process; its memory is what the kernel says was its most (VmHWM).
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import requests

from tests.load import Load
from tests.made_api import serve
from tests.processes import Process, Stack, wait_until
from tests.upstreams import Upstream

SCOPES = {"CITADEL_ANONYMOUS_SCOPES": "embed,batch,read,operate"}
MIB = 2**20
AT_ONCE = 8
# Far below AT_ONCE answers of 50 MB, far above what AT_ONCE ordinary calls need.
ROOM = 100 * MIB


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


def most_memory(process: Process) -> int:
    """The most bytes that this process and its children each ever had in memory, together."""
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    return sum(_peak(Path(f"/proc/{pid}/status").read_text()) for pid in family)


def _peak(status: str) -> int:
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def embed(url: str, model: str = "m", text: str = "a") -> tuple[int, str]:
    answer = requests.post(f"{url}/api/v1/external/{model}/embed", json={"text": text, "urgent": True}, timeout=30)
    return answer.status_code, "ok" if answer.ok else answer.json()["code"]


def fifty_megabytes(upstream: Upstream, _: Upstream) -> None:
    upstream.big(50_000_000)


def gzip_bomb(upstream: Upstream, _: Upstream) -> None:
    upstream.gzip_bomb(200 * MIB)


def redirect(upstream: Upstream, elsewhere: Upstream) -> None:
    upstream.redirect(f"{elsewhere.url}/api/embed")


def crawl(upstream: Upstream, _: Upstream) -> None:
    upstream.trickle(1.5)


def poison(upstream: Upstream, _: Upstream) -> None:
    upstream.poison("a")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model called `slug` at a server with this fault; every call to it ends so, within `deadline` seconds."""

    slug: str
    fault: Callable[[Upstream, Upstream], None]
    ends: tuple[int, str]
    deadline: float = 20.0


CASES = (
    Case(slug="flood", fault=fifty_megabytes, ends=(502, "upstream_malformed")),
    Case(slug="bomb", fault=gzip_bomb, ends=(502, "upstream_malformed")),
    Case(slug="redirect", fault=redirect, ends=(502, "upstream_failed")),
    Case(slug="crawl", fault=crawl, ends=(504, "upstream_timeout"), deadline=2.0),
    Case(slug="poison", fault=poison, ends=(422, "text_rejected")),
)


def test_a_sick_answer_costs_bounded_memory_and_time_and_gets_its_own_code(stack: Stack) -> None:
    with ExitStack() as servers:
        pool = servers.enter_context(ThreadPoolExecutor(AT_ONCE))
        elsewhere = servers.enter_context(Upstream())
        upstreams = {case: servers.enter_context(Upstream()) for case in CASES}
        for case, upstream in upstreams.items():
            times = {"attempt_timeout": case.deadline, "deadline": case.deadline}
            serve(case.slug, "real_time", upstream, breaker_threshold=1000, **times)
        web, url = stack.web(**SCOPES)
        for case, upstream in upstreams.items():
            assert set(pool.map(lambda _, case=case: embed(url, case.slug), range(AT_ONCE))) == {(200, "ok")}
            before, started = most_memory(web), time.monotonic()
            case.fault(upstream, elsewhere)

            outcomes = list(pool.map(lambda _, case=case: embed(url, case.slug), range(AT_ONCE)))

            assert set(outcomes) == {case.ends}, case.slug
            # A second a call for the machine; without the deadline the crawling answer would take minutes.
            assert time.monotonic() - started < case.deadline + AT_ONCE, case.slug
            grown = most_memory(web) - before
            assert grown < ROOM, case.slug
            upstream.clear()
            assert embed(url, case.slug) == (200, "ok")
        assert elsewhere.connections == 0


def test_a_hung_server_fills_its_own_places_and_no_call_to_another_model_notices(
    stack: Stack, upstream: Upstream
) -> None:
    with Upstream() as hung:
        hung.hang()
        serve("sick", "real_time", hung, attempt_timeout=1.0, breaker_threshold=5, breaker_reset_timeout=60.0)
        serve("m", "real_time", upstream)
        _, url = stack.web(ENDPOINT_MAX_IN_FLIGHT="6", **SCOPES)
        path = f"{url}/api/v1/external"

        with Load(f"{path}/m/embed", clients=4) as healthy, Load(f"{path}/sick/embed", clients=24) as sick:
            wait_until(lambda: sick.outcomes["circuit_open"] >= 50, 30)
            healthy.wait_for(50)

    assert set(healthy.outcomes) == {"ok"}
    # First they wait and time out, then the bound may refuse, from then on the breaker answers.
    assert {"upstream_timeout", "circuit_open"} <= set(sick.outcomes)
    assert set(sick.outcomes) <= {"overloaded", "upstream_timeout", "circuit_open"}
    assert hung.peak <= 6
    assert hung.calls <= 12


def test_a_poison_text_in_a_batch_fails_alone(stack: Stack, upstream: Upstream) -> None:
    upstream.poison("text 13")
    serve("m", "bulk_only", upstream, batch_size=8)
    _, url = stack.web(**SCOPES)
    stack.scheduler()
    stack.worker()
    texts = [f"text {number}" for number in range(40)]

    answer = requests.post(f"{url}/api/v1/external/m/embed", json={"texts": texts}, timeout=20)

    batch = f"{url}/api/v1/external/batch/{answer.json()['batch_id']}"
    wait_until(lambda: requests.get(batch, timeout=20).json()["status"] == "completed", 30)
    rows = requests.get(f"{batch}/results", timeout=20).json()["results"]
    failed = [(row["index"], row["error"]["code"]) for row in rows if row["status"] == "failed"]
    assert (len(rows), failed) == (40, [(13, "text_rejected")])
