"""Callbacks of batches that end, to a real receiver: signed, at least once, and nowhere else."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from standardwebhooks import Webhook, WebhookVerificationError

from batches import callbacks, clock, lifecycle
from batches.models import BatchJob, Delivery
from batches.submission import submit
from tests.made_api import Api, problem, serve
from tests.made_batches import State, a_batch, a_submission, at_once, configure
from tests.receiver import Receiver

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("records", "redis_db")]


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    settings.CALLBACK_SECRETS = ["first secret"]
    settings.CALLBACK_ALLOW_HTTP = True
    settings.CALLBACK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    settings.CALLBACK_TIMEOUT = 5.0
    with Receiver() as receiver:
        yield receiver


def an_ended_batch(url: str, **fields: Any) -> BatchJob:
    values = {"state": State.COMPLETED, "completed": 3, "finished_at": clock.now(), "callback_url": url}
    return a_batch(**(values | fields))


def deliver() -> Delivery:
    """Announce, make one round of attempts; the delivery."""
    callbacks.announce()
    Delivery.objects.filter(state="pending").update(next_at=clock.now())
    callbacks.deliver_due()
    return Delivery.objects.latest("id")


def test_a_batch_that_ends_is_told_once_signed_for_its_client(receiver: Receiver) -> None:
    job = an_ended_batch(receiver.url, client_metadata={"run": "7"})
    delivery = deliver()
    assert (delivery.state, delivery.attempts, delivery.last_status) == ("delivered", 1, 204)
    deliver()
    (got,) = receiver.requests
    # Standard Webhooks' own library has the last word.
    told = Webhook(callbacks.secrets_of("team-a")[0]).verify(got.body, got.headers)
    assert (told["type"], told["data"]["batch_id"], told["data"]["counts"]["completed"]) == (
        "batch.completed",
        job.batch_id,
        3,
    )
    assert told["data"]["client_metadata"] == {"run": "7"}
    assert (got.path, got.id) == ("/hook", delivery.webhook_id)
    with pytest.raises(WebhookVerificationError):
        Webhook(callbacks.secrets_of("team-b")[0]).verify(got.body, got.headers)


def test_while_a_secret_changes_both_sign(receiver: Receiver, settings: Any) -> None:
    old = callbacks.secrets_of("team-a")[0]
    settings.CALLBACK_SECRETS = ["second secret", "first secret"]
    an_ended_batch(receiver.url)
    deliver()
    (got,) = receiver.requests
    for secret in (old, callbacks.secrets_of("team-a")[0]):
        Webhook(secret).verify(got.body, got.headers)


def test_what_fails_is_sent_again_later_as_the_same_message(receiver: Receiver, settings: Any) -> None:
    settings.CALLBACK_ATTEMPTS = 3
    receiver.answers.extend([(500, {}), (302, {"Location": f"{receiver.url}/elsewhere"}), (503, {})])
    an_ended_batch(receiver.url)
    first = deliver()
    assert (first.state, first.last_status) == ("pending", 500)
    assert first.next_at > clock.now() + timedelta(seconds=3)
    callbacks.deliver_due()  # not yet
    assert len(receiver.requests) == 1
    assert deliver().last_status == 302
    last = deliver()
    assert (last.state, last.attempts, last.last_status) == ("given_up", 3, 503)
    deliver()
    assert [got.path for got in receiver.requests] == ["/hook"] * 3
    assert len({(got.id, got.body) for got in receiver.requests}) == 1


def test_who_says_gone_is_not_asked_again(receiver: Receiver) -> None:
    receiver.answers.append((410, {}))
    an_ended_batch(receiver.url)
    assert deliver().state == "given_up"


def test_the_address_that_is_connected_to_decides_at_each_attempt(receiver: Receiver, settings: Any) -> None:
    named = f"http://localhost:{receiver.port}/hook"
    an_ended_batch(named)
    receiver.answers.append((500, {}))
    assert deliver().last_status == 500
    settings.CALLBACK_ALLOWED_NETWORKS = []
    refused = deliver()
    assert (refused.state, refused.last_status) == ("pending", None)
    assert refused.last_error == "The address is not allowed: it is not a public one."
    assert len(receiver.requests) == 1
    settings.CALLBACK_ALLOWED_HOSTS = ["localhost"]
    assert deliver().state == "delivered"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://nobody.invalid/", "The name cannot be resolved."),
        ("http://127.0.0.1:9/", "The address cannot be reached"),
        ("https://127.0.0.1:{port}/", "The address cannot be reached"),
    ],
)
def test_what_cannot_be_reached_is_said_and_tried_again(receiver: Receiver, url: str, why: str) -> None:
    an_ended_batch(url.format(port=receiver.port))
    delivery = deliver()
    assert delivery.state == "pending"
    assert why in delivery.last_error


def test_an_answer_that_does_not_come_is_not_waited_for(receiver: Receiver, settings: Any) -> None:
    settings.CALLBACK_TIMEOUT = 0.2
    receiver.hold.clear()
    an_ended_batch(receiver.url)
    assert deliver().last_error == "There was no answer in time."


def test_of_two_schedulers_at_once_one_announces_and_one_delivers(receiver: Receiver) -> None:
    for _ in range(5):
        an_ended_batch(receiver.url)
    at_once(callbacks.announce, callbacks.announce, callbacks.announce)
    at_once(callbacks.deliver_due, callbacks.deliver_due)
    assert len(receiver.requests) == len({got.id for got in receiver.requests}) == 5


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.EXPIRED])
def test_every_end_is_told(receiver: Receiver, state: State) -> None:
    an_ended_batch(receiver.url, state=state, completed=0, failed=3)
    deliver()
    assert receiver.requests[0].json()["type"] == f"batch.{state}"


def test_a_retry_that_ends_again_is_another_message(receiver: Receiver) -> None:
    configure()
    accepted = submit(a_submission(callback_url=receiver.url))
    lifecycle.cancel(accepted.batch_id)
    deliver()
    job = BatchJob.objects.get()
    BatchJob.objects.update(state=State.EXPIRED)
    lifecycle.retry(job.batch_id)
    deliver()
    assert len(receiver.requests) == 1
    lifecycle.cancel(job.batch_id)
    deliver()
    assert len({got.id for got in receiver.requests}) == 2


def test_the_api_takes_it_for_queued_work_and_shows_what_came_of_it(receiver: Receiver) -> None:
    serve("m", "real_time hybrid", "http://127.0.0.1:9")
    api = Api("embed", "batch")
    live = problem(api.embed("m", text="a", urgent=True, callback_url=receiver.url))
    assert "callback_url" in live["errors"]
    lines = api.raw("m", b'{"text": "a"}\n', kind="application/x-ndjson", query=f"?callback_url={receiver.url}?t%3D1")
    queued = api.embed("m", text="a", urgent=False, callback_url=f"{receiver.url}?token=own-secret")
    assert (lines.status_code, queued.status_code) == (202, 202)
    address = queued.headers["Location"]
    assert api.http.get(address).json()["callback"]["status"] == "waiting"
    api.http.post(f"{address}/cancel")
    deliver()
    callback = api.http.get(address).json()["callback"]
    assert (callback["status"], callback["event"], callback["attempts"]) == ("delivered", "batch.cancelled", 1)
    assert callback["url"] == f"{receiver.url}?token=own-secret"
    assert receiver.requests[0].path == "/hook?token=own-secret"


def test_operators_see_the_delivery_but_not_the_query(receiver: Receiver, settings: Any) -> None:
    settings.WHITENOISE_AUTOREFRESH = True
    job = an_ended_batch(f"{receiver.url}?token=own-secret")
    deliver()
    browser = Client()
    browser.force_login(User.objects.create_superuser("ann"))
    page = browser.get(f"/admin/batches/batchjob/{job.pk}/change/").content.decode()
    assert receiver.url in page
    assert "delivered, 1 attempt, answered 204" in page
    assert "own-secret" not in page


def test_a_clients_secret_is_printed_for_it(
    receiver: Receiver, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("callback_secret", "team-a")
    assert capsys.readouterr().out.strip() == callbacks.secrets_of("team-a")[0]
    settings.CALLBACK_SECRETS = []
    with pytest.raises(CommandError, match="CALLBACK_SECRET"):
        call_command("callback_secret", "team-a")
