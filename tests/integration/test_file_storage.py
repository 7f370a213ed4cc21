"""What becomes of clients' files in their storage: kept, deleted, expired, lost."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as configured
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from batches import clock, file_clerk, file_store
from batches.models import StoredFile
from integrations.errors import StorageUnavailable
from tests.fixtures_files import FILES, LINES, content, create, error, get, post, upload, work
from tests.made_files import a_line


def test_another_storage_of_djangos_does_as_well(file_api: Client, settings: Any) -> None:
    # This one has no paths: what is written goes through it in pieces, as to an object store.
    settings.STORAGES = settings.STORAGES | {"client_files": {"BACKEND": "django.core.files.storage.InMemoryStorage"}}
    batch = create(file_api, *LINES)
    file_clerk.do_one()
    work(batch)
    file_clerk.do_one()
    found = get(file_api, batch)
    assert list(content(file_api, found["output_file_id"])) == ["a", "b", "c", "d"]
    folder = Path(configured.OPENAI_FILES_DIR)
    assert not [row for row in StoredFile.objects.all() if (folder / row.stored_as).exists()]
    assert not list((folder / "unfinished").iterdir())
    assert file_api.delete(f"{FILES}/{found['input_file_id']}").json()["deleted"]


def test_a_file_that_is_read_cannot_be_deleted_and_one_that_is_deleted_is_gone_from_the_disk(file_api: Client) -> None:
    batch = create(file_api, *LINES)
    file_id = batch["input_file_id"]
    row = StoredFile.objects.get(file_id=file_id)
    stored = Path(configured.OPENAI_FILES_DIR) / row.stored_as
    assert stored.stat().st_mode & 0o777 == 0o600
    for folder in (stored.parent, stored.parent.parent, stored.parent.parent / "unfinished"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert error(file_api.delete(f"{FILES}/{file_id}"))[:2] == (409, "file_in_use")
    StoredFile.objects.update(expires_at=clock.now() - timedelta(seconds=1))
    file_store.expire_due(clock.now())
    assert StoredFile.objects.get().state == "ready"  # it is read
    file_clerk.do_one()
    work(batch)
    file_clerk.do_one()
    StoredFile.objects.update(expires_at=clock.now() + timedelta(hours=1))

    assert file_api.delete(f"{FILES}/{file_id}").json() == {"id": file_id, "object": "file", "deleted": True}

    assert error(file_api.get(f"{FILES}/{file_id}"))[:2] == (404, "file_not_found")
    assert not stored.exists()
    assert get(file_api, batch)["input_file_id"] == file_id  # the record stays
    assert error(post(file_api, batch, "retry"))[:2] == (409, "batch_not_retryable")


def test_files_expire_and_what_dead_processes_left_is_swept(file_api: Client) -> None:
    kept = upload(file_api, *LINES)
    short = upload(file_api, *LINES, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
    left = file_store.begin(client="team-a", purpose=StoredFile.Purpose.BATCH, filename="x")
    abandoned = clock.now() - timedelta(days=2)
    StoredFile.objects.filter(pk=left.pk).update(created_at=abandoned)
    StoredFile.objects.filter(pk=left.pk).update(state="deleted")
    with pytest.raises(StorageUnavailable):
        file_store.publish(left, kept=60)

    later = clock.now() + timedelta(hours=2)
    file_store.expire_due(later)
    file_store.sweep(later)

    assert [row.file_id for row in StoredFile.objects.all()] == [kept]
    assert [f["id"] for f in file_api.get(FILES).json()["data"]] == [kept]
    assert error(file_api.get(f"{FILES}/{short}/content"))[:2] == (404, "file_not_found")


def test_an_input_that_is_lost_fails_its_batch(file_api: Client, caplog: Any) -> None:
    before, after = create(file_api, *LINES), create(file_api, *LINES)
    file_store.storage().delete(StoredFile.objects.get(file_id=before["input_file_id"]).stored_as)
    file_clerk.do_one()
    file_clerk.do_one()
    work(after)
    row = StoredFile.objects.get(file_id=after["input_file_id"])
    (Path(configured.OPENAI_FILES_DIR) / row.stored_as).write_bytes(a_line("z", "other", model="m") * 3)
    file_clerk.do_one()

    errors = [get(file_api, batch)["errors"]["data"][0] for batch in (before, after)]
    assert [e["code"] for e in errors] == ["file_not_found", "input_changed"]
    assert [get(file_api, batch)["status"] for batch in (before, after)] == ["failed", "failed"]


def test_uploads_are_refused_in_openais_shape(file_api: Client, settings: Any) -> None:
    settings.OPENAI_FILE_MAX_BYTES = 1000

    def given(size: int = 10, **fields: Any) -> Any:
        return file_api.post(FILES, {"file": SimpleUploadedFile("in.jsonl", b"x" * size), "purpose": "batch", **fields})

    assert error(given(purpose="fine-tune")) == (400, "invalid_request", "purpose")
    assert error(file_api.post(FILES, {"purpose": "batch"})) == (400, "invalid_request", "file")
    assert error(given(**{"expires_after[seconds]": "60"})) == (400, "invalid_request", "expires_after")
    assert error(given(size=1001))[:2] == (413, "request_too_large")
    assert error(file_api.post(FILES, b"{}", content_type="application/json"))[:2] == (415, "unsupported_media_type")
    broken = file_api.post(FILES, b"--x\r\nnothing", content_type="multipart/form-data; boundary=")
    assert error(broken)[:2] == (400, "invalid_request")
    assert not StoredFile.objects.exists()
    unfinished = Path(settings.OPENAI_FILES_DIR) / "unfinished"
    assert not list(unfinished.iterdir())


def test_a_storage_that_fails_is_said_and_nothing_is_kept(file_api: Client, settings: Any, tmp_path: Path) -> None:
    blocked = tmp_path / "file-not-folder"
    blocked.write_text("")
    changed = dict(settings.STORAGES)
    changed["client_files"] = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(blocked)},
    }
    settings.STORAGES = changed

    answer = file_api.post(FILES, {"file": SimpleUploadedFile("in.jsonl", LINES[0]), "purpose": "batch"})

    assert error(answer)[:2] == (503, "storage_unavailable")
    assert answer.headers["retry-after-ms"] == "5000"
    assert not StoredFile.objects.exclude(state="deleted").exists()
