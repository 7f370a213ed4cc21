"""Citadel's real processes on a database of their own, for tests that kill them.

    def test_something(stack: Stack) -> None:
        with Upstream() as upstream:
            serve_model(upstream)                     # in the stack's database, which this process uses too
            worker, scheduler = stack.worker(), stack.scheduler()
            ...
            worker.kill()                             # kill -9
            wait_until(lambda: ..., 30)

The `stack` fixture points this process's ORM at that database and empties this run's Redis database; at the end it
stops what was started (by SIGTERM, so that coverage is written) and removes every row. `shared_stack` does it once for
all tests of a file: a process takes seconds to start.
"""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import environ
import psycopg2
import pytest
import redis
from django.conf import settings
from django.db import connection, connections, transaction
from pytest_django import DjangoDbBlocker

from batches.models import WorkerHeartbeat
from integrations import recorder, snapshot
from integrations.models import Endpoint, ModelConfig, PatternAssignment
from tests.running import QUICK, ROOT, WEB, Process, answers, free_port, takes_connections, wait_until
from tests.servers import Servers
from tests.upstreams import Upstream

SECRET_KEY = "only-for-tests"


class Stack:
    """Starts Citadel's processes on one database and one Redis database. code: where their code lies."""

    def __init__(self, *, database_url: str, redis_url: str, folder: Path, code: Path = ROOT) -> None:
        self.database_url, self.redis_url, self.folder, self._code = database_url, redis_url, folder, code
        self.redis = redis.Redis.from_url(redis_url)
        # Further variables for every process that is started from now on.
        self.common: dict[str, str] = {}
        self._processes: list[Process] = []

    def env(self, **changes: str) -> dict[str, str]:
        """The environment of its processes."""
        own = {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url, "SECRET_KEY": SECRET_KEY}
        state = {"CITADEL_STATE_DIR": str(self.folder), "DJANGO_SETTINGS_MODULE": "citadel.settings"}
        return {**os.environ, **QUICK, **own, **state, **self.common, **changes}

    def manage(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command of manage.py to its end."""
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, env=self.env(**env), cwd=self._code, capture_output=True, text=True, timeout=120)

    def worker(self, **env: str) -> Process:
        """Start a worker and wait for its first heartbeat."""
        name = f"worker-{uuid.uuid4().hex[:8]}"
        process = self.start(name, [sys.executable, "manage.py", "worker", "--name", name], **env)
        self._wait_for(process, lambda: WorkerHeartbeat.objects.filter(name=name).exists())
        return process

    def scheduler(self, **env: str) -> Process:
        """Start a scheduler and wait for its first heartbeat."""
        process = self.start("scheduler", [sys.executable, "manage.py", "scheduler"], **env)
        self._wait_for(process, lambda: WorkerHeartbeat.objects.filter(pid=process.pid, kind="scheduler").exists())
        return process

    def web(self, *, processes: int = 1, **env: str) -> tuple[Process, str]:
        """Start the web server and wait until it answers; return it and its base URL."""
        port = free_port()
        command = [*WEB, "--host", "127.0.0.1", "--port", str(port), "--workers", str(processes)]
        url = f"http://127.0.0.1:{port}"
        process = self.start("web", command, **env)
        self._wait_for(process, lambda: answers(f"{url}/health/live"))
        return process, url

    def web_behind(self, socket_: Path, *, processes: int = 1, **env: str) -> Process:
        """Start the web server on a unix socket, as behind a proxy, and wait until it takes connections."""
        options = ("--uds", str(socket_), "--workers", str(processes), "--respawn-interval", "1")
        process = self.start("web", [*WEB, *options], **env)
        self._wait_for(process, lambda: takes_connections(socket_))
        return process

    def start(self, name: str, command: list[str], **env: str) -> Process:
        """Start any process; it is stopped with the stack."""
        log = self.folder / f"{name}-{len(self._processes)}.log"
        process = Process(name, command, env=self.env(**env), log=log, folder=self._code)
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """Stop what still runs."""
        running = [process for process in self._processes if process.running]
        for process in running:
            process.go_on()
            process.signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(12)
            except subprocess.TimeoutExpired:
                process.kill()

    def _wait_for(self, process: Process, ready: Callable[[], bool]) -> None:
        def look() -> bool:
            assert process.running, f"{process.name} ended:\n{process.tail()}"
            return ready()

        try:
            wait_until(look, 60)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{process.tail()}") from None


def serve_model(
    *upstreams: Upstream | str,
    slug: str = "m",
    pattern: str = "bulk_only",
    protocol: str = "ollama",
    max_in_flight: int | None = None,
    fields: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """Store a model at these upstreams (or URLs), its assignment with `fields`, and make it known to this process."""
    model = ModelConfig.objects.create(slug=slug, upstream_model="test-model")
    PatternAssignment.objects.create(model=model, pattern=pattern, **(fields or {}))
    for position, upstream in enumerate(upstreams):
        url, spoken = (upstream, protocol) if isinstance(upstream, str) else (upstream.url, upstream.protocol)
        own = {"url": url, "protocol": spoken, "max_in_flight": max_in_flight}
        Endpoint.objects.create(model=model, position=position, **own)
    snapshot.bump()
    snapshot.load()
    return model


@pytest.fixture(scope="session")
def stack_database() -> Iterator[str]:
    """The name of a migrated database, not pytest-django's: every process may commit to it."""
    name = f"citadel_stack_{os.getpid()}"
    with _administrator() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    try:
        env = {**os.environ, "DATABASE_URL": _url(name)}
        migrate = [sys.executable, "manage.py", "migrate", "-v0", "--skip-checks"]
        subprocess.run(migrate, env=env, cwd=ROOT, check=True, timeout=120)
        yield name
    finally:
        with _administrator() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def stack(stack_database: str, django_db_blocker: DjangoDbBlocker, tmp_path: Path) -> Iterator[Stack]:
    """A stack with nothing running; this process's ORM and Redis settings mean the stack's databases."""
    with django_db_blocker.unblock(), _on_the_tests_servers(stack_database, tmp_path) as built:
        yield built


@pytest.fixture(scope="module")
def shared_stack(
    stack_database: str, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The same for all tests of a file: what one has started or stored is there for the next."""
    folder = tmp_path_factory.mktemp("stack")
    with django_db_blocker.unblock(), _on_the_tests_servers(stack_database, folder) as built:
        yield built


@contextlib.contextmanager
def _on_the_tests_servers(database: str, folder: Path) -> Iterator[Stack]:
    built = Stack(database_url=_url(database), redis_url=settings.REDIS_URL, folder=folder)
    built.redis.flushdb()
    with _connected_to(database):
        try:
            yield built
        finally:
            built.stop()
            recorder.stop()
            _empty_tables()
            built.redis.flushdb()
            built.redis.close()


def _empty_tables() -> None:
    """Remove every row of ours. DELETE, since TRUNCATE and DROP DATABASE wait for the disk once a table or more."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        cursor.execute("SET LOCAL session_replication_role = replica")  # no foreign keys, in any order
        for table in connection.introspection.django_table_names(only_existing=True):
            if table.startswith(("integrations_", "batches_", "citadel_")):
                cursor.execute(f'DELETE FROM "{table}"')


@contextlib.contextmanager
def stack_on(servers: Servers, folder: Path, *, restored: bool = False) -> Iterator[Stack]:
    """A stack on servers of its own, on which this process's ORM works, too. restored: its database is there."""
    url = servers.database_url("citadel")
    stack = Stack(database_url=url, redis_url=servers.redis_url, folder=folder)
    if not restored:
        with contextlib.closing(psycopg2.connect(servers.database_url("postgres"))) as server:
            server.autocommit = True
            server.cursor().execute("CREATE DATABASE citadel")
        assert stack.manage("migrate", "-v0", "--skip-checks").returncode == 0
    configured = connections.settings["default"]
    before = configured.copy()
    found = environ.Env.db_url_config(url)
    connection.close()
    configured.update({name: found.get(name, "") for name in ("HOST", "PORT", "USER", "PASSWORD", "NAME")})
    configured["OPTIONS"] = {**before["OPTIONS"], **found.get("OPTIONS", {})}
    try:
        yield stack
    finally:
        stack.stop()
        recorder.stop()
        connection.close()
        configured.update(before)
        stack.redis.close()


@contextlib.contextmanager
def _connected_to(name: str) -> Iterator[None]:
    configured = connections.settings["default"]
    before = configured["NAME"]
    connection.close()
    configured["NAME"] = name
    try:
        yield
    finally:
        connection.close()
        configured["NAME"] = before


@contextlib.contextmanager
def _administrator() -> Iterator[Any]:
    server = psycopg2.connect(_url("postgres"))
    server.autocommit = True
    try:
        with server.cursor() as cursor:
            yield cursor
    finally:
        server.close()


def _url(name: str) -> str:
    """The tests' server, another database of it."""
    return os.environ["DATABASE_URL"].rsplit("/", 1)[0] + f"/{name}"
