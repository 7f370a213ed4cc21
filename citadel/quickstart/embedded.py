"""PostgreSQL and Redis for as long as a block runs, without supervision: what the tests use where neither answers."""

import contextlib
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from django.core.management.base import CommandError

from citadel.quickstart import places as folders
from citadel.quickstart import postgres_server, processes, redis_server
from citadel.quickstart.launch import Program

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the two answer."""

    database_url: str
    redis_url: str


@contextlib.contextmanager
def running(state: Path) -> Iterator[Addresses]:
    """Start both in a state folder, and stop them at the end. Raises CommandError where one does not start."""
    places = folders.settle(state)
    records = folders.own_folder(places.state / "run", mode=0o700)
    processes.end(processes.read_records(records), within=5, first=signal.SIGINT)
    postgres_server.prepare(places)
    mark = secrets.token_hex(8)
    with contextlib.ExitStack() as started:
        for server in (postgres_server, redis_server):
            program = server.program(places, records=records, mark=f"{mark}/{server.__name__}/")
            started.callback(_stop, start(program, folder=records.parent), program)
        if not (postgres_server.wait(places, within=30) and redis_server.wait(places, within=10)):
            raise CommandError(f"PostgreSQL or Redis did not start: see {places.state}/*.log")
        yield Addresses(database_url=postgres_server.url(places, "postgres"), redis_url=redis_server.url(places))


def start(program: Program, *, folder: Path) -> "subprocess.Popen[bytes]":
    """Start a program through `launch`; its output goes to {name}.log in `folder`."""
    path = program.save(folder)
    with (folder / f"{program.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "citadel.quickstart.launch", str(path)],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _stop(process: "subprocess.Popen[bytes]", program: Program) -> None:
    process.send_signal(signal.Signals[f"SIG{program.stop_signal}"])
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
