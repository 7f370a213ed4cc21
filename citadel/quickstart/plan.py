"""What quickstart runs: each program with its whole environment, and supervisord's configuration for all of them."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from citadel.quickstart import fleet, kept, postgres_server, processes, redis_server
from citadel.quickstart.embedded import PROJECT
from citadel.quickstart.fleet import Seat
from citadel.quickstart.launch import Program
from citadel.quickstart.places import Places

WORKERS = 2
# What a child may see of the caller's environment; everything else is said explicitly.
_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
_PASSED_ON_PREFIXES = ("PYTHON", "COVERAGE_", "OPENBLAS_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Programs that start and stop together. Groups stop in turn, the last first; `patience` is in seconds."""

    name: str
    programs: tuple[Program, ...]
    patience: int
    autostart: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One start of quickstart."""

    places: Places
    port: int
    models: tuple[Seat, ...]
    replicas: tuple[Seat, ...]
    database_url: str
    redis_url: str
    embedded_postgres: bool
    embedded_redis: bool

    @property
    def url(self) -> str:
        """Where Citadel answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.places.state

    @property
    def records(self) -> Path:
        """Where each process writes who it is."""
        return self.state / "run"

    @property
    def configuration(self) -> Path:
        """Supervisord's configuration."""
        return self.state / "supervisord.conf"


def passed_on() -> dict[str, str]:
    """Return what children inherit."""
    return {k: v for k, v in os.environ.items() if k in _PASSED_ON or k.startswith(_PASSED_ON_PREFIXES)}


def settings(plan: Plan) -> dict[str, str]:
    """Return Citadel's own settings in a quickstart."""
    return {
        "DJANGO_SETTINGS_MODULE": "citadel.settings",
        "DATABASE_URL": plan.database_url,
        "REDIS_URL": plan.redis_url,
        "SECRET_KEY": kept.secret_key(plan.state),
        "CITADEL_STATE_DIR": str(plan.state),
        # Loopback only: nobody but this machine reaches it, so the first curl needs no key.
        "CITADEL_ANONYMOUS_SCOPES": "embed,batch,read,operate",
        "CITADEL_HTTPS": "false",
        "ALLOWED_HOSTS": "localhost,127.0.0.1,[::1]",
        "BULK_PROCESSING_INTERVAL": "5",
        "WORKER_STOP_TIMEOUT": "2",
        **fleet.environment([*plan.models, *plan.replicas]),
    }


def groups(plan: Plan) -> tuple[Group, ...]:
    """Return everything that is supervised, in the order of starting."""
    marks = kept.mark(plan.state)
    servers = []
    for server, wanted in ((postgres_server, plan.embedded_postgres), (redis_server, plan.embedded_redis)):
        if wanted:
            name = server.__name__.rpartition(".")[2].removesuffix("_server")
            servers.append(server.program(plan.places, records=plan.records, mark=f"{marks}/{name}/"))
    models = [_models(plan, "models", plan.models), _models(plan, "models-replica", plan.replicas)]
    workers = [manage(plan, f"worker-{n}", "worker") for n in range(1, WORKERS + 1)]
    return (
        Group(name="services", programs=tuple(servers), patience=3),
        Group(name="demo", programs=tuple(models), patience=1),
        # They need the tables, which come between.
        Group(
            name="citadel",
            programs=(_web(plan), *workers, manage(plan, "scheduler", "scheduler")),
            patience=3,
            autostart=False,
        ),
    )


def python(plan: Plan, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> Program:
    """Return a Python program that sees Citadel's settings."""
    mark = f"{kept.mark(plan.state)}/{name}/"
    return Program(
        name=name,
        argv=[sys.executable, *arguments],
        env={**passed_on(), **settings(plan), **(env or {}), processes.MARK: mark},
        cwd=str(PROJECT),
        records=str(plan.records),
    )


def manage(plan: Plan, name: str, *arguments: str) -> Program:
    """Return a command of manage.py."""
    return python(plan, name, str(PROJECT / "manage.py"), *arguments)


def _models(plan: Plan, name: str, seats: Sequence[Seat]) -> Program:
    return manage(plan, name, "demo_models", *(f"{seat.slug}={seat.protocol}:{seat.port}" for seat in seats))


def _web(plan: Plan) -> Program:
    options = ["--interface", "asgi", "--host", "127.0.0.1", "--port", str(plan.port), "--no-ws"]
    options += ["--workers", "2", "--respawn-failed-workers", "--respawn-interval", "1", "--workers-kill-timeout", "2"]
    # A client that sends its head a byte at a time is cut off.
    options += ["--http1-header-read-timeout", "10000"]
    return python(plan, "web", "-m", "granian", *options, "citadel.asgi:application")


def write(plan: Plan) -> Program:
    """Write the programs and supervisord's configuration; return supervisord itself as a program."""
    sections = [_supervisord(plan)]
    for place, group in enumerate(groups(plan)):
        names = ",".join(program.name for program in group.programs)
        if names:
            sections += [_section(plan, group, program) for program in group.programs]
            sections.append(f"[group:{group.name}]\nprograms={names}\npriority={place}\n")
    kept.write(plan.configuration, "\n".join(sections))
    return Program(
        name="supervisord",
        argv=[sys.executable, "-m", "supervisor.supervisord", "-c", str(plan.configuration)],
        env={**passed_on(), processes.MARK: f"{kept.mark(plan.state)}/supervisord/"},
        cwd=str(PROJECT),
        records=str(plan.records),
    )


def _supervisord(plan: Plan) -> str:
    socket = _escaped(plan.places.sockets / "supervisor.sock")
    user = "user=root\n" if os.geteuid() == 0 else ""
    return (
        f"[unix_http_server]\nfile={socket}\nchmod=0700\n\n"
        f"[supervisorctl]\nserverurl=unix://{socket}\n\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\n"
        f"[supervisord]\nnodaemon=true\nsilent=true\n{user}"
        f"logfile={_escaped(plan.state / 'logs/supervisord.log')}\nlogfile_maxbytes=10MB\nlogfile_backups=1\n"
        f"pidfile={_escaped(plan.records / 'supervisord.pid')}\n"
    )


def _section(plan: Plan, group: Group, program: Program) -> str:
    saved = program.save(plan.state / "programs")
    lines = {
        "command": _words([sys.executable, "-m", "citadel.quickstart.launch", str(saved)]),
        "directory": _escaped(PROJECT),
        "autostart": str(group.autostart).lower(),
        "autorestart": "true",
        # A second start that fails waits a second, the next two, and so on; it is never given up.
        "startretries": "100000",
        "stopsignal": program.stop_signal,
        "stopwaitsecs": str(group.patience),
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": _escaped(plan.state / f"logs/{program.name}.log"),
        "stdout_logfile_maxbytes": "10MB",
        "stdout_logfile_backups": "2",
    }
    return f"[program:{program.name}]\n" + "".join(f"{name}={value}\n" for name, value in lines.items())


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")


def _words(argv: Iterable[str]) -> str:
    return " ".join('"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"' for word in argv)
