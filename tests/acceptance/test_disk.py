"""PostgreSQL's disk is full: nothing accepted is lost, nothing is accepted that is not stored, live calls go on.

The disk is a small tmpfs: this test alone needs root, which CI has.
"""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import requests
from pytest_django import DjangoDbBlocker

from batches.models import BatchJob
from tests.acceptance.test_worker_kills import assert_each_text_has_its_own_vector
from tests.load import Load
from tests.made_api import serve
from tests.processes import stack_on, wait_until
from tests.servers import Servers
from tests.upstreams import Upstream

SCOPES = {"CITADEL_ANONYMOUS_SCOPES": "embed,batch,read,operate"}
# WAL in small pieces and few of them, so that little is enough.
SMALL = {"max_wal_size": "48MB", "min_wal_size": "32MB", "shared_buffers": "16MB"}


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of its own of this size."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free; return the file that holds them."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**20))
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


def test_a_full_disk_loses_nothing_that_was_accepted_and_nothing_is_accepted_that_is_not_stored(
    tmp_path: Path, django_db_blocker: DjangoDbBlocker
) -> None:
    with ExitStack() as stays:
        disk = stays.enter_context(small_disk(220))
        servers = stays.enter_context(Servers(disk / "state", options=SMALL))
        stays.enter_context(django_db_blocker.unblock())
        stack = stays.enter_context(stack_on(servers, tmp_path))
        upstream = stays.enter_context(Upstream())
        serve("m", "real_time", upstream)
        serve("queued", "bulk_only", upstream, batch_size=10, processing_interval=0.2)
        _, url = stack.web(**SCOPES)
        stack.scheduler()
        stack.worker()
        path = f"{url}/api/v1/external"
        accepted: dict[str, list[str]] = {}

        def submit(number: int) -> str:
            texts = [f"text {number}-{i} " + "x" * 2000 for i in range(50)]
            answer = requests.post(f"{path}/queued/embed", json={"texts": texts}, timeout=60)
            if answer.status_code == 202:
                accepted[answer.json()["batch_id"]] = texts
                return "accepted"
            assert int(answer.headers["Retry-After"]) >= 1
            return str(answer.json()["code"])

        assert {submit(number) for number in range(3)} == {"accepted"}
        ballast = fill(disk)
        with Load(f"{path}/m/embed", clients=2, pause=0.02) as live:
            # What PostgreSQL had set aside takes some more; then a submission is refused, and so is the next one.
            outcome = next(outcome for number in range(3, 500) if (outcome := submit(number)) != "accepted")
            assert (outcome, submit(500)) == ("queue_unavailable", "queue_unavailable")
            live.wait_for(20)
            ballast.unlink()
            if not servers.postgres.running:  # it ends where it cannot even write its log; its supervisor starts it
                servers.postgres.start()
            wait_until(lambda: submit(501) == "accepted", 60)
            live.wait_for(20)
        assert set(live.outcomes) == {"ok"}
        for batch_id, texts in accepted.items():
            wait_until(lambda batch_id=batch_id: BatchJob.objects.get(batch_id=batch_id).state == "completed", 60)  # type: ignore[misc]
            assert_each_text_has_its_own_vector(batch_id, texts, upstream)
        assert BatchJob.objects.count() == len(accepted)
