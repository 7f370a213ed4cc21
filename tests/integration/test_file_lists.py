"""Files and their batches in lists, and who sees them."""

from collections.abc import Iterator
from typing import Any

from django.test import Client

from tests.fixtures_files import BATCHES, FILES, LINES, client_of, create, error, order, post, upload


def test_lists_go_page_by_page_in_both_orders(file_api: Client) -> None:
    files = [upload(file_api, *LINES) for _ in range(5)]
    for file_id in files[:3]:
        assert file_api.post(BATCHES, order(file_id), content_type="application/json").status_code == 200

    def pages(address: str, **query: Any) -> Iterator[list[str]]:
        while True:
            page = file_api.get(address, query).json()
            yield [row["id"] for row in page["data"]]
            assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
            if not page["has_more"]:
                return
            query["after"] = page["last_id"]

    assert list(pages(FILES, limit=2, order="asc")) == [files[:2], files[2:4], files[4:]]
    assert list(pages(FILES, limit=3, purpose="batch")) == [files[:1:-1], files[1::-1]]
    assert [len(page) for page in pages(BATCHES, limit=2)] == [2, 1]
    assert file_api.get(FILES, {"purpose": "batch_output"}).json()["data"] == []
    for query in ({"limit": 0}, {"limit": 10_001}, {"order": "up"}, {"after": "file-0"}, {"purpose": "x"}):
        assert error(file_api.get(FILES, query)) == (400, "invalid_request", next(iter(query)))
    assert error(file_api.get(BATCHES, {"limit": 101})) == (400, "invalid_request", "limit")


def test_nobody_sees_the_files_and_batches_of_others(file_api: Client) -> None:
    batch = create(file_api, *LINES)
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
