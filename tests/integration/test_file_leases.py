"""One process at a time has a batch of a file in its hands."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from batches import clock, file_clerk, file_intake, file_lease, file_output
from batches.models import FileBatch, StoredFile
from tests.fixtures_files import LINES, create, get, released, work
from tests.processes import wait_until


def test_one_process_has_a_file_and_who_comes_too_late_leaves_nothing(file_api: Client) -> None:
    batch = create(file_api, *LINES)
    slow = file_lease.claim()
    assert slow is not None
    assert file_lease.claim() is None  # held
    FileBatch.objects.update(lease_until=clock.now() - timedelta(seconds=1))  # as after a kill -9
    assert file_clerk.do_one()
    with pytest.raises(file_lease.Lost):
        file_intake.take_in(slow)
    assert len(released(batch)) == 3

    work(batch)
    slow = file_lease.claim()
    assert slow is not None
    assert slow.state == "finalizing"
    FileBatch.objects.update(lease_until=clock.now() + timedelta(hours=1))  # the clock has stepped back
    assert file_clerk.do_one()
    outputs = {row.file_id for row in StoredFile.objects.filter(purpose="batch_output", state="ready")}
    with pytest.raises(file_lease.Lost):
        file_output.give_out(slow)
    assert {row.file_id for row in StoredFile.objects.filter(purpose="batch_output", state="ready")} == outputs
    found = get(file_api, batch)
    assert found["status"] == "completed"
    assert outputs == {found["output_file_id"]}


def test_a_lease_is_renewed_for_as_long_as_a_file_takes(file_api: Client, settings: Any) -> None:
    settings.CHUNK_LEASE = 0.3
    create(file_api, *LINES)
    batch = file_lease.claim()
    assert batch is not None
    assert batch.lease_until is not None
    held_until = batch.lease_until
    with file_lease.renewing(batch):
        wait_until(lambda: clock.now() > held_until + timedelta(seconds=0.5), 10)
        assert file_lease.claim() is None
    with file_lease.settling(batch) as row:
        assert row.lease_until is None
