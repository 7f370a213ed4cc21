"""Redis from a wheel, over a unix socket only. It keeps nothing: what is in it is rebuilt from PostgreSQL."""

import time
from pathlib import Path

import redis

from citadel.quickstart import processes
from citadel.quickstart.launch import Program
from citadel.quickstart.places import Places


def socket(places: Places) -> Path:
    """Return its socket."""
    return places.server_sockets / "redis.sock"


def url(places: Places, number: int = 0) -> str:
    """Return the address of one of its 16 databases."""
    return f"unix://{socket(places)}?db={number}"


def command_line(places: Places) -> str:
    """Return what an operator types to look into it."""
    client = places.redis_server.with_name("redis-cli")
    return f"{client if client.exists() else 'redis-cli'} -s {socket(places)}"


def program(places: Places, *, records: Path, mark: str, port: int = 0) -> Program:
    """Return how to start the server; no TCP without a port."""
    options = {
        "--port": str(port),
        "--bind": "127.0.0.1",
        "--unixsocket": str(socket(places)),
        "--unixsocketperm": "700",
        "--save": "",
        "--appendonly": "no",
        "--dir": str(places.server_sockets),
    }
    return Program(
        name="redis",
        argv=[str(places.redis_server), *(word for option in options.items() for word in option)],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", processes.MARK: mark},
        cwd="/",
        records=str(records),
        uid=places.account.uid if places.account else None,
        gid=places.account.gid if places.account else None,
    )


def answers(url: str) -> bool:
    """Whether a Redis answers there."""
    client = redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def wait(places: Places, *, within: float) -> bool:
    """Wait until it answers."""
    deadline = time.monotonic() + within
    while not answers(url(places)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
