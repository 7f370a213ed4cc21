"""What the gateway itself costs: a model server that answers at once, 768 numbers, 32 connections, one core each.

    python -m tests.benchmarks live_zero [--peers litellm,portkey,bare,nginx]

The peers are installed from their registries into a folder of their own (CITADEL_BENCH_PEERS, default
~/.cache/citadel-bench). Only one of all runs while it is measured: some work on after their load has ended.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from tests.benchmarks import live_rig as rig
from tests.benchmarks.live_rig import Figures, Site
from tests.running import Process, free_port

PEERS = Path(os.environ.get("CITADEL_BENCH_PEERS", Path.home() / ".cache" / "citadel-bench"))
MODEL = "m"
IDLE = 0.02  # one client that begins a call each so many seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Measure Citadel and its peers in turns."""
    parser = rig.parser(__doc__)
    parser.add_argument("--peers", default="nginx,bare,portkey,litellm")
    options = parser.parse_args(argv)
    peers = [] if options.short else [p for p in options.peers.split(",") if p]
    seconds, times = (0.5, 1) if options.short else (options.seconds, options.rounds)
    with rig.site() as site:
        stub = site.stub(dimensions=768)
        site.model(MODEL, stub)
        contenders = _contenders(site, stub, peers, seconds)
        found = rig.rounds(contenders, times=times)
    rows = dict(found)
    ratios = {
        f"Citadel / {name}, requests a second": found["citadel"]["per_second"] / found[name]["per_second"]
        for name in rows
        if name not in ("citadel", "direct") and found[name]["per_second"]
    }
    ratios["idle p50 added, ms"] = found["citadel"]["idle_p50_ms"] - found["direct"]["idle_p50_ms"]
    if "bare" in found:
        ratios["idle p50 added by aiohttp alone, ms"] = found["bare"]["idle_p50_ms"] - found["direct"]["idle_p50_ms"]
    rig.report(options, "live_zero", rows, ratios)


def _contenders(site: Site, stub: str, peers: list[str], seconds: float) -> dict[str, Callable[[], Figures]]:
    bodies, own = rig.openai_bodies(MODEL), rig.citadel_bodies()
    process, url = site.web()
    started: dict[str, tuple[Process, str, list[bytes], dict[str, str]]] = {
        "citadel": (process, f"{url}/api/v1/external/{MODEL}/embed", own, {}),
        "citadel /v1": (process, f"{url}/v1/embeddings", bodies, {}),
    }
    begin = {"nginx": _nginx, "bare": _bare, "portkey": _portkey, "litellm": _litellm}
    for peer in peers:
        process, url, headers = begin[peer](site, stub)
        started[peer] = (process, f"{url}/v1/embeddings", bodies, headers)
    processes = {p.pid: p for p, *_ in started.values()}
    for other in processes.values():
        _still(other)
    contenders: dict[str, Callable[[], Figures]] = {
        "direct": lambda: _measured(site, None, f"{stub}/v1/embeddings", bodies, {}, seconds)
    }
    for name, (process, address, sent, headers) in started.items():
        contenders[name] = lambda p=process, a=address, s=sent, h=headers: _measured(site, p, a, s, h, seconds)  # type: ignore[misc]
    return contenders


def _measured(
    site: Site, process: Process | None, url: str, bodies: list[bytes], headers: dict[str, str], seconds: float
) -> Figures:
    with _awake(process):
        before = rig.cpu(process.pid) if process else 0.0
        found = site.load(url, bodies, connections=32, seconds=seconds, warm=seconds / 2, headers=headers)
        used = (rig.cpu(process.pid) - before if process else 0.0) / (seconds * 1.5)
        idle = site.load(url, bodies, connections=1, seconds=seconds / 2, warm=seconds / 4, every=IDLE, headers=headers)
    found["idle_p50_ms"] = idle["p50_ms"]
    found["cpu_us_a_request"] = used / found["per_second"] * 1e6 if found["per_second"] else 0.0
    return found


@contextlib.contextmanager
def _awake(process: Process | None) -> Iterator[None]:
    """Let a stopped contender work for as long as it is measured."""
    if process is None:
        yield
        return
    _signal(process, signal.SIGCONT)
    try:
        yield
    finally:
        _still(process)


def _still(process: Process) -> None:
    _signal(process, signal.SIGSTOP)


def _signal(process: Process, number: signal.Signals) -> None:

    whole = psutil.Process(process.pid)
    for one in [whole, *whole.children(recursive=True)]:
        one.send_signal(number)


def _nginx(site: Site, stub: str) -> tuple[Process, str, dict[str, str]]:
    return *site.nginx(stub), {}


def _bare(site: Site, stub: str) -> tuple[Process, str, dict[str, str]]:
    return *site.bare_proxy(stub), {}


def _portkey(site: Site, stub: str) -> tuple[Process, str, dict[str, str]]:
    folder = PEERS / "portkey"
    if not (folder / "node_modules").exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Its own later version of this dependency answers every call with 500.
        wanted = {"dependencies": {"@portkey-ai/gateway": "1.15.2"}, "overrides": {"@hono/node-server": "1.12.2"}}
        (folder / "package.json").write_text(json.dumps(wanted))
        subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=folder, check=True)
    port = free_port()
    script = folder / "node_modules/@portkey-ai/gateway/build/start-server.js"
    process = site.start(
        ["node", str(script), f"--port={port}", "--headless"], url=f"http://127.0.0.1:{port}", NODE_ENV="production"
    )
    return process, f"http://127.0.0.1:{port}", {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{stub}/v1"}


def _litellm(site: Site, stub: str) -> tuple[Process, str, dict[str, str]]:
    folder = PEERS / "litellm"
    if not (folder / "bin/litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin/pip"), "install", "-q", "litellm[proxy]==1.108.7"], check=True)
    config = site.stack.folder / "litellm.yaml"
    params = {"model": f"openai/{MODEL}", "api_base": f"{stub}/v1", "api_key": "none"}
    config.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": params}]}))
    port = free_port()
    # Citadel's DATABASE_URL would make it look for tables of its own.
    command = ["env", "-u", "DATABASE_URL", str(folder / "bin/litellm"), "--config", str(config), "--num_workers", "1"]
    url, key = f"http://127.0.0.1:{port}", f"sk-{secrets.token_hex(16)}"
    command += ["--port", str(port), "--host", "127.0.0.1"]
    process = site.start(command, url=f"{url}/health/liveliness", LITELLM_MASTER_KEY=key)
    return process, url, {"Authorization": f"Bearer {key}"}
