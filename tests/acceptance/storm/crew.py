"""What keeps Citadel running in the storm: a supervisor that starts again what has ended, as systemd does."""

import random
import sys
import time
from dataclasses import dataclass, field

from tests.processes import Stack
from tests.running import WEB, Process, free_port
from tests.servers import Server, Servers

WORKERS = ("worker 1", "worker 2", "worker 3")
SERVICES = ("redis", "postgres")


@dataclass(slots=True)
class Member:
    """One process of Citadel: what runs now, and when the next one starts."""

    role: str
    process: Process | None = None
    due: float = 0.0  # time.monotonic()


@dataclass(slots=True)
class Service:
    """Redis or PostgreSQL: `fell`, in seconds since 1970, while it is away; then when it comes back."""

    server: Server
    fell: float | None = None
    due: float = 0.0
    outages: list[tuple[float, float]] = field(default_factory=list)


class Crew:
    """Three workers, a web server, a scheduler, and the two services that they need."""

    def __init__(self, stack: Stack, servers: Servers, rng: random.Random) -> None:
        self._stack, self._rng = stack, rng
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.members = {role: Member(role) for role in (*WORKERS, "web", "scheduler")}
        self.services = {"redis": Service(servers.redis), "postgres": Service(servers.postgres)}
        self.ended: list[str] = []  # what ended although nobody killed it
        self._started = 0

    def tend(self) -> None:
        """Start what is due."""
        now = time.monotonic()
        for service in self.services.values():
            if service.fell is not None and service.due <= now:
                service.server.start()
                service.outages.append((service.fell, time.time()))
                service.fell = None
        for member in self.members.values():
            if member.process is not None and not member.process.running:
                self.ended.append(f"{member.role} ended by itself:\n{member.process.tail()}")
                member.process, member.due = None, now + 1
            if member.process is None and member.due <= now:
                member.process = self._start(member.role)

    def settle(self) -> None:
        """Have everything running."""
        for service in self.services.values():
            service.due = 0.0
        for member in self.members.values():
            member.due = 0.0
        self.tend()

    def kill(self, role: str) -> str:
        """End a process as the kernel would, with its children; return its name, "" where it does not run."""
        member = self.members[role]
        if member.process is None:
            return ""
        name = member.process.name
        member.process.kill()
        member.process, member.due = None, time.monotonic() + self._rng.uniform(0, 1)
        return name

    def kill_service(self, name: str) -> bool:
        """The same for Redis or PostgreSQL, which stays away for a moment; False where it is away already."""
        service = self.services[name]
        if service.fell is not None:
            return False
        service.fell, service.due = time.time(), time.monotonic() + self._rng.uniform(0, 2)
        service.server.kill()
        return True

    @property
    def outages(self) -> list[tuple[float, float]]:
        """From when until when a service was away, in seconds since 1970."""
        return [outage for service in self.services.values() for outage in service.outages]

    def _start(self, role: str) -> Process:
        self._started += 1
        name = f"{role.replace(' ', '-')}-{self._started}"
        manage = [sys.executable, "manage.py"]
        commands = {
            "web": [*WEB, "--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"],
            "scheduler": [*manage, "scheduler"],
        }
        return self._stack.start(name, commands.get(role) or [*manage, "worker", "--name", name])
