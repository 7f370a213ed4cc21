"""`python -m citadel.quickstart.launch PROGRAM.json`: what supervisord starts for each program of a quickstart.

It writes down who it is, ends what the last process of that name left behind, drops root where told to, and becomes
the program. Standard library alone: it runs before each start and restart, in about 40 ms.
"""

import ctypes
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from citadel.quickstart import processes

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program: `env` is its whole environment; `uid` None keeps the caller's account."""

    name: str
    argv: list[str]
    env: dict[str, str]
    cwd: str
    records: str
    uid: int | None = None
    gid: int | None = None
    stop_signal: str = "TERM"
    groups: list[int] = field(default_factory=list)

    def save(self, folder: Path) -> Path:
        """Write it for `launch`; only its owner may read it, for its environment holds secrets."""
        path = folder / f"{self.name}.json"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(self), file)
        return path


def launch(program: Program) -> None:
    """Become the program; does not return."""
    _end_leftovers(program)
    processes.write_record(Path(program.records), program.name)
    if program.uid is not None and program.gid is not None:
        os.setgroups(program.groups)
        os.setgid(program.gid)
        os.setuid(program.uid)
    # After the change of account, which clears it: the kernel stops the program when supervisord is killed.
    number = signal.Signals[f"SIG{program.stop_signal}"]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    os.chdir(program.cwd)
    os.execve(program.argv[0], program.argv, program.env)  # nosec B606 # a program of our own list


def _end_leftovers(program: Program) -> None:
    """A killed server may leave workers that hold its port: they carry the name that its environment gave them."""
    mark = program.env.get(processes.MARK)
    if mark:
        processes.end(processes.marked(mark), within=1)


if __name__ == "__main__":
    launch(Program(**json.loads(Path(sys.argv[1]).read_text())))
