"""PostgreSQL and Redis for as long as a block runs, without supervision: what the tests use where neither answers."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import redis
from django.core.management.base import CommandError

from citadel.quickstart import places as folders
from citadel.quickstart import ports, postgres_server, processes, redis_server
from citadel.quickstart.launch import Program
from citadel.quickstart.places import Places

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Where the two answer on 127.0.0.1. Both ask for the password; libpq takes it from PGPASSWORD."""

    postgres_port: int
    redis_port: int
    password: str


@contextlib.contextmanager
def running(state: Path) -> Iterator[Servers]:
    """Start both in a state folder, on sockets and on free ports of 127.0.0.1, and stop them at the end.

    Raises CommandError where one does not start.
    """
    places = folders.settle(state)
    records = folders.own_folder(places.state / "run", mode=0o700)
    processes.end(processes.read_records(records), within=5, first=signal.SIGINT)
    postgres_server.prepare(places)
    mark, (postgres_port, redis_port) = secrets.token_hex(8), ports.free(2)
    with contextlib.ExitStack() as started:
        for server, port in ((postgres_server, postgres_port), (redis_server, redis_port)):
            program = server.program(places, records=records, mark=f"{mark}/{port}/", port=port)
            started.callback(_stop, start(program, folder=places.state), program)
        if not postgres_server.wait(places, within=30, port=postgres_port) or not redis_server.wait(places, within=10):
            raise CommandError(f"PostgreSQL or Redis did not start: see the logs in {places.state}")
        servers = Servers(postgres_port=postgres_port, redis_port=redis_port, password=secrets.token_hex(16))
        _protect(places, servers)
        yield servers


def _protect(places: Places, servers: Servers) -> None:
    """Let nobody else on this machine in. Through the sockets: a command line is there for all to read."""
    connection = psycopg2.connect(postgres_server.url(places, "postgres", port=servers.postgres_port))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("ALTER ROLE postgres PASSWORD %s", [servers.password])
    finally:
        connection.close()
    client = redis.Redis.from_url(redis_server.url(places))
    client.config_set("requirepass", servers.password)
    client.close()


def start(program: Program, *, folder: Path) -> "subprocess.Popen[bytes]":
    """Start a program through `launch`; its output goes to {name}.log in `folder`."""
    path = program.save(folder)
    with (folder / f"{program.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "citadel.quickstart.launch", str(path)],
            cwd=PROJECT,
            # Marked from the first moment: a stop may come before launch has written down who it is.
            env={**os.environ, processes.MARK: program.env[processes.MARK]},
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
