"""What quickstart tells the person in front of it."""

import shlex
import sys
from pathlib import Path

from citadel.quickstart import kept, plan, redis_server
from citadel.quickstart.plan import Plan
from citadel.quickstart.prepare import OPERATOR


def welcome(started: Plan, *, password_known: bool) -> str:
    """Return where everything is."""
    password = kept.operator_password(started.state) if password_known else "(the one you changed it to)"
    lines = {
        "Admin": f"{started.url}/admin/",
        "Log in as": f"{OPERATOR} / {password}",
        "API": f"{started.url}/api/docs/",
        "OpenAI": f"OPENAI_BASE_URL={started.url}/v1 OPENAI_API_KEY={kept.api_key(started.state)}",
        "Queue": f"{_redis_cli(started)} llen batch_queue",
        "Processes": f"{_python()} -m supervisor.supervisorctl -c {_short(started.configuration)} status",
        "manage.py": f"set -a; . {_short(environment_file(started))}; set +a; {_python()} manage.py diagnose",
        "Logs": f"{_short(started.state / 'logs')}",
    }
    table = "\n".join(f"  {name:<10} {value}" for name, value in lines.items())
    return f"Citadel is running: nine models, on demo servers with real embeddings.\n\n{table}\n\n{_try(started)}"


def _try(started: Plan) -> str:
    live = """'{"text": "test embedding", "urgent": true}'"""
    queued = """'{"texts": ["text1", "text2", "text3"], "batch": true}'"""
    address = f"{started.url}/api/v1/external"
    return (
        "Try:\n\n"
        f"  curl -X POST {address}/phi3/embed -H 'Content-Type: application/json' -d {live}\n"
        f"  curl -X POST {address}/mixtral/embed -H 'Content-Type: application/json' -d {queued}\n"
        f"  curl {address}/patterns/status\n\n"
        "Ctrl-C stops everything."
    )


def environment_file(started: Plan) -> Path:
    """Return the file with which a shell's manage.py finds this Citadel."""
    return started.state / "env"


def write_environment(started: Plan) -> None:
    """Write that file, for a shell to read."""
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in plan.settings(started).items()]
    kept.write(environment_file(started), "".join(lines))


def _redis_cli(started: Plan) -> str:
    if started.embedded_redis:
        return redis_server.command_line(started.places)
    return "redis-cli -u $REDIS_URL"


def _python() -> str:
    return _short(Path(sys.executable))


def _short(path: Path) -> str:
    """Return a path as a person in the current folder would type it."""
    relative = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return shlex.quote(str(relative))
