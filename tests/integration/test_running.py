"""What is killed here leaves nobody behind: granian's workers would go on without their parent."""

import os
from pathlib import Path

import psutil

from tests.running import Process, wait_until


def test_a_process_that_is_killed_takes_with_it_what_it_has_started(tmp_path: Path) -> None:
    command = ["sh", "-c", "sleep 600 & echo $!; wait"]
    parent = Process("parent", command, env={"PATH": os.defpath}, log=tmp_path / "log", folder=tmp_path)
    wait_until(lambda: parent.tail().endswith("\n"), 10)
    child = psutil.Process(int(parent.tail()))

    parent.kill()

    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
