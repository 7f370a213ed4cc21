"""Live calls beside queued work on one endpoint: what they suffer, and what queued work still gets.

    python -m tests.benchmarks mixed [--ms 100] [--slots 8] [--real]

The stub has so many places and takes `ms` for a call; 20 live calls a second come in a steady stream. Bulk is one
worker with a batch that does not end. `--real`: the MiniLM server on one core instead, which works one call off at a
time; there the bar for live calls is what they take alone and one call of the queue, which is measured as well.
"""

import statistics
import sys
import time
from collections.abc import Sequence

import requests

from tests.benchmarks import live_rig as rig
from tests.benchmarks.live_rig import Figures, Site
from tests.running import free_port

from django.conf import settings  # isort: skip

MODEL = "m"
A_SECOND = 20
BODIES = rig.citadel_bodies()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure live calls alone, queued work alone, and both."""
    parser = rig.parser(__doc__)
    parser.add_argument("--ms", type=float, default=100.0)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--per-second", type=float, default=A_SECOND)
    options = parser.parse_args(argv)
    seconds, times = (1.0, 1) if options.short else (options.seconds * 3, options.rounds)
    found: dict[str, Figures] = {}
    with rig.site() as site:
        server = _server(site, options)
        site.model(MODEL, server, pattern="hybrid", max_in_flight=64)
        _, url = site.web(pin=site.cores.rest)
        alone = {"live alone": lambda: _live(site, url, seconds, options.per_second)}
        if options.real:
            alone["one call of the queue"] = lambda: _whole_call(server)
        found |= rig.rounds(alone, times=max(1, times // 2))
        site.stack.worker()
        site.stack.scheduler()
        enough = int((seconds + 8) * (times * 2 + 3) * (400 if options.real else options.slots * 100_000 / options.ms))
        _submit(site, url, 3_000 if options.short else min(enough, 1_000_000))
        time.sleep(0 if options.short else 4)
        both = {
            "queued alone": lambda: _queued(url, site, seconds),
            "live beside queued": lambda: _beside(site, url, server, seconds, options),
        }
        found |= rig.rounds(both, times=times)
    beside, live = found["live beside queued"], found["live alone"]
    ratios = {"live p95": beside["p95_ms"] / live["p95_ms"], "live p50": beside["p50_ms"] / live["p50_ms"]}
    if options.real:
        bar = live["p95_ms"] + found["one call of the queue"]["p50_ms"]
        ratios["live p95, of alone and one call of the queue"] = beside["p95_ms"] / bar
    queued = found["queued alone"]["texts_per_second"]
    left = 1 - options.per_second * live["p50_ms"] / 1000 / (1 if options.real else options.slots)
    ratios["queued work, of what live calls leave"] = beside["texts_per_second"] / (queued * left) if queued else 0.0
    rig.report(options, "mixed", found, ratios)


def _server(site: Site, options: "rig.argparse.Namespace") -> str:
    if not options.real:
        return site.stub(dimensions=384, ms=options.ms, slots=options.slots)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    site.start([sys.executable, "manage.py", "demo_models", f"{MODEL}=openai:{port}"], url=f"{url}/health")
    return url


def _live(site: Site, url: str, seconds: float, per_second: float) -> Figures:
    # As many connections as calls a second, each with one call a second: they come evenly, whatever each takes.
    connections = int(per_second)
    address = f"{url}/api/v1/external/{MODEL}/embed"
    return site.load(
        address, rig.citadel_bodies(), connections=connections, seconds=seconds, warm=min(1.0, seconds), every=1.0
    )


def _whole_call(server: str) -> Figures:
    """What a call of the queue takes while nobody else calls, straight at the server."""
    taken = []
    for seed in range(5):
        asked = {"model": MODEL, "input": rig.texts(settings.BULK_BATCH_SIZE, 8, seed)}
        began = time.monotonic()
        requests.post(f"{server}/v1/embeddings", json=asked, timeout=60).raise_for_status()
        taken.append((time.monotonic() - began) * 1000)
    return {"p50_ms": statistics.median(taken)}


def _done(url: str, site: Site) -> int:
    answer = requests.get(f"{url}/api/v1/external/batch/{_batch[0]}", headers=_as(site), timeout=30).json()
    return int(answer["counts"]["completed"])


def _queued(url: str, site: Site, seconds: float) -> Figures:
    before, began = _done(url, site), time.monotonic()
    time.sleep(seconds)
    return {"texts_per_second": (_done(url, site) - before) / (time.monotonic() - began)}


def _beside(site: Site, url: str, server: str, seconds: float, options: "rig.argparse.Namespace") -> Figures:
    connections = int(options.per_second)
    address = f"{url}/api/v1/external/{MODEL}/embed"
    figures = site.loading(
        address, rig.citadel_bodies(), connections=connections, seconds=seconds, warm=min(3.0, seconds), every=1.0
    )
    time.sleep(0 if options.short else 4)  # until it has begun in earnest
    queued = _queued(url, site, max(0.5, seconds - 1.5))
    return figures() | queued


_batch: list[str] = []


def _submit(site: Site, url: str, count: int) -> None:
    lines = b"\n".join(b'{"text": "%s"}' % text.encode() for text in rig.texts(count, 8))
    kind = {"Content-Type": "application/x-ndjson"}
    answer = requests.post(f"{url}/api/v1/external/{MODEL}/embed", data=lines, headers=_as(site) | kind, timeout=300)
    answer.raise_for_status()
    _batch[:] = [answer.json()["batch_id"]]


def _as(site: Site) -> dict[str, str]:
    return {"Authorization": f"Bearer {site.key}"}
