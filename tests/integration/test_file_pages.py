"""The pages of file batches and files in the console."""

from collections.abc import Iterator

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import reverse

from batches import file_batches
from batches.models import FileBatch, StoredFile
from integrations.models import AuditEntry
from tests.fixtures_console import words
from tests.made_batches import a_batch, a_chunk, configure, finish
from tests.made_files import a_file, a_file_batch
from tests.operators import create_roles

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_db")]


@pytest.fixture
def batch(db: None) -> Iterator[FileBatch]:
    """In progress: two batches in the queue, one of them active."""
    configure()
    row = a_file("file-in")
    made = a_file_batch("batch_1", state="in_progress", input_file_id=row.file_id, total=4, texts=4)
    done = a_batch("m", batch_id="batch_m_1", total=2, file_batch=made)
    finish(a_chunk(done, number=0, first=0, texts=["a", "b"]), failed=[0])
    a_batch("m", batch_id="batch_m_2", total=2, file_batch=made, dimensions=512, input_type="query")
    return made


def page(name: str, *args: object) -> str:
    return reverse(f"admin:batches_{name}", args=args)


def in_role(role: str) -> Client:
    create_roles()
    user = User.objects.create(username=role, is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


def test_a_batch_is_found_and_its_page_leads_to_its_files_and_its_batches_and_back(batch: FileBatch) -> None:
    viewer = in_role("viewer")
    other = a_file_batch("batch_2", client="team-z", state="failed", errors=[_fault(7)])
    assert "batch_1" in words(viewer.get(page("filebatch_changelist")))
    found = words(viewer.get(page("filebatch_changelist"), {"q": "file-in"}))
    assert "batch_1" in found
    assert "batch_2" not in found

    content = viewer.get(page("filebatch_change", batch.pk)).content.decode()
    file = StoredFile.objects.get()
    jobs = list(batch.jobs.order_by("id"))
    for address in (
        page("storedfile_change", file.pk),
        *(page("batchjob_change", job.pk) for job in jobs),
        page("filebatch_live", batch.pk),
    ):
        assert f'"{address}"' in content
    shown = words(viewer.get(page("filebatch_live", batch.pk)))
    assert "1 of 4 lines have vectors 1 failed" in shown
    assert "512 dimensions, query" in shown
    assert "Cancel" not in shown
    back = viewer.get(page("batchjob_change", jobs[0].pk)).content.decode()
    assert page("filebatch_change", batch.pk) in back
    assert page("batchjob_retry", jobs[0].pk) not in back
    wrong = words(viewer.get(page("filebatch_change", other.pk)))
    assert "7 invalid url Not this one." in wrong
    assert "own-queued, deleted" in wrong

    assert "file-in" in words(viewer.get(page("storedfile_changelist"), {"q": "team-a"}))
    assert "in.jsonl" in words(viewer.get(page("storedfile_change", file.pk)))


def _fault(line: int) -> dict[str, object]:
    return {"code": "invalid_url", "message": "Not this one.", "param": "url", "line": line}


def test_an_operator_cancels_and_retries_after_being_asked(batch: FileBatch) -> None:
    operator = in_role("operator")
    assert page("filebatch_cancel", batch.pk) in operator.get(page("filebatch_change", batch.pk)).content.decode()
    assert "end with it" in words(operator.get(page("filebatch_cancel", batch.pk)))
    batch.refresh_from_db()
    assert batch.state == "in_progress"  # it was only asked
    refused = operator.post(page("filebatch_retry", batch.pk))
    assert "batch_1 is in_progress." in words(refused)

    assert operator.post(page("filebatch_cancel", batch.pk)).status_code == 302
    batch.refresh_from_db()
    assert batch.state == "cancelling"
    assert [job.state for job in batch.jobs.order_by("id")] == ["completed", "cancelled"]

    FileBatch.objects.filter(pk=batch.pk).update(state="completed")
    batch.refresh_from_db()
    assert file_batches.retryable(batch)
    assert "Retry failed lines" in words(operator.get(page("filebatch_change", batch.pk)))
    assert operator.post(page("filebatch_retry", batch.pk)).status_code == 302
    batch.refresh_from_db()
    assert batch.state == "in_progress"
    trail = AuditEntry.objects.order_by("id").values_list("actor", "action", "target")
    assert list(trail) == [("operator", "cancel_batch", "batch_1"), ("operator", "retry_batch", "batch_1")]
