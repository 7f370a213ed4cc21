"""test_integration_patterns against a whole running Citadel: real web, worker, scheduler and model servers."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from integrations import operations
from integrations.models import Endpoint, ModelConfig, PatternAssignment
from tests.processes import ROOT, Stack
from tests.upstreams import Upstream


def serve(slug: str, *upstreams: Upstream, patterns: tuple[str, ...]) -> None:
    rows: list[Endpoint | PatternAssignment] = [
        Endpoint(url=u.url, protocol=u.protocol, position=n) for n, u in enumerate(upstreams)
    ]
    rows += [PatternAssignment(pattern=p, position=n) for n, p in enumerate(patterns)]
    operations.save_model(ModelConfig(slug=slug, upstream_model="test-model"), rows=rows, actor="ann")


@pytest.fixture
def servers() -> Iterator[dict[str, Upstream]]:
    with Upstream("ollama") as a, Upstream("tei") as b, Upstream("openai") as c, Upstream("ollama") as d:
        yield {"phi3": a, "replica": b, "openchat": c, "mixtral": d}


@pytest.fixture
def models(stack: Stack, servers: dict[str, Upstream]) -> None:
    """A model in each pattern."""
    serve("phi3", servers["phi3"], servers["replica"], patterns=("real_time",))
    serve("openchat", servers["openchat"], patterns=("real_time", "hybrid"))
    serve("mixtral", servers["mixtral"], patterns=("bulk_only",))


def run(url: str, *args: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "manage.py", "test_integration_patterns", "--url", url, "--wait", "30", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.usefixtures("models")
def test_a_sound_citadel_passes_and_a_broken_server_fails_its_row(stack: Stack, servers: dict[str, Upstream]) -> None:
    stack.worker()
    stack.scheduler()
    _, url = stack.web(CITADEL_ANONYMOUS_SCOPES="embed,batch,read,operate")

    done = run(url, "--all-patterns", "--verbose", "--requests", "8", "--batches", "2")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    shown = [line for line in done.stdout.splitlines() if not line.startswith("   ")]
    assert shown[:16] == [
        "Integration Pattern Test Results:",
        "================================",
        "",
        "Real-time Pattern Tests:",
        *sorted(shown[4:6], key=lambda line: "openchat" in line),
        "",
        "Hybrid Pattern Tests:",
        "✅ openchat (urgent): 4/4 requests successful (100%)",
        "✅ openchat (bulk): 4/4 requests queued successfully (100%)",
        "",
        "Bulk Pattern Tests:",
        "✅ mixtral: 2/2 batches processed successfully (100%)",
        "",
        "Circuit Breaker Tests:",
        "✅ All models: Circuit breakers functional",
    ]
    assert {"✅ phi3: 8/8 requests successful (100%)", "✅ openchat: 8/8 requests successful (100%)"} <= set(shown)
    assert shown[16:18] == ["✅ Failover: Automatic failover working", "✅ Recovery: Circuit breaker recovery working"]
    figures = [line for line in shown if line.startswith("- ")]
    assert [re.sub(r"\d+\.\d", "0.0", line) for line in figures] == [
        "- Real-time average latency: 0.0ms",
        "- Hybrid real-time average latency: 0.0ms",
        "- Bulk processing throughput: 0.0 items/minute",
        "- Overall success rate: 0.0%",
    ]
    assert figures[-1].endswith("100.0%")

    servers["mixtral"].poison("Pattern test of mixtral, bulk_only, number 1. Text 2.")
    servers["openchat"].status(500)
    done = run(url, "--json", "--requests", "4", "--batches", "2")
    found = json.loads(done.stdout)
    assert (done.returncode, found["passed"]) == (1, False)
    rows = {(r["pattern"], r["model"], r["kind"]): r for r in found["rows"]}
    assert rows["real_time", "phi3", "live"]["passed"]
    openchat = rows["real_time", "openchat", "live"]
    assert (openchat["passed"], openchat["succeeded"]) == (False, 0)
    assert openchat["first_error"].split(":")[0] == "upstream_failed"
    # Its queued rows only say that the work was taken; it waits until the server is well again.
    assert rows["hybrid", "openchat", "queued"]["passed"]
    mixtral = rows["bulk_only", "mixtral", "batch"]
    assert (mixtral["succeeded"], mixtral["total"]) == (1, 2)
    assert mixtral["first_error"].startswith("text_rejected: text 2: ")
    says = {line["name"]: line["says"] for line in found["circuit_breakers"]["lines"]}
    assert says["Recovery"].startswith("openchat: closed: ")


@pytest.mark.usefixtures("models")
def test_a_key_a_pattern_and_a_model_can_be_given(stack: Stack, servers: dict[str, Upstream]) -> None:
    _, url = stack.web()
    refused = run(url)
    assert refused.returncode == 1
    assert "not_authenticated" in refused.stderr

    key = operations.create_key("tester", ["read", "embed"], actor="ann")
    done = run(url, "--api-key", key, "--pattern", "real_time", "--model", "phi3", "--requests", "2")
    assert "✅ phi3: 2/2" in done.stdout
    assert "❌ All models: phi3: not_permitted" in done.stdout
    assert "Hybrid Pattern Tests" not in done.stdout
    assert servers["openchat"].calls == 0

    unknown = run(url, "--api-key", key, "--pattern", "hybrid", "--model", "phi3")
    assert unknown.returncode == 1
    assert "phi3 is in none of these patterns" in unknown.stderr


def test_a_server_that_is_not_there_is_said_to_be_so() -> None:
    refused = run("http://127.0.0.1:1")
    assert refused.returncode == 1
    assert "no_answer: the connection was refused" in refused.stderr
