"""One run of quickstart: everything started in order, watched, and stopped."""

import contextlib
import http.client
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
from django.core.management.base import CommandError

from citadel.quickstart import embedded, kept, plan, postgres_server, prepare, processes, redis_server
from citadel.quickstart.places import own_folder
from citadel.quickstart.plan import Plan

# What supervisord may take for an orderly stop; then everything that is left is killed. The whole stays under 10 s.
_ORDERLY = 7.5
_PASSWORD_CHANGED = 3


_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Ctrl-C, SIGTERM or SIGHUP came."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn each of the signals that mean "stop" into Stopped, once; later ones do not disturb the stopping."""

    def stop(_number: int, _frame: Any) -> None:
        _ignore_stops()
        raise Stopped

    before = {number: signal.signal(number, stop) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_stops() -> None:
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)


@dataclass(slots=True, kw_only=True)
class Session:
    """A started quickstart. `say` gets a line for each step."""

    plan: Plan
    say: Callable[[str], None]
    password_known: bool = True
    _supervisord: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def start(self) -> None:
        """Start everything and wait until Citadel answers. Raises CommandError, and then some of it may run."""
        self.end_leftovers()
        for name in ("run", "logs", "programs"):
            own_folder(self.plan.state / name, mode=0o700)
        if self.plan.embedded_postgres:
            postgres_server.prepare(self.plan.places)
        self._supervisord = embedded.start(plan.write(self.plan), folder=self.plan.state / "programs")
        self._start_servers()
        self.say("Bringing the database up to date")
        self._prepare()
        # A worker that goes on with old batches at once would count the servers' own start as failures.
        self._wait_models(within=60)
        self.say("Starting Citadel")
        self._supervisorctl("start", "citadel:*")
        self._wait_ready(within=90)

    def end_leftovers(self) -> None:
        """End what the last run left behind, if it was killed."""
        left = self._running()
        if left:
            self.say(f"Ending {len(left)} processes of a run that was killed")
            self._end()

    def watch(self) -> None:
        """Return when supervisord ends, which it does not by itself."""
        assert self._supervisord is not None  # nosec B101 # for the type checker
        self._supervisord.wait()
        raise CommandError(f"supervisord has ended: see {self.plan.state}/logs/supervisord.log")

    def stop(self) -> None:
        """Stop every process of this state, within 10 s."""
        _ignore_stops()
        self._end()
        if self._supervisord is not None:
            self._supervisord.wait()

    def _end(self) -> None:
        supervisord = processes.read_records(self.plan.records, "supervisord")
        for process in supervisord:
            process.send(signal.SIGTERM)
        processes.wait_gone(supervisord, within=_ORDERLY)
        processes.end(self._running(), within=0.3, first=signal.SIGKILL)

    def _running(self) -> list[processes.Identity]:
        known = [*processes.read_records(self.plan.records), *processes.marked(f"{kept.mark(self.plan.state)}/")]
        return list(dict.fromkeys(known))

    def _start_servers(self) -> None:
        places = self.plan.places
        if self.plan.embedded_postgres:
            self.say("Starting PostgreSQL, Redis and the demo model servers")
            if not postgres_server.wait(places, within=60):
                raise CommandError(self._failed("postgres"))
            _make_database(postgres_server.url(places, "postgres"), "citadel")
        if self.plan.embedded_redis and not redis_server.wait(places, within=20):
            raise CommandError(self._failed("redis"))

    def _prepare(self) -> None:
        state = self.plan.state
        given = {prepare.PASSWORD: kept.operator_password(state), prepare.API_KEY: kept.api_key(state)}
        program = plan.python(self.plan, "prepare", "-m", "citadel.quickstart.prepare", env=given)
        done = embedded.start(program, folder=self.plan.state / "programs").wait()
        if done not in (0, _PASSWORD_CHANGED):
            raise CommandError(self._failed("prepare", folder="programs"))
        self.password_known = done == 0

    def _supervisorctl(self, *words: str) -> None:
        argv = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.plan.configuration), *words]
        done = subprocess.run(argv, env=plan.passed_on(), capture_output=True, text=True)
        if done.returncode != 0:
            raise CommandError(f"supervisorctl {' '.join(words)}: {done.stdout.strip()} {done.stderr.strip()}")

    def _wait_models(self, *, within: float) -> None:
        for name, seats in (("models", self.plan.models), ("models-replica", self.plan.replicas)):
            if not _answers(seats[-1].port, "/health", within=within):
                raise CommandError(self._failed(name))

    def _wait_ready(self, *, within: float) -> None:
        if not _answers(self.plan.port, "/health/ready?need=queue", within=within):
            raise CommandError(f"Citadel is not ready after {within:.0f} s. {self._failed('web')}")

    def _failed(self, name: str, *, folder: str = "logs") -> str:
        log = self.plan.state / folder / f"{name}.log"
        return f"{name} did not start. The end of {log}:\n{_tail(log)}"


def _make_database(url: str, name: str) -> None:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
            if cursor.fetchone() is None:
                cursor.execute(f'CREATE DATABASE "{name}"')
    finally:
        connection.close()


def _answers(port: int, path: str, *, within: float) -> bool:
    """Wait until a server of this machine answers 200."""
    deadline = time.monotonic() + within
    while _get(port, path) != 200:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _get(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _tail(path: Path, lines: int = 15) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""
