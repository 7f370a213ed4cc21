"""From what the caller asked for, and DATABASE_URL and REDIS_URL, to a plan."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import redis
from django.core.management.base import CommandError
from django.db import DatabaseError, connection

from citadel.quickstart import fleet, kept, places, ports, postgres_server, redis_server
from citadel.quickstart.plan import Plan

WEB_PORT = 8000
MODELS_PORT = 11400


def make_plan(state: Path, *, port: int | None, models_port: int | None, free: bool) -> Plan:
    """Settle folders and ports. With `free`, ports that were not given are any free ones. Raises CommandError."""
    settled = places.settle(state)
    count = len(fleet.FLEET) + len(fleet.REPLICAS)
    first = models_port or MODELS_PORT
    proposed = ports.free(count, together=True) if free and models_port is None else list(range(first, first + count))
    seated = kept.ports(settled.state, proposed)
    if models_port not in (None, seated[0]):
        raise CommandError(
            f"In {settled.state} the demo servers have the ports from {seated[0]} on; leave --models-port."
        )
    models, replicas = fleet.seats(seated)
    database_url, redis_url = os.environ.get("DATABASE_URL", ""), os.environ.get("REDIS_URL", "")
    _require_answers(database_url, redis_url)
    return Plan(
        places=settled,
        port=port or (ports.free(1)[0] if free else WEB_PORT),
        models=models,
        replicas=replicas,
        database_url=database_url or postgres_server.url(settled, "citadel"),
        redis_url=redis_url or redis_server.url(settled),
        embedded_postgres=not database_url,
        embedded_redis=not redis_url,
    )


def require_ports(plan: Plan) -> None:
    """Raise CommandError where one of the plan's ports is taken."""
    wanted = {plan.port: "web; --port gives another"}
    for seat in (*plan.models, *plan.replicas):
        wanted[seat.port] = f"demo server of {seat.slug}; --models-port gives others"
    ports.require_free(wanted)


def _require_answers(database_url: str, redis_url: str) -> None:
    """Set but not answering is an error: starting another one in its place would hide it."""
    if database_url:
        try:
            connection.ensure_connection()
        except DatabaseError as error:
            raise CommandError(f"DATABASE_URL is set, but that PostgreSQL does not answer: {error}".strip()) from error
        finally:
            connection.close()
    if redis_url and not redis_server.answers(redis_url):
        where = urlsplit(redis_url)._replace(query="")
        raise CommandError(f"REDIS_URL is set, but no Redis answers there ({where.hostname or where.path}).")


@contextlib.contextmanager
def throwaway(plan: Plan) -> Iterator[Plan]:
    """Keep a check away from the data of the given servers: a database of its own, and only an empty Redis."""
    with contextlib.ExitStack() as undo:
        if not plan.embedded_redis:
            undo.callback(_emptied(plan.redis_url).flushdb)
        if not plan.embedded_postgres:
            name = f"citadel_check_{secrets.token_hex(4)}"
            with connection.cursor() as cursor:
                cursor.execute(f'CREATE DATABASE "{name}"')
            undo.callback(_drop, name)
            plan = replace(plan, database_url=urlsplit(plan.database_url)._replace(path=f"/{name}").geturl())
        yield plan


def _emptied(url: str) -> "redis.Redis":
    client = redis.Redis.from_url(url)
    if keys := client.dbsize():
        raise CommandError(f"REDIS_URL names a database that holds {keys} keys; a check needs an empty one.")
    return client


def _drop(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    connection.close()
