"""What the benchmarks of the queue stand on: servers of their own, processes, and what each of these has used."""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django
import psutil

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "citadel.settings")
django.setup()

from django.conf import settings  # noqa: E402

from citadel.quickstart import postgres_server  # noqa: E402
from tests.processes import Stack, stack_on  # noqa: E402
from tests.running import Process, answers, free_port, wait_until  # noqa: E402
from tests.servers import Servers  # noqa: E402


@dataclass(frozen=True, slots=True)
class Stub:
    """A running model server stub."""

    process: Process
    url: str


@contextlib.contextmanager
def own_stack(**env: str) -> Iterator[tuple[Stack, Servers]]:
    """Citadel on a PostgreSQL and a Redis that nobody else uses, so that their time on the processor is the bench's."""
    with (
        tempfile.TemporaryDirectory(prefix="citadel-bench-") as folder,
        Servers() as servers,
        stack_on(servers, Path(folder)) as stack,
    ):
        stack.common.update(env)
        settings.REDIS_URL = servers.redis_url
        for queue in settings.RQ_QUEUES.values():
            queue["URL"] = servers.redis_url
        yield stack, servers


def a_stub(stack: Stack, **options: object) -> Stub:
    """Start a stub (tests.benchmarks.embedding_stub) with these options, on the first core."""
    port = free_port()
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "tests.benchmarks.embedding_stub", "--port", str(port), *words]
    process = stack.start("stub", command)
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(f"{url}/control"), 20)
    return Stub(process, url)


class Used:
    """Seconds on a processor that some processes use between two looks. Children that have ended count too."""

    def __init__(self, *pids: int) -> None:
        self._pids, self._before = pids, sum(map(_cpu, pids))

    def seconds(self) -> float:
        """Seconds since it was made."""
        return sum(map(_cpu, self._pids)) - self._before


def _cpu(pid: int) -> float:
    process = psutil.Process(pid)
    times = process.cpu_times()
    total = float(times.user + times.system + times.children_user + times.children_system)
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            spent = child.cpu_times()
            total += float(spent.user + spent.system)
    return total


def postgres_pid(servers: Servers) -> int:
    """The server process above all of PostgreSQL's others."""
    return int((postgres_server.data_folder(servers.places) / "postmaster.pid").read_text().split()[0])


def peak_mb(pid: int) -> float:
    """The most memory that a process has ever had resident, in MB (2**20 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise LookupError("no VmHWM")


def rounds(contenders: Mapping[str, Callable[[], dict[str, float]]], *, times: int) -> dict[str, dict[str, float]]:
    """Measure the contenders in turns (A, B, A, B …) and return the median of each figure."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for number in range(times):
        for name, measure in contenders.items():
            found[name].append(measure())
            told = "  ".join(f"{figure} {value:,.4g}" for figure, value in found[name][-1].items())
            print(f"round {number + 1} {name}: {told}", flush=True)
    return {
        name: {figure: statistics.median([one[figure] for one in measured]) for figure in measured[0]}
        for name, measured in found.items()
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--short", action="store_true", help="a few seconds, to see that it works; the figures say little"
    )
    made.add_argument("--json", type=Path, help="write the figures to this file")
    return made


def report(options: argparse.Namespace, name: str, figures: Mapping[str, Any]) -> None:
    """Print a table, and write the figures where they were asked for. With the load of the machine: it decides much."""
    whole = {"bench": name, **figures, "load": os.getloadavg(), "cores": os.cpu_count(), "short": options.short}
    print(f"\n{name} ({os.cpu_count()} cores, load {os.getloadavg()[0]:.1f})")
    for key, value in figures.items():
        print(f"  {key:<28} {_shown(value)}")
    if options.json:
        options.json.write_text(json.dumps(whole, indent=2) + "\n")


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "  ".join(f"{key} {_shown(one)}" for key, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "  ".join(map(_shown, value))
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
