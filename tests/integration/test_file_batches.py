"""Files and their batches over Django's whole stack, the clerk's and the workers' parts taken by the test itself."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as configured
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from batches import clock, file_batches, file_clerk, file_intake, file_lease, file_output, file_store, lifecycle
from batches.models import BatchChunk, BatchJob, FileBatch, StoredFile
from integrations import limits, operations, snapshot
from integrations.errors import StorageUnavailable
from integrations.models import ApiKey
from tests.made_api import serve
from tests.made_batches import a_vector, at_once, configure, finish, texts_of
from tests.made_files import a_line
from tests.processes import wait_until

pytestmark = [pytest.mark.usefixtures("records", "redis_db")]

FILES, BATCHES = "/v1/files", "/v1/batches"


@pytest.fixture(autouse=True)
def models(records: None, settings: Any) -> None:
    settings.WHITENOISE_AUTOREFRESH = True
    configure("m")
    configure("n", pattern="hybrid")
    configure("live", pattern="real_time")


def client_of(name: str = "team-a", **fields: Any) -> Client:
    key = operations.create_key(name, ("batch",), actor="test", **fields)
    snapshot.load()
    return Client(headers={"Authorization": f"Bearer {key}"})


@pytest.fixture
def api(models: None) -> Client:
    return client_of()


def upload(api: Client, *lines: bytes, **fields: Any) -> str:
    content = SimpleUploadedFile("in.jsonl", b"".join(lines))
    answer = api.post(FILES, {"file": content, "purpose": "batch", **fields})
    assert answer.status_code == 200, answer.content
    return str(answer.json()["id"])


def order(file_id: str, **fields: Any) -> bytes:
    whole = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    return json.dumps(whole | fields).encode()


def create(api: Client, *lines: bytes, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    body = order(upload(api, *lines), **fields)
    answer = api.post(BATCHES, body, content_type="application/json", headers=headers or {})
    assert answer.status_code == 200, answer.content
    return answer.json()  # type: ignore[no-any-return]


def get(api: Client, batch: dict[str, Any]) -> dict[str, Any]:
    return api.get(f"{BATCHES}/{batch['id']}").json()  # type: ignore[no-any-return]


def post(api: Client, batch: dict[str, Any], verb: str) -> Any:
    return api.post(f"{BATCHES}/{batch['id']}/{verb}")


def content(api: Client, file_id: str | None) -> dict[str, Any]:
    """The lines of a file by custom_id, in order; none where there is no file."""
    if file_id is None:
        return {}
    answer = api.get(f"{FILES}/{file_id}/content")
    lines = b"".join(answer.streaming_content).splitlines()  # type: ignore[attr-defined]
    return {line["custom_id"]: line for line in map(json.loads, lines)}


def error(answer: Any) -> tuple[int, str, str | None]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["param"]


def released(batch: dict[str, Any]) -> list[BatchJob]:
    return list(BatchJob.objects.filter(file_batch__batch_id=batch["id"]).order_by("id"))


def work(batch: dict[str, Any], *failing: str) -> None:
    """Do what workers do: each text gets its vector, those named an error."""
    for chunk in BatchChunk.objects.filter(batch__file_batch__batch_id=batch["id"], state="waiting"):
        finish(chunk, failed=[p for p in chunk.pending_positions() if chunk.texts[p] in failing])


LINES = (
    a_line("a", "one"),
    a_line("b", ["two", "three"], model="n"),
    a_line("c", "four", body={"input_type": "query"}),
    a_line("d", "five"),
)


def test_a_file_becomes_one_batch_a_group_and_its_output_comes_in_its_own_order(api: Client) -> None:
    batch = create(api, *LINES, metadata={"job": "nightly"})
    assert (batch["status"], batch["request_counts"]["total"]) == ("validating", 0)

    assert file_clerk.do_one()
    jobs = released(batch)
    assert [(job.model, job.pattern, job.input_type, job.total) for job in jobs] == [
        ("m", "bulk_only", "", 2),
        ("n", "hybrid", "", 2),
        ("m", "bulk_only", "query", 1),
    ]
    assert [texts_of(job.batch_id) for job in jobs] == [["one", "five"], ["two", "three"], ["four"]]
    found = get(api, batch)
    assert found["status"] == "in_progress"
    assert found["request_counts"] == {"total": 4, "completed": 0, "failed": 0}
    assert found["citadel"] == {"batches": [job.batch_id for job in jobs], "texts": 5, "waits_for": None}
    assert {job.expires_at.timestamp() // 1 for job in jobs} == {found["expires_at"]}
    assert not file_clerk.do_one()  # nothing to do while its jobs are in work

    work(batch, "three")
    assert get(api, batch)["request_counts"] == {"total": 4, "completed": 3, "failed": 0}  # 4 of 5 texts, 1 of 5
    assert file_clerk.do_one()
    found = get(api, batch)
    assert (found["status"], found["metadata"], found["model"]) == ("completed", {"job": "nightly"}, None)
    assert found["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
    assert found["created_at"] <= found["in_progress_at"] <= found["finalizing_at"] <= found["completed_at"]
    output, failed = content(api, found["output_file_id"]), content(api, found["error_file_id"])
    assert list(output) == ["a", "c", "d"]
    for name, text in (("a", "one"), ("c", "four"), ("d", "five")):
        (item,) = output[name]["response"]["body"]["data"]
        assert item["embedding"] == pytest.approx(a_vector(text), rel=1e-6)
    (line,) = failed.values()
    assert line["custom_id"] == "b"
    assert line["response"]["status_code"] == 400
    assert line["response"]["body"]["error"]["code"] == "text_rejected"
    described = api.get(f"{FILES}/{found['output_file_id']}").json()
    assert (described["purpose"], described["filename"]) == ("batch_output", f"{batch['id']}_output.jsonl")


def test_retry_asks_for_the_failed_texts_alone_and_the_output_is_whole_afterwards(api: Client) -> None:
    batch = create(api, *LINES)
    file_clerk.do_one()
    work(batch, "three", "five")
    file_clerk.do_one()
    first = get(api, batch)
    assert first["request_counts"] == {"total": 4, "completed": 2, "failed": 2}
    n = next(job for job in released(batch) if job.model == "n")
    with pytest.raises(lifecycle.BatchNotRetryable, match="retry the batch of that file"):
        lifecycle.retry(n.batch_id)

    again = post(api, batch, "retry").json()
    assert (again["status"], again["completed_at"]) == ("in_progress", None)
    waiting = BatchChunk.objects.filter(batch__file_batch__batch_id=batch["id"], state="waiting")
    assert sorted(chunk.texts[p] for chunk in waiting for p in chunk.pending_positions()) == ["five", "three"]
    work(batch)
    file_clerk.do_one()

    found = get(api, batch)
    assert (found["status"], found["request_counts"]["completed"], found["error_file_id"]) == ("completed", 4, None)
    assert list(content(api, found["output_file_id"])) == ["a", "b", "c", "d"]
    assert list(content(api, first["output_file_id"])) == ["a", "c"]  # what was given out once stays as it was
    assert error(post(api, batch, "retry"))[:2] == (409, "batch_not_retryable")


def test_vectors_are_kept_until_the_whole_file_has_ended(api: Client, settings: Any) -> None:
    settings.RESULT_RETENTION = 0.0
    batch = create(api, *LINES)
    file_clerk.do_one()
    finish(BatchChunk.objects.get(batch=released(batch)[0]))
    assert lifecycle.purge_due(clock.now()) == 0
    work(batch)
    file_clerk.do_one()
    found = get(api, batch)
    assert found["request_counts"]["completed"] == 4
    while lifecycle.purge_due(clock.now()):
        pass
    assert not BatchChunk.objects.exists()
    assert list(content(api, found["output_file_id"])) == ["a", "b", "c", "d"]
    assert error(post(api, batch, "retry"))[:2] == (409, "batch_not_retryable")


def test_another_storage_of_djangos_does_as_well(api: Client, settings: Any) -> None:
    # This one has no paths: what is written goes through it in pieces, as to an object store.
    settings.STORAGES = settings.STORAGES | {"client_files": {"BACKEND": "django.core.files.storage.InMemoryStorage"}}
    batch = create(api, *LINES)
    file_clerk.do_one()
    work(batch)
    file_clerk.do_one()
    found = get(api, batch)
    assert list(content(api, found["output_file_id"])) == ["a", "b", "c", "d"]
    folder = Path(configured.OPENAI_FILES_DIR)
    assert not [row for row in StoredFile.objects.all() if (folder / row.stored_as).exists()]
    assert not list((folder / "unfinished").iterdir())
    assert api.delete(f"{FILES}/{found['input_file_id']}").json()["deleted"]


def test_an_expired_batch_keeps_what_is_finished_and_can_be_retried(api: Client) -> None:
    batch = create(api, *LINES, completion_window="30m")
    file_clerk.do_one()
    finish(BatchChunk.objects.get(batch=released(batch)[0]))
    BatchJob.objects.update(expires_at=clock.now() - timedelta(seconds=1))
    lifecycle.expire_due(clock.now())
    file_clerk.do_one()

    found = get(api, batch)
    assert found["status"] == "expired"
    assert found["expired_at"]
    assert list(content(api, found["output_file_id"])) == ["a", "d"]
    left = content(api, found["error_file_id"])
    assert {name: line["error"]["code"] for name, line in left.items()} == {"b": "batch_expired", "c": "batch_expired"}
    assert {line["response"] for line in left.values()} == {None}

    again = post(api, batch, "retry").json()
    assert again["expires_at"] - again["in_progress_at"] == 30 * 60
    work(batch)
    file_clerk.do_one()
    assert get(api, batch)["request_counts"] == {"total": 4, "completed": 4, "failed": 0}


def test_a_window_that_passes_before_the_lines_are_read_ends_the_batch(api: Client) -> None:
    batch = create(api, *LINES, completion_window="1m")
    FileBatch.objects.update(expires_at=clock.now() - timedelta(seconds=1))

    file_batches.expire_due(clock.now())

    assert not file_clerk.do_one()
    assert get(api, batch)["status"] == "expired"
    assert error(post(api, batch, "retry"))[:2] == (409, "batch_not_retryable")


def test_cancelled_in_work_it_gives_out_what_is_finished_and_before_it_nothing(api: Client) -> None:
    early = create(api, *LINES)
    assert post(api, early, "cancel").json()["status"] == "cancelling"
    file_clerk.do_one()
    assert get(api, early)["status"] == "cancelled"
    assert get(api, early)["output_file_id"] is None
    batch = create(api, *LINES)
    file_clerk.do_one()
    finish(BatchChunk.objects.get(batch=released(batch)[1]))

    found = post(api, batch, "cancel").json()
    assert found["status"] == post(api, batch, "cancel").json()["status"] == "cancelling"
    assert [job.state for job in released(batch)] == ["cancelled", "completed", "cancelled"]
    file_clerk.do_one()

    found = get(api, batch)
    assert found["status"] == "cancelled"
    assert found["cancelled_at"] >= found["cancelling_at"]
    assert list(content(api, found["output_file_id"])) == ["b"]
    assert {line["error"]["code"] for line in content(api, found["error_file_id"]).values()} == {"batch_cancelled"}
    assert error(post(api, batch, "cancel"))[:2] == (409, "batch_not_cancellable")
    assert error(post(api, batch, "retry"))[:2] == (409, "batch_not_retryable")


def test_a_file_with_wrong_lines_queues_nothing_and_names_them(api: Client) -> None:
    lines = [a_line("a", "x"), a_line("b", "x", model="no\0one"), a_line("c", "x", model="live"), b"?\n", LINES[0]]
    batch = create(api, *lines)

    file_clerk.do_one()

    found = get(api, batch)
    assert (found["status"], found["output_file_id"]) == ("failed", None)
    assert [(e["code"], e["line"]) for e in found["errors"]["data"]] == [
        ("model_not_found", 2),
        ("pattern_conflict", 3),
        ("invalid_json_line", 4),
        ("duplicate_custom_id", 5),
    ]
    assert not BatchJob.objects.exists()
    assert error(post(api, batch, "retry"))[:2] == (409, "batch_not_retryable")


def test_what_the_key_or_the_models_servers_cannot_do_is_a_wrong_line() -> None:
    serve("sized", "bulk_only", "http://127.0.0.1:9")
    api = client_of(models=["sized"])
    batch = create(api, a_line("a", "x", model="sized", body={"dimensions": 4}), a_line("b", "x"))

    file_clerk.do_one()

    found = get(api, batch)["errors"]["data"]
    assert [(e["code"], e["param"], e["line"]) for e in found] == [
        ("invalid_request", "body.dimensions", 1),
        ("not_permitted", "body.model", 2),
    ]


def test_a_full_queue_and_a_used_up_limit_make_a_file_wait_and_what_never_fits_fails(redis_db: Any) -> None:
    configure("small", max_waiting_texts=3)
    two = [a_line("a", ["x", "y"], model="small")]
    api = client_of()
    first, second = create(api, *two), create(api, *two)
    never = create(api, a_line("a", ["x"] * 4, model="small"))
    for _ in range(3):
        assert file_clerk.do_one()
    assert [get(api, b)["status"] for b in (first, second, never)] == ["in_progress", "validating", "failed"]
    assert "3" in get(api, second)["citadel"]["waits_for"]
    assert get(api, never)["errors"]["data"][0]["code"] == "queue_full"
    assert not file_clerk.do_one()  # it waits
    work(first)
    FileBatch.objects.update(available_at=clock.now())
    while file_clerk.do_one():
        pass
    assert [get(api, b)["status"] for b in (first, second)] == ["completed", "in_progress"]
    assert get(api, second)["citadel"]["waits_for"] is None

    limited = client_of("team-b", texts_per_day=5)
    batches = [create(limited, a_line("a", ["x"] * count)) for count in (3, 4, 6)]
    for _ in batches:
        assert file_clerk.do_one()
    assert [get(limited, b)["status"] for b in batches] == ["in_progress", "validating", "failed"]
    assert "texts a day" in get(limited, batches[1])["citadel"]["waits_for"]
    limits.stop()


def test_the_batch_of_a_revoked_key_fails(api: Client) -> None:
    batch = create(api, *LINES)
    operations.revoke_keys([ApiKey.objects.latest("id").pk], actor="test")
    snapshot.load()

    file_clerk.do_one()

    (row,) = FileBatch.objects.filter(batch_id=batch["id"])
    assert (row.state, row.errors[0]["code"]) == ("failed", "not_permitted")


def test_one_process_has_a_file_and_who_comes_too_late_leaves_nothing(api: Client) -> None:
    batch = create(api, *LINES)
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
    found = get(api, batch)
    assert found["status"] == "completed"
    assert outputs == {found["output_file_id"]}


def test_a_lease_is_renewed_for_as_long_as_a_file_takes(api: Client, settings: Any) -> None:
    settings.CHUNK_LEASE = 0.3
    create(api, *LINES)
    batch = file_lease.claim()
    assert batch is not None
    assert batch.lease_until is not None
    held_until = batch.lease_until
    with file_lease.renewing(batch):
        wait_until(lambda: clock.now() > held_until + timedelta(seconds=0.5), 10)
        assert file_lease.claim() is None
    with file_lease.settling(batch) as row:
        assert row.lease_until is None


def test_the_same_idempotency_key_is_the_same_batch_also_at_once(api: Client) -> None:
    file_id = upload(api, *LINES)
    headers = {"Idempotency-Key": "nightly-7"}

    def ask(**fields: Any) -> Any:
        return api.post(BATCHES, order(file_id, **fields), content_type="application/json", headers=headers)

    answers = at_once(*[ask] * 4)

    assert {answer.json()["id"] for answer in answers} == {FileBatch.objects.get().batch_id}
    assert error(ask(completion_window="1h"))[:2] == (409, "idempotency_conflict")
    FileBatch.objects.update(created_at=clock.now() - timedelta(days=2))
    assert ask(completion_window="1h").status_code == 200
    assert FileBatch.objects.count() == 2


def test_a_file_that_is_read_cannot_be_deleted_and_one_that_is_deleted_is_gone_from_the_disk(api: Client) -> None:
    batch = create(api, *LINES)
    file_id = batch["input_file_id"]
    row = StoredFile.objects.get(file_id=file_id)
    stored = Path(configured.OPENAI_FILES_DIR) / row.stored_as
    assert stored.stat().st_mode & 0o777 == 0o600
    for folder in (stored.parent, stored.parent.parent, stored.parent.parent / "unfinished"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert error(api.delete(f"{FILES}/{file_id}"))[:2] == (409, "file_in_use")
    StoredFile.objects.update(expires_at=clock.now() - timedelta(seconds=1))
    file_store.expire_due(clock.now())
    assert StoredFile.objects.get().state == "ready"  # it is read
    file_clerk.do_one()
    work(batch)
    file_clerk.do_one()
    StoredFile.objects.update(expires_at=clock.now() + timedelta(hours=1))

    assert api.delete(f"{FILES}/{file_id}").json() == {"id": file_id, "object": "file", "deleted": True}

    assert error(api.get(f"{FILES}/{file_id}"))[:2] == (404, "file_not_found")
    assert not stored.exists()
    assert get(api, batch)["input_file_id"] == file_id  # the record stays
    assert error(post(api, batch, "retry"))[:2] == (409, "batch_not_retryable")


def test_files_expire_and_what_dead_processes_left_is_swept(api: Client) -> None:
    kept = upload(api, *LINES)
    short = upload(api, *LINES, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
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
    assert [f["id"] for f in api.get(FILES).json()["data"]] == [kept]
    assert error(api.get(f"{FILES}/{short}/content"))[:2] == (404, "file_not_found")


def test_an_input_that_is_lost_fails_its_batch(api: Client, caplog: Any) -> None:
    before, after = create(api, *LINES), create(api, *LINES)
    file_store.storage().delete(StoredFile.objects.get(file_id=before["input_file_id"]).stored_as)
    file_clerk.do_one()
    file_clerk.do_one()
    work(after)
    row = StoredFile.objects.get(file_id=after["input_file_id"])
    (Path(configured.OPENAI_FILES_DIR) / row.stored_as).write_bytes(a_line("z", "other", model="m") * 3)
    file_clerk.do_one()

    errors = [get(api, batch)["errors"]["data"][0] for batch in (before, after)]
    assert [e["code"] for e in errors] == ["file_not_found", "input_changed"]
    assert [get(api, batch)["status"] for batch in (before, after)] == ["failed", "failed"]


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"endpoint": "/v1/completions"}, "endpoint"),
    ({"completion_window": "25h"}, "completion_window"),
    ({"completion_window": "0m"}, "completion_window"),
    ({"completion_window": "1d"}, "completion_window"),
    ({"completion_window": 24}, "completion_window"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
    ({"metadata": {"a": "x" * 513}}, "metadata"),
    ({"input_file_id": 7}, "input_file_id"),
    ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after"),
    ({"metdata": {}}, "metdata"),
]


def test_each_wrong_field_of_a_batch_is_named(api: Client) -> None:
    for fields, param in FIELDS:
        answer = api.post(BATCHES, order("file-1", **fields), content_type="application/json")

        assert error(answer) == (400, "invalid_request", param)


def test_uploads_are_refused_in_openais_shape(api: Client, settings: Any) -> None:
    settings.OPENAI_FILE_MAX_BYTES = 1000

    def given(size: int = 10, **fields: Any) -> Any:
        return api.post(FILES, {"file": SimpleUploadedFile("in.jsonl", b"x" * size), "purpose": "batch", **fields})

    assert error(given(purpose="fine-tune")) == (400, "invalid_request", "purpose")
    assert error(api.post(FILES, {"purpose": "batch"})) == (400, "invalid_request", "file")
    assert error(given(**{"expires_after[seconds]": "60"})) == (400, "invalid_request", "expires_after")
    assert error(given(size=1001))[:2] == (413, "request_too_large")
    assert error(api.post(FILES, b"{}", content_type="application/json"))[:2] == (415, "unsupported_media_type")
    broken = api.post(FILES, b"--x\r\nnothing", content_type="multipart/form-data; boundary=")
    assert error(broken)[:2] == (400, "invalid_request")
    assert not StoredFile.objects.exists()
    unfinished = Path(settings.OPENAI_FILES_DIR) / "unfinished"
    assert not list(unfinished.iterdir())


def test_a_storage_that_fails_is_said_and_nothing_is_kept(api: Client, settings: Any, tmp_path: Path) -> None:
    blocked = tmp_path / "file-not-folder"
    blocked.write_text("")
    changed = dict(settings.STORAGES)
    changed["client_files"] = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(blocked)},
    }
    settings.STORAGES = changed

    answer = api.post(FILES, {"file": SimpleUploadedFile("in.jsonl", LINES[0]), "purpose": "batch"})

    assert error(answer)[:2] == (503, "storage_unavailable")
    assert answer.headers["retry-after-ms"] == "5000"
    assert not StoredFile.objects.exclude(state="deleted").exists()


def test_lists_go_page_by_page_in_both_orders(api: Client) -> None:
    files = [upload(api, *LINES) for _ in range(5)]
    for file_id in files[:3]:
        assert api.post(BATCHES, order(file_id), content_type="application/json").status_code == 200

    def pages(address: str, **query: Any) -> Iterator[list[str]]:
        while True:
            page = api.get(address, query).json()
            yield [row["id"] for row in page["data"]]
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
            if not page["has_more"]:
                return
            query["after"] = page["last_id"]

    assert list(pages(FILES, limit=2, order="asc")) == [files[:2], files[2:4], files[4:]]
    assert list(pages(FILES, limit=3, purpose="batch")) == [files[:1:-1], files[1::-1]]
    assert [len(page) for page in pages(BATCHES, limit=2)] == [2, 1]
    assert api.get(FILES, {"purpose": "batch_output"}).json()["data"] == []
    for query in ({"limit": 0}, {"limit": 10_001}, {"order": "up"}, {"after": "file-0"}, {"purpose": "x"}):
        assert error(api.get(FILES, query)) == (400, "invalid_request", next(iter(query)))
    assert error(api.get(BATCHES, {"limit": 101})) == (400, "invalid_request", "limit")


def test_nobody_sees_the_files_and_batches_of_others(api: Client) -> None:
    batch = create(api, *LINES)
    other, file_id = client_of("team-b"), batch["input_file_id"]

    assert other.get(FILES).json()["data"] == other.get(BATCHES).json()["data"] == []
    for path in (f"{FILES}/{file_id}", f"{FILES}/{file_id}/content"):
        assert error(other.get(path))[:2] == (404, "file_not_found")
    assert error(other.delete(f"{FILES}/{file_id}"))[:2] == (404, "file_not_found")
    assert error(other.get(f"{BATCHES}/{batch['id']}"))[:2] == (404, "batch_not_found")
    assert {error(post(other, batch, verb))[:2] for verb in ("cancel", "retry")} == {(404, "batch_not_found")}
    for path in (f"{FILES}/a%00b", f"{BATCHES}/a%00b"):
        assert error(other.get(path))[:2] == (404, "not_found")
    assert error(other.get(FILES, {"after": "a\0b"})) == (400, "invalid_request", "after")
    taken = other.post(BATCHES, order(file_id), content_type="application/json")
    assert error(taken)[:2] == (404, "file_not_found")
