"""The queue in the admin, over HTTP."""

import pytest
from django.contrib.auth.models import Permission, User
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from batches import clock
from batches.models import BatchJob, WorkerHeartbeat
from integrations.models import AuditEntry
from tests.made_batches import State, a_batch, a_chunk, configure, finish

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_db")]

PAGE = reverse("admin:batches_batchjob_changelist")


@pytest.fixture
def operator(db: None) -> Client:
    configure()
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    return client


def act(client: Client, action: str, *jobs: BatchJob, **fields: str) -> HttpResponse:
    chosen = {"action": action, "_selected_action": [str(job.pk) for job in jobs]}
    return client.post(PAGE, chosen | fields, follow=True)


def states() -> list[str]:
    return list(BatchJob.objects.order_by("id").values_list("state", flat=True))


def test_batches_and_workers_are_shown_and_cannot_be_edited(operator: Client) -> None:
    now = clock.now()
    job = a_batch()
    WorkerHeartbeat.objects.create(name="worker-1", kind="worker", host="h", pid=1, started_at=now, seen_at=now)
    assert job.batch_id in operator.get(PAGE).content.decode()
    assert "worker-1" in operator.get(reverse("admin:batches_workerheartbeat_changelist")).content.decode()
    change = reverse("admin:batches_batchjob_change", args=[job.pk])
    assert operator.get(change).status_code == 200
    assert operator.post(change, {"priority": "9"}).status_code == 403


def test_an_operator_cancels_what_is_active_and_is_told_what_is_not(operator: Client) -> None:
    active, ended = a_batch(), a_batch(state=State.COMPLETED)
    assert f'<li class="break-words">{active}</li>' in act(operator, "cancel", active, ended).content.decode()
    assert states() == [State.QUEUED, State.COMPLETED]  # it was only asked
    content = act(operator, "cancel", active, ended, apply="yes").content.decode()
    assert states() == [State.CANCELLED, State.COMPLETED]
    assert "1 batch cancelled." in content
    assert f"{ended.batch_id} is completed already." in content
    assert AuditEntry.objects.get().actor == "ada"


def test_an_operator_retries_failed_texts(operator: Client) -> None:
    job = a_batch(total=2)
    finish(a_chunk(job, number=0, first=0, texts=["a", "b"]), failed=[0])
    assert "1 batch queued again." in act(operator, "retry", job, apply="yes").content.decode()
    assert states() == [State.QUEUED]


def test_an_operator_sets_a_priority_after_being_asked_for_it(operator: Client) -> None:
    job = a_batch()
    asked = act(operator, "set_priority", job)
    assert 'name="priority"' in asked.content.decode()
    act(operator, "set_priority", job, apply="1", priority="12")
    job.refresh_from_db()
    assert job.priority == 5
    act(operator, "set_priority", job, apply="1", priority="9")
    job.refresh_from_db()
    assert job.priority == 9


def test_somebody_who_may_only_look_has_no_actions() -> None:
    job = a_batch()
    watcher = User.objects.create_user("bob", is_staff=True)
    watcher.user_permissions.add(Permission.objects.get(codename="view_batchjob"))
    client = Client()
    client.force_login(watcher)
    assert job.batch_id in client.get(PAGE).content.decode()
    assert act(client, "cancel", job).status_code == 403
    assert states() == [State.QUEUED]
