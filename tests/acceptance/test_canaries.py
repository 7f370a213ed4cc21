"""A model server that comes back with another model is found by its canary and taken out, in every process."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
import requests

from batches.models import BatchJob
from batches.submission import submit
from integrations import canaries, operations
from integrations.models import AuditEntry, Canary, Endpoint, ModelConfig
from tests.acceptance.test_worker_kills import assert_each_text_has_its_own_vector
from tests.made_api import serve
from tests.made_batches import a_submission
from tests.processes import Stack, wait_until
from tests.upstreams import Upstream, vector_of

SCOPES = {"CITADEL_ANONYMOUS_SCOPES": "embed,batch,read"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """One live answer: which server gave it, whether it is the vector of the right model, and when it was asked for."""

    endpoint: str
    right: bool
    at: float


def ask(url: str, number: int) -> Live:
    text, at = f"text {number}", time.monotonic()
    answer = requests.post(f"{url}/api/v1/external/m/embed", json={"text": text, "urgent": True}, timeout=30)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    right = np.allclose(body["embedding"], vector_of(text, 8), atol=1e-6)
    return Live(endpoint=body["endpoint"], right=right, at=at)


def ask_until(condition: Callable[[], bool], url: str) -> list[Live]:
    """Live calls, one after the other, until `condition()` holds."""
    found: list[Live] = []

    def call() -> bool:
        found.append(ask(url, len(found)))
        return condition()

    wait_until(call, 20)
    return found


def test_a_server_that_comes_back_with_another_model_is_taken_out_and_its_replica_answers(stack: Stack) -> None:
    with Upstream() as first, Upstream() as second:
        serve("m", "hybrid", first, second, batch_size=10, processing_interval=0.2)
        # With the cache: what the wrong model gave must not come back out of it either.
        ModelConfig.objects.update(canary=ModelConfig.OnMoved.TAKE_OUT, cache=True)
        _, url = stack.web(**SCOPES)
        stack.worker()
        stack.scheduler(CANARY_INTERVAL="1")
        wait_until(lambda: Canary.objects.filter(state="well").count() == 2, 10)

        def is_out() -> bool:
            return Endpoint.objects.filter(url=first.url, forced_open=True).exists()

        assert ask(url, 0).endpoint == first.url
        first.refuse()
        first.weights = "another model"
        first.listen()
        ask_until(is_out, url)
        out_since = time.monotonic()
        calls = ask_until(lambda: time.monotonic() > out_since + 1.5, url)
        assert {call.endpoint for call in calls if call.at > out_since + 1} == {second.url}
        assert all(call.right for call in calls if call.at > out_since + 1)
        assert not Endpoint.objects.filter(url=second.url, forced_open=True).exists()

        texts = [f"queued {n}" for n in range(50)]
        first.reset_counters()
        answer = requests.post(f"{url}/api/v1/external/m/embed", json={"texts": texts, "urgent": False}, timeout=30)
        job = BatchJob.objects.get(batch_id=answer.json()["batch_id"])
        wait_until(lambda: BatchJob.objects.get(pk=job.pk).state == "completed", 20)
        assert_each_text_has_its_own_vector(job.batch_id, texts, second)
        assert first.texts.keys() <= {canaries.TEXT}

        (shown, _) = requests.get(f"{url}/api/v1/external/patterns/status", timeout=10).json()["circuit_breakers"]["m"][
            "endpoints"
        ]
        assert (shown["state"], shown["by"], shown["canary"]["state"]) == ("forced_open", operations.CANARY, "moved")
        metrics = requests.get(f"{url}/metrics", timeout=10).text
        assert f'citadel_canary_state{{endpoint="{first.url}",model="m",state="moved"}} 1.0' in metrics

        first.weights = ""
        wait_until(lambda: Canary.objects.filter(state="well").count() == 2, 10)
        assert is_out()  # until an operator has looked at it
        operations.reset_breaker(list(Endpoint.objects.filter(url=first.url).values_list("pk", flat=True)), actor="ann")
        fresh = count(10_000)
        back = ask_until(lambda: ask(url, next(fresh)).endpoint == first.url, url)
        assert all(call.right for call in back)
        assert AuditEntry.objects.filter(actor=operations.CANARY, action="trip_breaker").count() == 1


def test_a_server_that_hangs_at_its_canary_holds_up_neither_the_queue_nor_a_stop(stack: Stack) -> None:
    with Upstream() as hung, Upstream() as well:
        hung.hang()
        serve("hung", "real_time", hung)
        serve("m", "bulk_only", well, batch_size=10, processing_interval=0.2)
        stack.worker()
        scheduler = stack.scheduler(CANARY_TIMEOUT="60")
        wait_until(lambda: hung.in_flight == 1, 10)
        # Not full: it is the scheduler that releases it.
        accepted = submit(a_submission(["a", "b"], batch_size=10, processing_interval=0.2))
        wait_until(lambda: BatchJob.objects.get(batch_id=accepted.batch_id).state == "completed", 15)
        assert hung.in_flight == 1
        scheduler.stop(within=8)
        assert "Traceback" not in scheduler.tail()
