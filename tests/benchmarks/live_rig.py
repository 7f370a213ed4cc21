"""What the benchmarks of live calls stand on: pinned processes, peers in between, and clients."""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.rig import own_stack, rounds  # first: it sets Django up
from tests.benchmarks.rig import parser as common_options

from django.conf import settings  # isort: skip

from integrations import operations, snapshot  # isort: skip
from integrations.models import Endpoint, ModelConfig, PatternAssignment  # isort: skip
from tests.processes import Stack  # isort: skip
from tests.running import Process, answers, free_port, wait_until  # isort: skip

__all__ = ["Figures", "Site", "parser", "report", "rounds", "site"]

Figures = dict[str, float]
# The words of the texts, so that no two requests are the same.
WORDS = ("green", "river", "slow", "market", "paper", "seven", "under", "winter", "table", "light", "open", "garden")
BODIES = 512


@dataclass(frozen=True, slots=True)
class Cores:
    """What is measured has one core to itself, where there is more than one; all others share the rest."""

    measured: frozenset[int]
    rest: frozenset[int]


def cores() -> Cores:
    """Divide the cores that this process may use."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(frozenset(usable[-1:]), frozenset(usable[:-1] or usable))


@dataclass(slots=True)
class Site:
    """Citadel on servers of its own."""

    stack: Stack
    key: str
    cores: Cores = field(default_factory=cores)

    def model(
        self, slug: str, url: str, *, protocol: str = "openai", pattern: str = "real_time", **fields: Any
    ) -> None:
        """Make a model at one endpoint."""
        endpoint = {name: fields.pop(name) for name in ("max_batch", "max_in_flight") if name in fields}
        model = ModelConfig.objects.create(slug=slug, upstream_model=slug, **fields)
        PatternAssignment.objects.create(model=model, pattern=pattern)
        Endpoint.objects.create(model=model, url=url, protocol=protocol, **endpoint)
        snapshot.bump()

    def web(self, *, workers: int = 1, pin: frozenset[int] | None = None, **env: str) -> tuple[Process, str]:
        """Start Citadel's web server on the measured core."""
        process, url = self.stack.web(processes=workers, RECORD_FLUSH_ROWS="5000", **env)
        pinned(process.pid, pin or self.cores.measured)
        return process, url

    def stub(self, **options: object) -> str:
        """Start a stub on the other cores; return its URL."""
        port = free_port()
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "tests.benchmarks.live_stub", "--port", str(port), *words]
        process = self.stack.start("stub", command)
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/control"), 20)
        pinned(process.pid, self.cores.rest)
        return url

    def start(self, command: list[str], *, url: str, pin: frozenset[int] | None = None, **env: str) -> Process:
        """Start another program on the measured core and wait until it answers at `url`."""
        process = self.stack.start(Path(command[0]).name, command, **env)
        wait_until(lambda: _listens(url), 120)
        pinned(process.pid, pin or self.cores.measured)
        return process

    def nginx(self, upstream: str) -> tuple[Process, str]:
        """Start nginx as a bare proxy in front of `upstream`: kept connections both ways, one process."""
        port = free_port()
        folder = Path(tempfile.mkdtemp(prefix="nginx-", dir=self.stack.folder))
        file = folder / "nginx.conf"
        target = upstream.removeprefix("http://")
        file.write_text(
            f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
            "events { worker_connections 4096; }\n"
            f"http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n"
            f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
            "client_body_buffer_size 64k; proxy_buffers 16 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 128k;\n"
            f"keepalive_requests 1000000; upstream up {{ server {target}; keepalive 512; }}\n"
            f"server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ proxy_pass http://up;\n"
            'proxy_http_version 1.1; proxy_set_header Connection ""; } } }\n'
        )
        url = f"http://127.0.0.1:{port}"
        return self.start([_found("nginx"), "-c", str(file)], url=url), url

    def bare_proxy(self, upstream: str) -> tuple[Process, str]:
        """Start a proxy of aiohttp alone in front of `upstream`."""
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "tests.benchmarks.bare_proxy", "--upstream", upstream, "--port", str(port)]
        return self.start(command, url=url), url

    def load(
        self,
        url: str,
        bodies: Sequence[bytes],
        *,
        connections: int = 32,
        seconds: float = 4.0,
        warm: float = 1.0,
        every: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> Figures:
        """Call from a process on the other cores; requests and their times."""
        return self.loading(
            url, bodies, connections=connections, seconds=seconds, warm=warm, every=every, headers=headers
        )()

    def loading(
        self,
        url: str,
        bodies: Sequence[bytes],
        *,
        connections: int,
        seconds: float,
        warm: float,
        every: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> Callable[[], Figures]:
        """Begin to call; what is returned waits for the end and gives the figures."""
        command = [sys.executable, "-m", "tests.benchmarks.live_client", "--url", url]
        command += ["--connections", str(connections), "--seconds", str(seconds), "--warm", str(warm)]
        command += ["--every", str(every)] if every else []
        sent = {"Authorization": f"Bearer {self.key}", **(headers or {})}
        command += [word for name, value in sent.items() for word in ("--header", f"{name}: {value}")]
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        pinned(client.pid, self.cores.rest)
        assert client.stdin is not None
        client.stdin.write(b"\n".join(bodies))
        client.stdin.close()
        client.stdin = None

        def figures() -> Figures:
            out, _ = client.communicate(timeout=seconds + warm + 60)
            found: Figures = json.loads(out)
            return found

        return figures


@contextlib.contextmanager
def site(**env: str) -> Iterator[Site]:
    """Citadel on a PostgreSQL and a Redis that nobody else uses; everything is stopped at the end.

    CITADEL_BENCH_HERE=1: on those of DATABASE_URL and REDIS_URL instead, which are migrated and may be filled.
    """
    with contextlib.ExitStack() as opened:
        if os.environ.get("CITADEL_BENCH_HERE"):
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="citadel-bench-")))
            urls = {"database_url": os.environ["DATABASE_URL"], "redis_url": settings.REDIS_URL}
            stack = Stack(**urls, folder=folder)
            opened.callback(stack.stop)
        else:
            stack, _ = opened.enter_context(own_stack())
        stack.common.update(env)
        snapshot.load()
        yield Site(stack, operations.create_key(client="bench", scopes=["embed", "batch", "read"], actor="bench"))


def pinned(pid: int, to: frozenset[int]) -> None:
    """Keep a process, its threads and its children on these cores.

    CITADEL_BENCH_NICE gives them, contenders and clients alike, that priority: on a machine that others use.
    """
    priority = os.environ.get("CITADEL_BENCH_NICE")
    process = psutil.Process(pid)
    for one in [process, *process.children(recursive=True)]:
        for thread in one.threads():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(thread.id, to)
                if priority:
                    os.setpriority(os.PRIO_PROCESS, thread.id, int(priority))


def cpu(pid: int) -> float:
    """Seconds on a processor that a process and its children have used."""
    process = psutil.Process(pid)
    every = [process, *process.children(recursive=True)]
    return sum(t.user + t.system for t in (one.cpu_times() for one in every))


def texts(count: int, words: int, seed: int = 0) -> list[str]:
    """Texts of so many words, each another one."""
    return [
        " ".join([str(seed * BODIES + i), *(WORDS[(i * 7 + j * (i % 5 + 1)) % len(WORDS)] for j in range(words - 1))])
        for i in range(count)
    ]


def citadel_bodies(words: int = 8) -> list[bytes]:
    """Bodies for Citadel's own address."""
    return [json.dumps({"text": text}).encode() for text in texts(BODIES, words)]


def openai_bodies(model: str, words: int = 8) -> list[bytes]:
    """Bodies in OpenAI's form, as a server itself and the peers take them."""
    return [
        json.dumps({"model": model, "input": [text], "encoding_format": "float"}, separators=(",", ":")).encode()
        for text in texts(BODIES, words)
    ]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark of live calls has."""
    made = common_options(description)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--seconds", type=float, default=4.0)
    return made


def report(options: argparse.Namespace, name: str, rows: Mapping[str, Figures], ratios: Mapping[str, float]) -> None:
    """Print a table and the ratios, and write them where they were asked for, with the load of the machine."""
    load = os.getloadavg()
    print(f"\n{name} ({os.cpu_count()} cores, load {load[0]:.1f})")
    columns = list(dict.fromkeys(figure for row in rows.values() for figure in row))
    print("| | " + " | ".join(columns) + " |\n|---" * 1 + "|---" * len(columns) + "|")
    for title, row in rows.items():
        print(f"| {title} | " + " | ".join(f"{row[c]:,.4g}" if c in row else "" for c in columns) + " |")
    for title, ratio in ratios.items():
        print(f"{title}: {ratio:.3g}")
    if any(row.get("errors") for row in rows.values()):
        print("There were errors.")
    if options.json:
        whole = {"bench": name, "rows": rows, "ratios": ratios, "load": load, "cores": os.cpu_count()}
        options.json.write_text(json.dumps(whole | {"short": options.short, "at": time.time()}, indent=2) + "\n")


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise SystemExit(f"{program} is not installed")
    return path


def _listens(url: str) -> bool:
    """Whether anything answers HTTP there, with whatever status."""
    result = subprocess.run(
        [sys.executable, "-c", f"import urllib.request as u; u.urlopen({url!r}, timeout=2)"], capture_output=True
    )
    return result.returncode == 0 or b"HTTPError" in result.stderr
