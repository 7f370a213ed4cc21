"""The list of batches, one batch's page, the queue's and django-rq's, over HTTP."""

import json
from pathlib import Path
from typing import Any

import django_rq
import pytest
from django.contrib.auth.models import User
from django.template import loader
from django.test import Client
from django.urls import reverse

from batches import admin_batches, admin_filters, clock, lifecycle, queues, waiting
from batches.admin_pages import BatchPages
from batches.models import BatchJob, WorkerHeartbeat
from integrations import operations
from integrations.models import AuditEntry
from tests.integration.test_admin import text
from tests.made_batches import State, a_batch, a_chunk, configure, finish
from tests.operators import create_roles

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_db")]

LIST = reverse("admin:batches_batchjob_changelist")
QUEUE = reverse("admin:batches_queue")


@pytest.fixture
def operator(db: None) -> Client:
    configure()
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    return client


def of(job: BatchJob, name: str) -> str:
    return reverse(f"admin:batches_batchjob_{name}", args=[job.pk])


def listed(operator: Client, /, **query: str) -> list[str]:
    return [job.batch_id for job in operator.get(LIST, query).context["cl"].result_list]


def test_batches_are_found_by_id_client_model_request_state_and_age(operator: Client) -> None:
    configure("n")
    operations.create_key("search", ["batch"], actor="setup")
    old = a_batch("m", age=8 * 86400, state=State.COMPLETED, client="search", request_id="r-7")
    new = a_batch("n", client="")
    assert listed(operator) == [new.batch_id, old.batch_id]
    for query, found in (
        ({"q": old.batch_id}, old),
        ({"q": new.batch_id[:8]}, new),
        ({"q": "search"}, old),
        ({"q": "r-7"}, old),
        ({"q": " n "}, new),
        ({"model": "n"}, new),
        ({"client": "search"}, old),
        ({"client": admin_filters.WITHOUT_KEY}, new),
        ({"state__exact": "completed"}, old),
        ({"age": "older"}, old),
        ({"age": "day"}, new),
    ):
        assert listed(operator, **query) == [found.batch_id], query
    assert listed(operator, q="batch_") == [new.batch_id, old.batch_id]


def test_the_list_costs_the_same_however_many_batches_there_are(
    operator: Client, django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(12):
        operator.get(LIST)
    now = clock.now()
    times = {"submitted_at": now, "queued_at": now, "available_at": now, "expires_at": now}
    BatchJob.objects.bulk_create(
        BatchJob(batch_id=f"b{n}", model="m", pattern="bulk_only", request_id="r", total=3, **times)
        for n in range(admin_filters.LISTED + 1)
    )
    with django_assert_max_num_queries(12):
        answer = operator.get(LIST)
    assert answer.context["cl"].result_count == admin_filters.LISTED
    assert "The newest 10000 that match." in text(answer)


def test_one_batch_shows_its_progress_chunks_and_failed_texts_page_by_page(operator: Client) -> None:
    job = a_batch(total=120, client_metadata={"<b>job</b>": "nightly"})
    for number in range(30):
        chunk = a_chunk(job, number=number, first=4 * number, texts=[f"text {4 * number + n}" for n in range(4)])
        finish(chunk, failed=[3]) if number < 28 else None
    page = operator.get(of(job, "change"))
    shown = text(page)
    for part in ("93.3 %", "84 of 120 texts have a vector", "28 failed", "28 done, 2 waiting", "too long"):
        assert part in shown, part
    assert "&lt;b&gt;job&lt;/b&gt;" in page.content.decode()
    first = page.context["failures"]
    assert [(f.index, f.text) for f in first.rows[:2]] == [(3, "text 3"), (7, "text 7")]
    assert (len(first.rows), first.next, page.context["chunks"].next) == (25, 103, 100)
    further = operator.get(of(job, "live"), {"failures": "103", "chunks": "100"})
    assert [f.index for f in further.context["failures"].rows] == [103, 107, 111]
    assert [c.first for c in further.context["chunks"].rows] == [100, 104, 108, 112, 116]
    assert operator.get(of(job, "live"), {"failures": "x", "chunks": "99999999999"}).status_code == 200


def test_a_batch_is_acted_upon_from_its_page_in_two_steps(operator: Client) -> None:
    job = a_batch(total=2)
    chunk = a_chunk(job, number=0, first=0, texts=["a", "b"])
    assert "stays cancelled" in text(operator.get(of(job, "cancel")))
    assert operator.post(of(job, "priority"), {"priority": "12"}).status_code == 200
    assert operator.post(of(job, "priority"), {"priority": "9"})["Location"] == of(job, "change")
    finish(chunk, failed=[0])
    assert "is completed already" in text(operator.post(of(job, "cancel")))
    assert operator.post(of(job, "retry")).status_code == 302
    assert operator.post(of(job, "cancel")).status_code == 302
    job.refresh_from_db()
    assert (job.priority, job.state) == (9, State.CANCELLED)
    actions = ["cancel_batch", "retry_batch", "set_batch_priority"]
    assert list(AuditEntry.objects.values_list("action", flat=True).order_by("-id")[:3]) == actions


def test_results_are_downloaded_as_the_api_gives_them(operator: Client) -> None:
    job = a_batch(total=3)
    finish(a_chunk(job, number=0, first=0, texts=["a", "b", "c"]), failed=[1])
    answer = operator.get(of(job, "download"))
    assert answer["Content-Disposition"] == f'attachment; filename="{job.batch_id}.ndjson"'
    rows = [json.loads(line) for line in b"".join(answer).splitlines()]
    assert [row["status"] for row in rows] == ["completed", "failed", "completed"]


def test_many_are_acted_upon_up_to_a_bound_that_is_told(operator: Client) -> None:
    jobs = [a_batch() for _ in range(25)]
    chosen = {"action": "cancel", "_selected_action": [j.pk for j in jobs[:2]], "select_across": "1", "index": "0"}
    asked = operator.post(LIST, chosen)
    assert "and 5 more" in text(asked)
    assert 'name="select_across" value="1"' in asked.content.decode()
    done = operator.post(LIST, chosen | {"apply": "yes"}, follow=True)
    assert "25 batches cancelled." in text(done)
    assert len(jobs) < admin_batches.AT_ONCE


def test_the_queue_is_shown_by_model_with_what_goes_next_and_who_works(operator: Client) -> None:
    now = clock.now()
    urgent = [a_batch(priority=p, released_at=now) for p in (1, 9, 5, 7)]
    a_batch("gone", total=7)
    process = {"host": "h", "pid": 7, "started_at": now}
    WorkerHeartbeat.objects.create(name="w", kind="worker", seen_at=now, **process)
    WorkerHeartbeat.objects.create(name="s", kind="scheduler", seen_at=now.replace(year=2020), **process)
    queues.enqueue(urgent[0].batch_id)
    page = operator.get(QUEUE)
    lines = {line.model: line for line in page.context["models"]}
    assert [job.priority for job in lines["m"].next] == [9, 7, 5]
    assert (lines["m"].released, lines["m"].held, lines["m"].texts, lines["gone"].texts) == (4, 0, 12, 7)
    assert page.context["lists"] == {"batch_queue": 1, "batch_helpers": 0}
    shown = text(page)
    assert "No scheduler is alive" in shown
    assert "No worker is alive" not in shown
    assert "silent" in shown


def test_what_goes_next_is_the_head_of_each_models_queue(operator: Client) -> None:
    jobs = [
        a_batch(
            "mno"[n % 3], age=n * 31 % 17, priority=n * 7 % 4, state=State.PROCESSING if n % 5 == 0 else State.QUEUED
        )
        for n in range(60)
    ]
    jobs.append(a_batch("in_work", state=State.PROCESSING))
    lines = {line.model: line.next for line in operator.get(QUEUE).context["models"]}
    assert lines.keys() >= {"m", "n", "o", "in_work"}
    for model, upcoming in lines.items():
        queued = [job for job in jobs if (job.model, job.state) == (model, State.QUEUED)]
        assert list(upcoming) == sorted(queued, key=lambda j: (-j.priority, j.queued_at, j.pk))[: waiting.NEXT]


def test_the_queue_without_redis_says_so(operator: Client, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert "Redis does not answer." in text(operator.get(QUEUE))


def test_whether_a_retry_would_find_something_is_known() -> None:
    done, partly = a_batch(total=1, state=State.COMPLETED, completed=1), a_batch(total=2, state=State.EXPIRED)
    assert not lifecycle.retryable(done)
    assert lifecycle.retryable(partly)
    assert not lifecycle.retryable(a_batch())


# --- django-rq's pages ---


def test_every_page_of_django_rq_has_the_consoles_frame(operator: Client) -> None:
    queues.enqueue("batch_m_1")
    parts = ("", "details/", "finished/", "failed/", "started/", "deferred/", "scheduled/", "empty/")
    for page in ("", "workers/1/", *(f"queues/1/{part}" for part in parts)):
        answer = operator.get(f"/admin/django_rq/dashboard/{page}")
        assert answer.status_code == 200, page
        body = answer.content.decode()
        assert "batches/rq.css" in body, page
        assert 'class="rq"' in body, page
    job = operator.get("/admin/django_rq/dashboard/queues/1/batch_m_1/")
    assert 'class="deletelink"' in job.content.decode()
    jobs = operator.get("/admin/django_rq/dashboard/queues/1/").content.decode()
    assert 'aria-label="Choose batch_m_1"' in jobs
    assert "action-toggle" not in jobs


def test_who_may_only_look_gets_django_rqs_pages_without_its_tools(operator: Client) -> None:
    queues.enqueue("batch_m_1")
    create_roles()
    viewer = User.objects.create_user("vera", is_staff=True)
    viewer.groups.set(viewer.groups.model.objects.filter(name="viewer"))
    client = Client()
    client.force_login(viewer)
    for page, tool in (("queues/1/", "Empty Queue"), ("queues/1/", 'name="action"'), ("queues/1/batch_m_1/", "Delete")):
        assert tool in operator.get(f"/admin/django_rq/dashboard/{page}").content.decode()
        assert tool not in client.get(f"/admin/django_rq/dashboard/{page}").content.decode()
    assert client.post("/admin/django_rq/dashboard/queues/1/empty/").status_code == 403
    assert client.get("/admin/django_rq/dashboard/queues/1/batch_m_1/delete/").status_code == 403
    assert queues.lengths() == {"batch_queue": 1, "batch_helpers": 0}


def test_an_operator_empties_the_very_list_that_workers_read(operator: Client) -> None:
    queues.enqueue("batch_m_1")
    assert operator.post("/admin/django_rq/dashboard/queues/1/empty/").status_code == 302
    assert queues.lengths() == {"batch_queue": 0, "batch_helpers": 0}


def test_every_template_of_django_rq_is_framed() -> None:
    theirs = Path(django_rq.__file__).parent / "templates/django_rq"
    names = [path.name for path in theirs.iterdir() if "{% extends" in path.read_text()]
    assert names
    for name in names:
        assert "rq_way" in loader.get_template(f"django_rq/{name}").template.source, name


def test_pages_that_lack_a_part_cannot_even_be_defined() -> None:
    parts = {"folder": "admin/batches/batchjob", "shown": lambda page, request, pk: {}}
    for name in parts:
        with pytest.raises(TypeError, match="Lacking needs a folder, and what is shown"):
            type("Lacking", (BatchPages,), {other: part for other, part in parts.items() if other != name})
    assert issubclass(type("Whole", (BatchPages,), parts), BatchPages)
