"""The alert rules of deploy/, judged by Prometheus's own engine on what a well and a sick Citadel say of themselves.

promtool, from Debian's package, runs the rules file as it is over simulated minutes; the samples in them were scraped
from running processes. Only `up`, which is Prometheus's own, is made up.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from batches.models import BatchJob
from integrations import operations
from integrations.models import Canary, Endpoint
from tests.made_api import serve
from tests.processes import Stack, wait_until
from tests.running import ROOT, Process, free_port
from tests.upstreams import Upstream

RULES = ROOT / "deploy/prometheus/alerts.yaml"
SCOPES = {"CITADEL_ANONYMOUS_SCOPES": "embed,batch,read"}
# A process is known to be gone after twice this; a canary is asked as often.
QUICK = {"CHUNK_LEASE": "2", "WORKER_HEARTBEAT_INTERVAL": "0.5", "CANARY_INTERVAL": "1"}
# Minutes that are simulated of each: longer than any rule looks back.
SPAN = 30
PARTS = ("database", "redis")

# One series, and its value before, after a while of work, and once Citadel is sick; None: it is not there.
Series = tuple[str, bool, tuple[float | None, float | None, float | None]]


def promtool() -> str:
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which("promtool", path=places)
    assert found, "promtool is missing: it is in Debian's package prometheus, and .ci/run fetches it"
    return found


def rules() -> list[dict[str, Any]]:
    return list(yaml.safe_load(RULES.read_text())["groups"][0]["rules"])


def test_every_rule_is_documented() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    assert [rule["alert"] for rule in rules() if f"`{rule['alert']}`" not in page] == []


# --- What Citadel says of itself -------------------------------------------------------------------------------------


class Scrape(dict[str, tuple[bool, float]]):
    """Every sample of one scrape: the series as PromQL writes it -> whether it counts up, and its value."""

    def __init__(self, url: str) -> None:
        text = requests.get(f"{url}/metrics", timeout=30).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if not sample.name.endswith(("_bucket", "_created")):
                    labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
                    self[f"{sample.name}{{{labels}}}"] = (family.type in ("counter", "histogram"), sample.value)


def together(*scrapes: Scrape) -> Iterator[Series]:
    for name in sorted(set().union(*scrapes)):
        counts = any(scrape[name][0] for scrape in scrapes if name in scrape)
        # A counter that is not there yet begins at 0.
        missing = 0.0 if counts else None
        before, well, sick = (scrape[name][1] if name in scrape else missing for scrape in scrapes)
        yield name, counts, (before, well, sick)


# --- What Prometheus makes of it -------------------------------------------------------------------------------------


def over_time(series: Series) -> Mapping[str, str]:
    """The series as promtool takes it: counters rise evenly, gauges jump. First the well SPAN, then the sick one."""
    name, counts, (before, well, sick) = series
    spans = [(before if counts else well, well), (well if counts else sick, sick)]
    return {"series": name, "values": " ".join(_span(first, last) for first, last in spans)}


def _span(first: float | None, last: float | None) -> str:
    if first is None or last is None:
        return f"_x{SPAN}"
    return f"{first}{(last - first) / SPAN:+f}x{SPAN - 1}"


def firing(series: Iterable[Mapping[str, str]], alerts: Iterable[str], *, minute: int, folder: Path) -> str:
    """What promtool says when exactly these alerts should be firing in that minute; empty if they are."""
    samples = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(alerts)]
    query = 'group by (alertname) (ALERTS{alertstate="firing"})'
    test = {
        "interval": "1m",
        "input_series": list(series),
        "promql_expr_test": [{"expr": query, "eval_time": f"{minute}m", "exp_samples": samples}],
    }
    file = folder / f"test-{minute}.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run([promtool(), "test", "rules", str(file)], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else done.stdout + done.stderr


# --- A well one and a sick one ---------------------------------------------------------------------------------------


def embed(url: str, model: str, **fields: Any) -> int:
    body = {"text": "a", **fields}
    return requests.post(f"{url}/api/v1/external/{model}/embed", json=body, timeout=30).status_code


def finish_a_batch(url: str) -> None:
    embed(url, "queued", batch=True)
    wait_until(lambda: not BatchJob.objects.exclude(state="completed").exists(), 20)


def lose_records(stack: Stack) -> Scrape:
    """Make more calls at once than a process may keep of them, in one that has no Redis either; return its scrape."""
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    small, url = stack.web(**SCOPES, RECORD_BUFFER_SIZE="1", RECORD_FLUSH_INTERVAL="1", REDIS_URL=nowhere)
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: embed(url, "well"), range(16)))
    assert set(answers) == {200}
    scrape = Scrape(url)
    small.stop()
    return scrape


def fall_sick(url: str, upstreams: Mapping[str, Upstream], processes: Iterable[Process]) -> None:
    upstreams["live"].status(500)
    wait_until(lambda: embed(url, "live") == 503, 20)  # its breaker is open
    upstreams["canary"].weights = upstreams["unlike"].weights = "another model"
    wait_until(lambda: Canary.objects.filter(state="moved").count() == 2, 20)
    # What an operator takes for right by mistake still is not what the model's first endpoint gives.
    unlike = Endpoint.objects.get(url=upstreams["unlike"].url)
    operations.retake_reference([unlike.pk], actor="ann", reason="a mistake")
    wait_until(lambda: Canary.objects.filter(state="unlike").exists(), 20)
    for process in processes:
        process.kill()
    embed(url, "queued", batch=True)
    # As if it had been waiting since.
    BatchJob.objects.filter(state="queued").update(released_at=timezone.now() - timedelta(minutes=20))
    wait_until(lambda: Scrape(url).get('citadel_processes{kind="scheduler"}') == (False, 0.0), 20)
    wait_until(lambda: Scrape(url).get('citadel_processes{kind="worker"}') == (False, 0.0), 20)


@pytest.fixture
def upstreams() -> Iterator[dict[str, Upstream]]:
    with Upstream() as live, Upstream() as canary, Upstream() as unlike, Upstream() as well:
        yield {"live": live, "canary": canary, "unlike": unlike, "well": well}


def test_every_alert_fires_on_a_sick_citadel_and_none_on_a_well_one(
    stack: Stack, upstreams: dict[str, Upstream], tmp_path: Path
) -> None:
    stack.common = QUICK
    serve("live", "real_time", upstreams["live"], breaker_reset_timeout=60.0)
    serve("canary", "real_time", upstreams["well"], upstreams["canary"], upstreams["unlike"])
    serve("well", "real_time", upstreams["well"])
    serve("queued", "bulk_only", upstreams["well"], batch_size=10, processing_interval=0.2)
    _, url = stack.web(**SCOPES)
    worker, scheduler = stack.worker(), stack.scheduler()
    wait_until(lambda: Canary.objects.filter(state="well").count() == 6, 20)
    before = Scrape(url)
    assert [embed(url, "live") for _ in range(5)] == [200] * 5
    assert embed(url, "live", text="") == 400  # a client's own fault is no alarm
    finish_a_batch(url)
    wait_until(lambda: any('mode="bulk"' in name for name in Scrape(url)), 10)
    well = Scrape(url)
    without_redis = lose_records(stack)
    fall_sick(url, upstreams, [worker, scheduler])
    sick = Scrape(url)
    judged = 'citadel_calls_judged_total{{mode="live",model="live",ok="{}",pattern="real_time"}}'
    assert [well[judged.format(ok)][1] for ok in ("true", "false")] == [5, 0]
    assert sick[judged.format("false")][1] > 0

    series = [over_time(s) for s in together(before, well, sick)]
    # Of other instances, which were well before: one that answers nobody any more, and the one without Redis.
    others = {'up{job="citadel",instance="gone"}': 0.0}
    others |= {f'citadel_up{{part="{p}",instance="x"}}': without_redis[f'citadel_up{{part="{p}"}}'][1] for p in PARTS}
    series += [over_time((name, False, (1.0, 1.0, now))) for name, now in others.items()]
    assert firing(series, [], minute=SPAN - 1, folder=tmp_path) == ""
    every = {rule["alert"] for rule in rules()}
    assert firing(series, every, minute=2 * SPAN - 1, folder=tmp_path) == ""
