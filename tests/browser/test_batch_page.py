"""A batch's page in a real browser: it moves by itself, and its buttons do what they say."""

import json

import pytest
from playwright.sync_api import Page, expect

from batches.models import BatchJob
from batches.submission import submit
from tests.browser.conftest import Console
from tests.made_batches import a_submission
from tests.processes import Stack, serve_model, wait_until
from tests.upstreams import Upstream


def open_batch(page: Page, batch_id: str) -> BatchJob:
    job = BatchJob.objects.get(batch_id=batch_id)
    page.goto(f"/admin/batches/batchjob/{job.pk}/change/")
    return job


@pytest.fixture(autouse=True)
def queue(stack: Stack) -> None:
    stack.worker()
    stack.scheduler()


def test_a_batch_is_watched_cancelled_and_another_one_retried_from_its_page(console: Console) -> None:
    with Upstream() as upstream:
        serve_model(upstream)
        upstream.slow(0.3)
        running = submit(a_submission([f"text {n}" for n in range(3000)], batch_size=10)).batch_id
        page = console.page("otto", "operator")
        job = open_batch(page, running)
        expect(page.locator("#batch")).to_contain_text("processing")
        bar = page.locator("#batch progress")
        before = int(bar.get_attribute("value") or 0)
        page.wait_for_function("before => Number(document.querySelector('#batch progress').value) > before", arg=before)
        expect(page.locator("#batch")).to_contain_text("left")

        page.get_by_role("link", name="Cancel", exact=True).click()
        page.get_by_role("button", name="Cancel", exact=True).click()
        expect(page.locator("#batch")).to_contain_text("cancelled")
        expect(page.get_by_role("link", name="Cancel", exact=True)).to_have_count(0)
        job.refresh_from_db()
        assert job.state == BatchJob.State.CANCELLED

        upstream.clear()
        upstream.poison("bad text")
        partly = submit(a_submission(["good", "bad text", "fine"])).batch_id
        wait_until(lambda: BatchJob.objects.get(batch_id=partly).state == "completed", 60)
        open_batch(page, partly)
        expect(page.locator("#batch-failures")).to_contain_text("bad text")
        expect(page.locator("#batch-failures")).to_contain_text("text rejected")
        upstream.poisoned.clear()
        page.get_by_role("link", name="Retry failed texts").click()
        page.get_by_role("button", name="Retry the texts without a vector").click()
        expect(page.locator("#batch")).to_contain_text("3 of 3 texts have a vector")
        expect(page.locator("#batch-failures")).to_have_count(0)

        with page.expect_download() as downloading:
            page.get_by_role("link", name="Download NDJSON").click()
        lines = downloading.value.path().read_text().splitlines()
        assert [json.loads(line)["status"] for line in lines] == ["completed"] * 3
