"""A process that a test starts, and waiting for what it does: without Django, for tests that have no configuration."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import requests

ROOT = Path(__file__).resolve().parent.parent
# Short times, so that what waits for a time to pass does not wait long. The lease stays what it is in production.
QUICK = {
    "BULK_PROCESSING_INTERVAL": "0.2",
    "CHUNK_BACKOFF": "0.2",
    "CHUNK_BACKOFF_MAX": "1",
    "SCHEDULER_INTERVAL": "0.3",
    "BREAKER_RESET_TIMEOUT": "1",
}

WEB = (sys.executable, "-m", "granian", "citadel.asgi:application", "--interface", "asgi")


class Process:
    """One running process of Citadel, in a process group of its own; what it writes is in `log`."""

    def __init__(
        self, name: str, command: list[str], *, env: Mapping[str, str], log: Path, folder: Path = ROOT
    ) -> None:
        self.name, self.log = name, log
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command, env=env, cwd=folder, stdout=output, stderr=subprocess.STDOUT, process_group=0
            )
        self.pid = self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def go_on(self) -> None:
        """End a SIGSTOP, of what it has started too: granian waits for a worker that stands still."""
        if self.running and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED:
            os.killpg(self.pid, signal.SIGCONT)
            # A signal right behind it would come to a thread other than the main one, which then sleeps on.
            time.sleep(0.1)

    def kill(self) -> None:
        """End it as the kernel would, with what it has started: nobody gets a word in."""
        if self.running:  # not waited for yet, so that the number is its group's and no other's
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def stop(self, *, within: float = 10.0) -> float:
        """Send SIGTERM and wait; return the seconds it took. Fails when it takes over `within`, or goes wrong."""
        started = time.monotonic()
        self._popen.terminate()
        try:
            code = self.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not stop within {within} s:\n{self.tail()}") from None
        assert code == 0, f"{self.name} ended with {code}:\n{self.tail()}"
        return time.monotonic() - started

    def wait(self, timeout: float) -> int:
        """Wait until it ends by itself; return its exit status."""
        return self._popen.wait(timeout)

    def tail(self, characters: int = 4000) -> str:
        """The end of what it wrote."""
        return self.log.read_text(errors="replace")[-characters:]


def wait_until(condition: Callable[[], bool], seconds: float, *, every: float = 0.05) -> None:
    """Wait until `condition()` holds; fail when that takes longer than `seconds`."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"not within {seconds} s"
        time.sleep(every)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a GET of this URL is answered with a good status."""
    try:
        return requests.get(url, timeout=1).ok
    except requests.RequestException:
        return False


def takes_connections(path: Path) -> bool:
    """Whether somebody listens on this unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
