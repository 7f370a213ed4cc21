"""Who the processes of a quickstart are, and how to end them.

A pid alone may have gone to somebody else since, so each process is known by its pid and the moment the kernel started
it; what it started in turn is known by a mark in its environment. Nothing is ever ended by its name.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

MARK = "CITADEL_QUICKSTART"
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One process. `started` is in clock ticks since the boot that `boot` names (proc(5), field 22 of stat)."""

    pid: int
    started: int
    boot: str

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return identify(self.pid) == self

    def send(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def identify(pid: int) -> Identity | None:
    """Return who has this pid now; None for nobody, or a zombie."""
    try:
        # The name, in parentheses, may itself hold blanks and parentheses.
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return Identity(pid=pid, started=int(fields[19]), boot=_boot_id())


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def write_record(folder: Path, name: str) -> None:
    """Write down the calling process as `name`; exec keeps both the pid and the start."""
    me = identify(os.getpid())
    assert me is not None  # nosec B101 # for the type checker
    path = folder / f"{name}.json"
    temporary = path.with_suffix(f".{me.pid}")
    temporary.write_text(json.dumps(asdict(me)))
    temporary.rename(path)


def read_records(folder: Path, name: str = "*") -> list[Identity]:
    """Return the recorded processes (of one name) that still run. A record that is no record is ignored."""
    found = []
    for path in sorted(folder.glob(f"{name}.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append(Identity(**json.loads(path.read_text())))
    return [identity for identity in found if identity.alive()]


def marked(mark: str) -> list[Identity]:
    """Return every other process that was started with a mark that begins so."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if any(v.startswith(wanted) for v in (entry / "environ").read_bytes().split(b"\0")):
                found.append(identify(int(entry.name)))
    return [identity for identity in found if identity is not None]


def end(processes: Iterable[Identity], *, within: float, first: int = signal.SIGTERM) -> None:
    """Send `first` to each, and SIGKILL to those that run `within` seconds later."""
    left = list(processes)
    for process in left:
        process.send(first)
    if not wait_gone(left, within=within):
        for process in left:
            process.send(signal.SIGKILL)
        wait_gone(left, within=2)


def wait_gone(processes: Iterable[Identity], *, within: float) -> bool:
    """Wait until none of them runs; False when one still does after `within` seconds."""
    deadline = time.monotonic() + within
    left = list(processes)
    while left := [p for p in left if p.alive()]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
