"""What is killed here leaves nobody behind, what stands still goes on: else granian's workers outlive their parent."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.running import Process, wait_until


@pytest.fixture
def family(tmp_path: Path) -> Iterator[tuple[Process, psutil.Process]]:
    """A process and one that it has started."""
    command = ["sh", "-c", "sleep 600 & echo $!; wait"]
    parent = Process("parent", command, env={"PATH": os.defpath}, log=tmp_path / "log", folder=tmp_path)
    wait_until(lambda: parent.tail().endswith("\n"), 10)
    yield parent, psutil.Process(int(parent.tail()))
    parent.kill()


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more; who waits for orphans here may take a while."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_process_that_is_killed_takes_with_it_what_it_has_started(family: tuple[Process, psutil.Process]) -> None:
    parent, child = family

    parent.kill()

    wait_until(lambda: has_ended(child), 10)


def test_a_process_that_stands_still_goes_on_with_what_it_has_started(family: tuple[Process, psutil.Process]) -> None:
    parent, child = family
    both = (child, psutil.Process(parent.pid))
    for process in both:
        process.send_signal(signal.SIGSTOP)
    wait_until(lambda: {process.status() for process in both} == {psutil.STATUS_STOPPED}, 10)

    parent.go_on()

    wait_until(lambda: {process.status() for process in both} == {psutil.STATUS_SLEEPING}, 10)
