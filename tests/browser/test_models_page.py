"""Models in a real browser: probe before saving, order by keyboard, and two operators on one model."""

from playwright.sync_api import Page, expect

from integrations.models import AuditEntry, Endpoint, ModelConfig
from tests.browser.conftest import Console
from tests.processes import serve_model
from tests.upstreams import Upstream


def address(model: ModelConfig) -> str:
    return f"/admin/integrations/modelconfig/{model.pk}/change/"


def save(page: Page) -> None:
    page.get_by_role("button", name="Save", exact=True).click()


def test_an_endpoint_is_tried_before_it_is_saved_and_put_first_by_keyboard(console: Console) -> None:
    with Upstream(dimensions=48) as first, Upstream(dimensions=48) as second:
        model = serve_model(first)
        page = console.page("ann")
        page.goto(address(model))
        page.get_by_text("Add another Endpoint").click()
        row = page.locator("#endpoints-group .form-group:not(.empty-form)").nth(1)
        row.locator("[name=endpoints-1-url]").fill("ftp://nowhere")
        row.get_by_role("button", name="Probe now").click()
        expect(row.get_by_role("status")).to_contain_text("must begin with http")
        second.refuse()
        row.locator("[name=endpoints-1-url]").fill(second.url)
        row.get_by_role("button", name="Probe now").click()
        expect(row.get_by_role("status")).to_contain_text("failed")
        second.listen()
        row.get_by_role("button", name="Probe now").click()
        expect(row.get_by_role("status")).to_contain_text("works")
        expect(row.get_by_role("status")).to_contain_text("48 dimensions")
        assert (second.calls, Endpoint.objects.count(), AuditEntry.objects.count()) == (1, 1, 0)

        row.get_by_role("button", name="Move up").focus()
        page.keyboard.press("Enter")
        save(page)
        expect(page.get_by_text("was changed successfully")).to_be_visible()
        assert [e.url for e in model.endpoints.all()] == [second.url, first.url]


def test_the_later_of_two_operators_is_told_what_the_earlier_one_changed(console: Console) -> None:
    with Upstream() as upstream:
        model = serve_model(upstream)
        ann, bob = console.page("ann"), console.page("bob")
        for page in (ann, bob):
            page.goto(address(model))
        bob.locator("[name=dimensions]").fill("384")
        save(bob)
        expect(bob.get_by_text("was changed successfully")).to_be_visible()

        ann.locator("[name=upstream_model]").fill("ann's name")
        save(ann)
        told = ann.locator(".model-conflict")
        expect(told).to_contain_text("Somebody else has changed this model")
        expect(told).to_contain_text("bob")
        expect(told.get_by_role("row", name="dimensions")).to_contain_text("384")
        expect(told.get_by_role("row", name="upstream_model")).to_contain_text("ann's name")
        expect(ann.locator("[name=upstream_model]")).to_have_value("ann's name")
        model.refresh_from_db()
        assert (model.dimensions, model.upstream_model) == (384, "test-model")

        ann.locator("[name=dimensions]").fill("384")
        save(ann)
        expect(ann.get_by_text("was changed successfully")).to_be_visible()
        model.refresh_from_db()
        assert (model.dimensions, model.upstream_model) == (384, "ann's name")
