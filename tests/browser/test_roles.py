"""Who may only look sees no buttons, in a real browser."""

from playwright.sync_api import expect

from batches.models import BatchJob
from batches.submission import submit
from tests.browser.conftest import Console
from tests.made_batches import a_submission
from tests.processes import serve_model


def test_a_viewer_sees_everything_and_no_button_that_changes_anything(console: Console) -> None:
    model = serve_model("http://127.0.0.1:9")
    job = BatchJob.objects.get(batch_id=submit(a_submission()).batch_id)
    pages = {
        f"/admin/integrations/modelconfig/{model.pk}/change/": ("Drain for maintenance", "Save", "Probe now"),
        f"/admin/batches/batchjob/{job.pk}/change/": ("Cancel", "Change priority"),
        "/admin/django_rq/dashboard/queues/0/": ("Empty Queue", "Go"),
    }
    vera, ann = console.page("vera", "viewer"), console.page("ann")
    for address, buttons in pages.items():
        vera.goto(address)
        ann.goto(address)
        expect(vera.locator("#content")).to_be_visible()
        for name in buttons:
            either = "button", "link"
            assert sum(ann.get_by_role(role, name=name, exact=True).count() for role in either) > 0, (address, name)
            assert sum(vera.get_by_role(role, name=name, exact=True).count() for role in either) == 0, (address, name)
    vera.goto("/admin/batches/batchjob/")
    assert vera.locator("input.action-select").count() == 0
    answer = vera.goto(f"/admin/integrations/modelconfig/{model.pk}/drain/")
    assert answer is not None
    assert answer.status == 403
