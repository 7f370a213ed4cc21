"""Batches of files over Django's whole stack: what is taken in, what waits, and what is refused."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from batches import clock, file_clerk
from batches.models import BatchJob, FileBatch
from integrations import limits, operations, snapshot
from integrations.models import ApiKey
from tests.fixtures_files import (
    BATCHES,
    FILES,
    LINES,
    client_of,
    content,
    create,
    error,
    get,
    order,
    post,
    released,
    upload,
    work,
)
from tests.made_api import serve
from tests.made_batches import a_vector, at_once, configure, texts_of
from tests.made_files import a_line


def test_a_file_becomes_one_batch_a_group_and_its_output_comes_in_its_own_order(file_api: Client) -> None:
    batch = create(file_api, *LINES, metadata={"job": "nightly"})
    assert (batch["status"], batch["request_counts"]["total"]) == ("validating", 0)

    assert file_clerk.do_one()
    jobs = released(batch)
    assert [(job.model, job.pattern, job.input_type, job.total) for job in jobs] == [
        ("m", "bulk_only", "", 2),
        ("n", "hybrid", "", 2),
        ("m", "bulk_only", "query", 1),
    ]
    assert [texts_of(job.batch_id) for job in jobs] == [["one", "five"], ["two", "three"], ["four"]]
    found = get(file_api, batch)
    assert found["status"] == "in_progress"
    assert found["request_counts"] == {"total": 4, "completed": 0, "failed": 0}
    assert found["citadel"] == {"batches": [job.batch_id for job in jobs], "texts": 5, "waits_for": None}
    assert {job.expires_at.timestamp() // 1 for job in jobs} == {found["expires_at"]}
    assert not file_clerk.do_one()  # nothing to do while its jobs are in work

    work(batch, "three")
    assert get(file_api, batch)["request_counts"] == {"total": 4, "completed": 3, "failed": 0}  # 4 of 5 texts, 1 of 5
    assert file_clerk.do_one()
    found = get(file_api, batch)
    assert (found["status"], found["metadata"], found["model"]) == ("completed", {"job": "nightly"}, None)
    assert found["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
    assert found["created_at"] <= found["in_progress_at"] <= found["finalizing_at"] <= found["completed_at"]
    output, failed = content(file_api, found["output_file_id"]), content(file_api, found["error_file_id"])
    assert list(output) == ["a", "c", "d"]
    for name, text in (("a", "one"), ("c", "four"), ("d", "five")):
        (item,) = output[name]["response"]["body"]["data"]
        assert item["embedding"] == pytest.approx(a_vector(text), rel=1e-6)
    (line,) = failed.values()
    assert line["custom_id"] == "b"
    assert line["response"]["status_code"] == 400
    assert line["response"]["body"]["error"]["code"] == "text_rejected"
    described = file_api.get(f"{FILES}/{found['output_file_id']}").json()
    assert (described["purpose"], described["filename"]) == ("batch_output", f"{batch['id']}_output.jsonl")


def test_a_file_with_wrong_lines_queues_nothing_and_names_them(file_api: Client) -> None:
    lines = [a_line("a", "x"), a_line("b", "x", model="no\0one"), a_line("c", "x", model="live"), b"?\n", LINES[0]]
    batch = create(file_api, *lines)

    file_clerk.do_one()

    found = get(file_api, batch)
    assert (found["status"], found["output_file_id"]) == ("failed", None)
    assert [(e["code"], e["line"]) for e in found["errors"]["data"]] == [
        ("model_not_found", 2),
        ("pattern_conflict", 3),
        ("invalid_json_line", 4),
        ("duplicate_custom_id", 5),
    ]
    assert not BatchJob.objects.exists()
    assert error(post(file_api, batch, "retry"))[:2] == (409, "batch_not_retryable")


@pytest.mark.usefixtures("file_api")
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


@pytest.mark.usefixtures("file_api")
def test_a_full_queue_and_a_used_up_limit_make_a_file_wait_and_what_never_fits_fails() -> None:
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


def test_the_batch_of_a_revoked_key_fails(file_api: Client) -> None:
    batch = create(file_api, *LINES)
    operations.revoke_keys([ApiKey.objects.latest("id").pk], actor="test")
    snapshot.load()

    file_clerk.do_one()

    (row,) = FileBatch.objects.filter(batch_id=batch["id"])
    assert (row.state, row.errors[0]["code"]) == ("failed", "not_permitted")


def test_the_same_idempotency_key_is_the_same_batch_also_at_once(file_api: Client) -> None:
    file_id = upload(file_api, *LINES)
    headers = {"Idempotency-Key": "nightly-7"}

    def ask(**fields: Any) -> Any:
        return file_api.post(BATCHES, order(file_id, **fields), content_type="application/json", headers=headers)

    answers = at_once(*[ask] * 4)

    assert {answer.json()["id"] for answer in answers} == {FileBatch.objects.get().batch_id}
    assert error(ask(completion_window="1h"))[:2] == (409, "idempotency_conflict")
    FileBatch.objects.update(created_at=clock.now() - timedelta(days=2))
    assert ask(completion_window="1h").status_code == 200
    assert FileBatch.objects.count() == 2


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


def test_each_wrong_field_of_a_batch_is_named(file_api: Client) -> None:
    for fields, param in FIELDS:
        answer = file_api.post(BATCHES, order("file-1", **fields), content_type="application/json")

        assert error(answer) == (400, "invalid_request", param)
