"""What is written down, in a real browser: calls with their attempts, the trail of operators, the queue's workers."""

import csv
import io
from pathlib import Path

import requests
from playwright.sync_api import expect

from integrations import operations
from integrations.models import AuditEntry, CallRecord, ModelConfig
from tests.browser.conftest import Console
from tests.processes import Stack, serve_model
from tests.running import wait_until
from tests.upstreams import Upstream

CALLS, AUDIT = "/admin/integrations/callrecord/", "/admin/integrations/auditentry/"


def embed(url: str, key: str, request_id: str) -> int:
    answer = requests.post(
        f"{url}/api/v1/external/m/embed",
        json={"text": "one text", "urgent": True},
        headers={"X-API-Key": key, "X-Request-ID": request_id},
        timeout=30,
    )
    return answer.status_code


def test_a_failed_over_call_is_found_by_its_request_id_and_shows_its_attempts_in_order(console: Console) -> None:
    with Upstream() as sick, Upstream() as replica:
        serve_model(sick, replica, slug="m", pattern="real_time")
        key = operations.create_key("team", ["embed"], actor="tests")
        # Each process knows a new model and a new key within a second.
        wait_until(lambda: embed(console.url, key, "calm-before") == 200, 10)
        sick.status(500)
        assert embed(console.url, key, "wanted-one") == 200
        wait_until(lambda: CallRecord.objects.filter(request_id="wanted-one").exists(), 10)
        page = console.page("vera", "viewer")
        page.goto(CALLS)
        rows = page.locator("#result_list tbody tr")
        expect(rows.nth(1)).to_be_visible()
        page.get_by_placeholder("A request id or a batch id, whole").fill("wanted-one")
        page.keyboard.press("Enter")
        expect(rows).to_have_count(1)
        rows.first.get_by_role("link").first.click()
        attempts = page.locator(".c-attempts tbody tr")
        expect(attempts).to_have_count(2)
        expect(attempts.nth(0)).to_contain_text(sick.url)
        expect(attempts.nth(0)).to_contain_text("upstream failed")
        expect(attempts.nth(1)).to_contain_text(replica.url)
        expect(attempts.nth(1)).to_contain_text("ok")
        expect(attempts.nth(1)).to_contain_text("ms")
        page.goto(f"{CALLS}?model=m&pattern=real_time&outcome=ok&q=wanted-one")
        expect(rows).to_have_count(1)
        for query in ("outcome=failed&q=wanted-one", "slow=20000", "pattern=bulk_only"):
            page.goto(f"{CALLS}?{query}")
            expect(rows).to_have_count(0)


def test_an_operators_write_is_in_the_trail_with_before_after_and_reason_and_nobody_can_change_it(
    console: Console, tmp_path: Path
) -> None:
    with Upstream() as upstream:
        model = serve_model(upstream, slug="m")
        olga = console.page("olga", "operator")
        olga.goto(f"/admin/integrations/modelconfig/{model.pk}/change/")
        olga.get_by_role("link", name="Drain for maintenance").click()
        olga.locator("[name=reason]").fill("new GPU")
        olga.locator("#content").get_by_role("button").click()
        wait_until(lambda: ModelConfig.objects.get().draining, 10)

        ann = console.page("ann")
        ann.goto(AUDIT)
        row = ann.locator("#result_list tbody tr").first
        for word in ("olga", "m", "new GPU"):
            expect(row).to_contain_text(word)
        with ann.expect_download() as download:
            ann.get_by_role("link", name="Export as CSV").click()
        download.value.save_as(tmp_path / "audit.csv")
        exported = list(csv.DictReader(io.StringIO((tmp_path / "audit.csv").read_text())))
        assert [(entry["actor"], entry["model"], entry["reason"]) for entry in exported] == [("olga", "m", "new GPU")]
        ann.goto(f"{AUDIT}{AuditEntry.objects.get().pk}/change/")
        expect(ann.get_by_role("row", name="draining")).to_contain_text("FalseTrue")
        # Not even a superuser has a way to change or remove it.
        assert ann.locator("#content button[type=submit], #content input[type=submit]").count() == 0
        assert ann.get_by_role("link", name="Delete").count() == 0
        answer = ann.goto(f"{AUDIT}{AuditEntry.objects.get().pk}/delete/")
        assert answer is not None
        assert answer.status == 403


def test_the_queues_page_says_when_no_worker_is_there_and_when_one_is_and_leads_to_rqs_lists(
    console: Console, stack: Stack
) -> None:
    serve_model("http://127.0.0.1:9", slug="m", pattern="bulk_only")
    page = console.page("vera", "viewer")
    page.goto("/admin/batches/workerheartbeat/queue/")
    expect(page.locator("#content")).to_contain_text("No worker")
    worker = stack.worker()
    page.reload()
    expect(page.locator("#content")).to_contain_text(worker.name)
    page.get_by_role("link", name="Open in django-rq").click()
    expect(page.locator("#content")).to_contain_text("batch_queue")
    expect(page.get_by_role("link", name="Dashboard").first).to_be_visible()  # the console's own navigation
