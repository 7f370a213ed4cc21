"""Breakers in the browser, and what clients outside of it get."""

import re
import time
from collections.abc import Iterator

import pytest
import requests
from playwright.sync_api import expect

from integrations.models import AuditEntry, BreakerEvent, Endpoint
from tests.browser.conftest import Sit
from tests.made_api import serve
from tests.processes import Stack, wait_until
from tests.upstreams import Upstream

ENV = {"CITADEL_ANONYMOUS_SCOPES": "embed"}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def embed(url: str) -> tuple[int, str]:
    """Status and code of one live call from outside."""
    answer = requests.post(f"{url}/api/v1/external/phi3/embed", json={"text": "a", "urgent": True}, timeout=20)
    return answer.status_code, "ok" if answer.ok else answer.json()["code"]


def test_a_trip_in_the_page_refuses_calls_within_a_second_and_a_reset_lets_them_through(
    stack: Stack, upstream: Upstream, sit: Sit
) -> None:
    serve("phi3", "real_time", upstream)
    _, url = stack.web(**ENV)
    ada = sit(url)
    page = ada.go("/admin/")
    ada.log_in()
    assert embed(url) == (200, "ok")
    page.click("text=Trip phi3")
    expect(page.locator("text=Every real_time call to phi3 will be refused with 503 circuit_open")).to_be_visible()
    page.fill("[name=reason]", "new disk")
    page.click("text=Trip now")
    page.wait_for_url("**/admin/breakers/")
    wait_until(lambda: embed(url) == (503, "circuit_open"), 1.0, every=0.02)
    expect(page.locator(f"#breaker-{Endpoint.objects.get().pk}")).to_contain_text("tripped")
    expect(page.locator(f"#breaker-{Endpoint.objects.get().pk}")).to_contain_text("new disk")
    ada.go("/admin/")
    expect(page.locator("#problems")).to_contain_text("phi3: breaker tripped by ada, until it is reset")
    page.click("#problems a.c-button")
    page.click("text=Reset now")
    page.wait_for_url("**/admin/breakers/")
    wait_until(lambda: embed(url) == (200, "ok"), 1.0, every=0.02)
    expect(page.locator("#transitions")).to_contain_text("new disk")
    assert list(AuditEntry.objects.values_list("action", "actor").order_by("id")) == [
        ("trip_breaker", "ada"),
        ("reset_breaker", "ada"),
    ]


def test_several_are_tripped_at_once_for_a_time_in_the_operators_zone(
    stack: Stack, upstream: Upstream, sit: Sit
) -> None:
    serve("phi3", "real_time", upstream, "http://127.0.0.1:9")
    _, url = stack.web()
    ada = sit(url)
    page = ada.go("/admin/breakers/")
    ada.log_in()
    for endpoint in Endpoint.objects.all():
        page.check(f"#breaker-{endpoint.pk} [type=checkbox]")
    page.wait_for_timeout(2500)  # a refresh must not take the ticks away
    page.click("text=Trip the chosen")
    page.fill("[name=reason]", "move")
    page.select_option("[name=lasts]", "until")
    page.fill("[name=until]", "2031-01-02T09:00")  # in Tokyo
    page.click("text=Trip now")
    page.wait_for_url("**/admin/breakers/")
    untils = {f"{e.forced_until:%Y-%m-%d %H:%M %Z}" for e in Endpoint.objects.all()}
    assert untils == {"2031-01-02 00:00 UTC"}
    shown = page.locator("#transitions time").first
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} UTC", shown.get_attribute("title") or "")
    event = BreakerEvent.objects.latest("id")
    tokyo = time.strftime("%H:%M:%S", time.gmtime(event.at.timestamp() + 9 * 3600))
    assert (shown.text_content() or "").endswith(tokyo)


def test_who_may_only_look_has_no_buttons_and_is_refused_behind_them(
    stack: Stack, upstream: Upstream, sit: Sit
) -> None:
    serve("phi3", "real_time", upstream)
    _, url = stack.web()
    vic = sit(url)
    page = vic.go("/admin/breakers/")
    vic.log_in("vic")
    expect(page.locator("#breakers")).to_contain_text(upstream.url)
    assert page.locator("text=Trip").count() == 0
    vic.go("/admin/")
    expect(page.locator("#pattern-real_time")).to_contain_text("phi3")
    assert page.locator("text=Trip").count() == 0
    answer = page.request.get(f"{url}/admin/breakers/trip/?endpoint={Endpoint.objects.get().pk}")
    assert answer.status == 403
    assert page.request.get(f"{url}/admin/breakers/reset/?endpoint={Endpoint.objects.get().pk}").status == 403


@pytest.mark.parametrize("lost", ["the session", "every cookie"])
def test_a_session_lost_in_the_middle_leads_to_the_log_in_and_what_was_typed_comes_back(
    stack: Stack, upstream: Upstream, sit: Sit, lost: str
) -> None:
    serve("phi3", "real_time", upstream)
    _, url = stack.web()
    ada = sit(url)
    page = ada.go(f"/admin/breakers/trip/?endpoint={Endpoint.objects.get().pk}")
    ada.log_in()
    page.fill("[name=reason]", "smoke in the rack")
    page.select_option("[name=lasts]", "15")
    ada.context.clear_cookies(**({"name": "sessionid"} if lost == "the session" else {}))
    page.click("text=Trip now")
    expect(page.locator("text=Your session has ended")).to_be_visible()
    assert not Endpoint.objects.get().forced_open
    ada.log_in()
    expect(page.locator("#unfinished")).to_contain_text("Your last step was not carried out")
    expect(page.locator("#unfinished")).to_contain_text("What you had filled in is back")
    expect(page.locator("[name=reason]")).to_have_value("smoke in the rack")
    expect(page.locator("[name=lasts]")).to_have_value("15")
    page.click("text=Trip now")
    page.wait_for_url("**/admin/breakers/")
    assert Endpoint.objects.get().forced_reason == "smoke in the rack"
    assert page.locator("#unfinished").count() == 0
