"""The dashboard in the browser: it refreshes itself, says what is gone, and keeps still while it does."""

import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from django.contrib.sessions.models import Session
from playwright.sync_api import Page, expect

from batches.models import FileBatch
from integrations import operations
from integrations.models import AuditEntry, BreakerEvent, CallRecord, Endpoint
from tests.browser.conftest import Sit
from tests.made_api import serve
from tests.made_batches import a_batch
from tests.made_files import a_file, a_file_batch
from tests.processes import Stack, wait_until
from tests.tcp_gate import Gate
from tests.upstreams import Upstream

ENV = {"CITADEL_ANONYMOUS_SCOPES": "embed"}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@contextlib.contextmanager
def gated(url: str) -> Iterator[tuple[Gate, str]]:
    """A gate before the server of `url`, and the URL through it."""
    parts = urlsplit(url)
    with Gate(parts.port or 0, host=parts.hostname or "") as gate:
        yield gate, url.replace(f":{parts.port}/", f":{gate.port}/")


def test_it_refreshes_itself_in_place_and_says_when_redis_is_gone_and_when_it_is_back(
    stack: Stack, upstream: Upstream, sit: Sit
) -> None:
    serve("phi3", "real_time", upstream)
    with gated(stack.redis_url) as (gate, through):
        _, url = stack.web(REDIS_URL=through, REDIS_TIMEOUT="0.5", **ENV)
        ada = sit(url)
        page = ada.go("/admin/")
        ada.log_in()
        expect(page.locator("#parts")).to_contain_text("Redis answers")
        page.evaluate("document.querySelector('#row-real_time-phi3 a').focus()")
        page.evaluate("document.querySelector('#row-real_time-phi3').mark = 'same element'")
        operations.trip_breaker([Endpoint.objects.get().pk], actor="bob", reason="elsewhere")
        expect(page.locator("#row-real_time-phi3")).to_contain_text("tripped")
        assert page.evaluate("document.querySelector('#row-real_time-phi3').mark") == "same element"
        assert page.evaluate("document.activeElement.textContent") == "phi3"
        gate.shut()
        expect(page.locator("#problems")).to_contain_text("Redis does not answer")
        expect(page.locator("#parts")).to_contain_text("Redis gone")
        gate.open()
        expect(page.locator("#parts")).to_contain_text("Redis answers")


def test_it_says_that_its_figures_are_old_when_postgresql_or_citadel_does_not_answer(
    stack: Stack, upstream: Upstream, sit: Sit
) -> None:
    serve("phi3", "real_time", upstream)
    with gated(stack.database_url) as (gate, through):
        web, url = stack.web(DATABASE_URL=through)
        ada = sit(url)
        page = ada.go("/admin/")
        ada.log_in()
        expect(page.locator("#parts")).to_contain_text("PostgreSQL answers")
        gate.shut()
        expect(page.locator("#stale")).to_contain_text("PostgreSQL does not answer. What is below is of 20")
        assert requests.get(f"{url}/admin/login/", timeout=20).status_code in (200, 503)
        gate.open()
        expect(page.locator("#stale")).to_have_count(0)
        web.stop(within=20)
        expect(page.locator("#stale")).to_contain_text("Citadel does not answer this page. What is below is of 20")


def test_a_hidden_tab_stops_asking(stack: Stack, upstream: Upstream, sit: Sit) -> None:
    serve("phi3", "real_time", upstream)
    _, url = stack.web()
    ada = sit(url)
    page = ada.go("/admin/")
    ada.log_in()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with page.expect_request("**/admin/live/**"):
        pass
    hide(page, hidden=True)
    page.wait_for_timeout(500)  # what was under way comes back
    asked.clear()
    page.wait_for_timeout(4500)
    assert asked == []
    with page.expect_request("**/admin/live/**"):
        hide(page, hidden=False)
    assert page.locator("#stale").count() == 0


def hide(page: Page, *, hidden: bool) -> None:
    """What a browser does when its tab goes to the back; a headless one has no tabs that hide."""
    page.evaluate(f"Object.defineProperty(document, 'hidden', {{ value: {str(hidden).lower()}, configurable: true }})")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_a_session_that_ends_behind_an_open_dashboard_leads_to_the_log_in_and_back(
    stack: Stack, upstream: Upstream, sit: Sit
) -> None:
    serve("phi3", "real_time", upstream)
    _, url = stack.web()
    ada = sit(url)
    page = ada.go("/admin/")
    ada.log_in()
    expect(page.locator("#parts")).to_be_visible()
    Session.objects.all().delete()
    page.wait_for_url("**/admin/login/?next=/admin/")
    ada.log_in()
    expect(page.locator("#parts")).to_be_visible()


def make_records(url: str, upstream: Upstream) -> None:
    """Calls that went well and that failed, a transition, an audit entry."""
    for text in ("a", "b"):
        requests.post(f"{url}/api/v1/external/phi3/embed", json={"text": text}, timeout=20)
    upstream.status(500)
    requests.post(f"{url}/api/v1/external/phi3/embed", json={"text": "c"}, timeout=20)
    operations.trip_breaker([Endpoint.objects.get(model__slug="phi3").pk], actor="bob", reason="fire")
    wait_until(lambda: CallRecord.objects.count() == 3, 10)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_no_serious_fault_and_no_page_is_wider_than_the_screen(
    stack: Stack, upstream: Upstream, sit: Sit, width: int, scheme: str
) -> None:
    serve("phi3", "real_time", upstream)
    serve("mixtral", "bulk_only", "http://127.0.0.1:9")
    _, url = stack.web(**ENV)
    make_records(url, upstream)
    ada = sit(url, width=width, scheme=scheme, bypass_csp=True)  # axe brings a script of its own
    pages = ["/admin/login/"]
    found = look(ada.go(pages[0]))
    ada.log_in()
    pages = [
        "/admin/",
        "/admin/breakers/",
        f"/admin/breakers/trip/?endpoint={Endpoint.objects.get(model__slug='phi3').pk}",
        f"/admin/breakers/reset/?endpoint={Endpoint.objects.get(model__slug='phi3').pk}",
        "/admin/integrations/callrecord/",
        f"/admin/integrations/callrecord/{CallRecord.objects.latest('id').pk}/change/",
        "/admin/integrations/breakerevent/",
        f"/admin/integrations/breakerevent/{BreakerEvent.objects.latest('id').pk}/change/",
        "/admin/integrations/auditentry/",
        f"/admin/integrations/auditentry/{AuditEntry.objects.latest('id').pk}/change/",
        "/admin/batches/filebatch/",
        f"/admin/batches/filebatch/{a_wrong_file().pk}/change/",
    ]
    for path in pages:
        found += look(ada.go(path))
    assert found == []


def a_wrong_file() -> FileBatch:
    """A batch of a file with a fault, and with one in the queue."""
    file = a_file("file-0123456789abcdef01234567")
    fault = {"code": "duplicate_custom_id", "message": "It stands on a line before.", "param": "custom_id", "line": 3}
    batch = a_file_batch("batch_0123456789abcdef01234567", input_file_id=file.file_id, errors=[fault], total=3, texts=3)
    a_batch("phi3", file_batch=batch)
    return batch


def look(page: Page) -> list[str]:
    """What axe calls serious or critical, and whether the page has to be moved sideways."""
    page.wait_for_load_state("networkidle")
    violations = Axe().run(page).response["violations"]
    wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    return [
        *(
            f"{page.url}: {v['id']}: {node['html'][:200]}"
            for v in violations
            if v["impact"] in ("serious", "critical")
            for node in v["nodes"]
        ),
        *([f"{page.url}: wider than the screen"] if wide else []),
    ]


def test_the_keyboard_reaches_what_a_mouse_reaches(stack: Stack, upstream: Upstream, sit: Sit) -> None:
    serve("phi3", "real_time", upstream)
    _, url = stack.web()
    ada = sit(url, width=390)
    page = ada.go("/admin/")
    ada.log_in()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    toggle = page.get_by_role("button", name="Show or hide the sidebar").locator("visible=true")
    toggle.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Breakers")).to_be_visible()
    page.get_by_role("button", name="Close the sidebar").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("link", name="Breakers")).to_be_hidden()


def test_the_documentation_of_the_api_works_under_the_policy_of_the_site(stack: Stack, sit: Sit) -> None:
    _, url = stack.web()
    page = sit(url).go("/api/docs/")
    expect(page.get_by_text("/api/v1/external/{model}/embed").first).to_be_visible()
