"""bulk and hybrid: live where a server can, queued where it cannot."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection

from batches.models import BatchJob
from batches.patterns import bulk, hybrid
from integrations import breakers
from integrations.errors import CircuitOpen, TextRejected, UpstreamFailed
from integrations.patterns import Accepted, EmbedCall, Embeddings, Mode
from tests.made import a_model, an_assignment, an_endpoint
from tests.made_batches import a_submission, at_once, configure, texts_of
from tests.postgres_proxy import PostgresProxy, connections_through
from tests.upstreams import Upstream, vector_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_db", "records")]


@pytest.fixture(autouse=True)
def model(transactional_db: None) -> None:
    configure(pattern="hybrid")


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


def a_hybrid_call(server: Upstream | str, *, mode: Mode = Mode.LIVE, **changes: Any) -> EmbedCall:
    assignment = an_assignment("hybrid", retry_attempts=0, breaker_threshold=2)
    model = a_model(an_endpoint(server), assignments=(assignment,), **changes)
    return replace(a_submission(["a text"]), model=model, assignment=assignment, mode=mode)


def test_bulk_queues() -> None:
    accepted = bulk(a_submission())
    assert texts_of(accepted.batch_id) == ["one", "two", "three"]


def test_hybrid_answers_live_and_stores_nothing(upstream: Upstream) -> None:
    answer = hybrid(a_hybrid_call(upstream))
    assert isinstance(answer, Embeddings)
    assert answer.vectors[0] == pytest.approx(vector_of("a text", 8))
    assert not BatchJob.objects.exists()


def test_hybrid_asked_to_queue_does_not_ask_the_server(upstream: Upstream) -> None:
    assert isinstance(hybrid(a_hybrid_call(upstream, mode=Mode.QUEUED)), Accepted)
    assert upstream.calls == 0


def test_hybrid_queues_what_a_failing_server_cannot_answer(upstream: Upstream) -> None:
    upstream.status(500)
    answer = hybrid(a_hybrid_call(upstream))
    assert isinstance(answer, Accepted)
    assert upstream.calls == 1
    job = BatchJob.objects.get()
    assert (job.pattern, texts_of(job.batch_id)) == ("hybrid", ["a text"])


def test_hybrid_queues_without_asking_once_the_breaker_is_open(upstream: Upstream) -> None:
    upstream.status(500)
    call = a_hybrid_call(upstream)
    for _ in range(2):
        hybrid(call)
    assert breakers.state_of(call.model.endpoints[0]).status == "open"
    assert isinstance(hybrid(call), Accepted)
    assert upstream.calls == 2


def test_a_text_that_the_server_refuses_is_not_queued(upstream: Upstream) -> None:
    upstream.status(400)
    with pytest.raises(TextRejected):
        hybrid(a_hybrid_call(upstream))
    assert not BatchJob.objects.exists()


def test_where_the_queue_cannot_take_it_the_live_failure_is_told(upstream: Upstream) -> None:
    upstream.status(500)
    with pytest.raises(UpstreamFailed):
        hybrid(a_hybrid_call(upstream, max_waiting_texts=0))
    call = a_hybrid_call(upstream)
    with PostgresProxy(connection.settings_dict) as proxy, connections_through(proxy):
        proxy.swallow_before(b"INSERT INTO")
        (answer,) = at_once(lambda: hybrid(call))
    assert isinstance(answer, UpstreamFailed | CircuitOpen)
    assert not BatchJob.objects.exists()
