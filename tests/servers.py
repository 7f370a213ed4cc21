"""PostgreSQL and Redis of a test's own, that it may kill, restart, fill up or run under another clock.

Both are the wheels' servers, on unix sockets alone, in a state folder that is removed at the end.
"""

import dataclasses
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from citadel.quickstart import embedded, places, postgres_server, processes, redis_server
from citadel.quickstart.launch import Program


class Server:
    """One of the two."""

    def __init__(
        self, build: Callable[[], Program], *, folder: Path, prepare: Callable[[], None], answers: Callable[[], bool]
    ) -> None:
        self._build, self._folder, self._prepare, self._answers = build, folder, prepare, answers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, within: float = 60.0) -> None:
        """Start it, also after a kill, and wait until it answers."""
        ends = time.monotonic() + within
        while True:
            self._prepare()
            self._process = embedded.start(self._build(), folder=self._folder)
            while self._process.poll() is None:
                if self._answers():
                    return
                assert time.monotonic() < ends, f"no server within {within} s: see {self._folder}"
                time.sleep(0.05)
            # PostgreSQL refuses while a process of the one before is still letting go of its shared memory.
            assert time.monotonic() < ends, f"the server ends again and again: see {self._folder}"
            time.sleep(0.2)

    def kill(self) -> None:
        """End it as the kernel would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Let it end by itself."""
        self._end(signal.Signals[f"SIG{self._build().stop_signal}"])

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None


class Servers:
    """Both; use it as a context manager.

    state: the folder to use, which stays; else a new one. env: further variables for both servers. options: further
    ones of PostgreSQL.
    """

    def __init__(
        self,
        state: Path | None = None,
        *,
        env: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._kept = state is not None
        self.places = places.settle(state or Path(tempfile.mkdtemp(prefix="citadel-servers-")))
        self._env, self._options, self._mark = dict(env or {}), dict(options or {}), secrets.token_hex(8)
        self._records = places.own_folder(self.places.state / "run", mode=0o700)
        self.postgres = Server(
            self._postgres,
            folder=self.places.state,
            prepare=lambda: postgres_server.prepare(self.places),
            answers=lambda: postgres_server.answers(self.places),
        )
        self.redis = Server(
            self._redis,
            folder=self.places.state,
            prepare=lambda: None,
            answers=lambda: redis_server.answers(redis_server.url(self.places)),
        )
        self.redis_url = redis_server.url(self.places)

    def database_url(self, name: str) -> str:
        """The address of one of its databases."""
        return postgres_server.url(self.places, name)

    def program(self, name: str) -> Path:
        """One of PostgreSQL's client programs, of the server's own version."""
        return self.places.postgres_bin / name

    def __enter__(self) -> Self:
        self.postgres.start()
        self.redis.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.stop()
        self.postgres.stop()
        processes.end(processes.marked(self._mark), within=5)
        if not self._kept:
            self.places.remove()

    def _postgres(self) -> Program:
        program = postgres_server.program(self.places, records=self._records, mark=f"{self._mark}/postgres/")
        more = [word for name, value in self._options.items() for word in ("-c", f"{name}={value}")]
        return dataclasses.replace(program, argv=[*program.argv, *more], env={**program.env, **self._env})

    def _redis(self) -> Program:
        program = redis_server.program(self.places, records=self._records, mark=f"{self._mark}/redis/")
        return dataclasses.replace(program, env={**program.env, **self._env})
