"""Callbacks by real processes: a batch is embedded, told of, and told of again when the scheduler dies meanwhile."""

from collections.abc import Iterator

import pytest
import requests
from standardwebhooks import Webhook

from batches.models import Delivery
from integrations import operations, snapshot
from tests.processes import Stack, serve_model, wait_until
from tests.receiver import Receiver
from tests.upstreams import Upstream


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def test_a_scheduler_killed_while_it_tells_leaves_it_to_the_next(stack: Stack, receiver: Receiver) -> None:
    stack.common |= {
        "CALLBACK_SECRET": "only-for-tests",
        "CALLBACK_ALLOW_HTTP": "true",
        "CALLBACK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "CALLBACK_TIMEOUT": "2",
    }
    with Upstream() as upstream:
        serve_model(upstream)
        key = operations.create_key("team-a", ["batch"], actor="tests")
        snapshot.bump()
        url, scheduler = stack.web()[1], stack.scheduler()
        stack.worker()
        receiver.hold.clear()
        body = {"texts": ["a", "b"], "batch": True, "callback_url": receiver.url}
        headers = {"Authorization": f"Bearer {key}"}
        queued = requests.post(f"{url}/api/v1/external/m/embed", json=body, headers=headers, timeout=30)
        assert queued.status_code == 202, queued.text
        wait_until(lambda: len(receiver.requests) == 1, 60)
        scheduler.kill()
        receiver.hold.set()
        assert Delivery.objects.get().state == "pending"
        stack.scheduler()
        wait_until(lambda: Delivery.objects.get().state == "delivered", 60)
        shown = requests.get(url + queued.headers["Location"], headers=headers, timeout=30).json()["callback"]
        assert (shown["status"], shown["last_status"]) == ("delivered", 204)
        assert shown["attempts"] == len(receiver.requests) >= 2
        assert len({got.id for got in receiver.requests}) == 1
        secret = stack.manage("callback_secret", "team-a").stdout.strip()
        for got in receiver.requests:
            assert Webhook(secret).verify(got.body, got.headers)["data"]["counts"]["completed"] == 2
