"""check_models asks real servers, and says which of them are not well."""

from collections.abc import Iterator
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from integrations import loop, operations
from integrations.models import Endpoint, ModelConfig, PatternAssignment
from tests.upstreams import Upstream

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def own_loop() -> Iterator[None]:
    yield
    loop.stop()


def serve(slug: str, *upstreams: Upstream, enabled: bool = True) -> None:
    """Make a model that these servers serve, in order."""
    model = ModelConfig(slug=slug, upstream_model="test-model", enabled=enabled)
    endpoints = [Endpoint(url=u.url, protocol=u.protocol, position=n) for n, u in enumerate(upstreams)]
    operations.save_model(model, rows=[*endpoints, PatternAssignment(pattern="real_time")], actor="ann")


def run(*args: str) -> tuple[list[list[str]], str]:
    """The table's rows, and the refusal if there was one."""
    out = StringIO()
    refused = ""
    try:
        call_command("check_models", *args, stdout=out)
    except CommandError as error:
        refused = str(error)
    return [line.split() for line in out.getvalue().splitlines()], refused


def test_every_endpoint_gives_its_dimensions_and_its_time() -> None:
    with Upstream("ollama") as first, Upstream("tei") as second, Upstream("openai", dimensions=16) as third:
        serve("phi3", first, second)
        serve("hermes", third)
        (_, *rows), refused = run()
    assert refused == ""
    assert [row[:5] for row in rows] == [
        ["phi3", first.url, "ollama", "ok", "8"],
        ["phi3", second.url, "tei", "ok", "8"],
        ["hermes", third.url, "openai", "ok", "16"],
    ]
    assert all(float(row[5]) > 0 for row in rows)
    assert (first.calls, first.health_calls) == (1, 1)


def test_one_that_fails_is_named_and_the_others_are_asked_all_the_same() -> None:
    with Upstream("ollama") as first, Upstream("tei") as second, Upstream("openai") as third:
        first.status(500)
        second.refuse()
        serve("phi3", first, second, third)
        (_, *rows), refused = run()
    assert refused == "2 of 3 endpoints are not well."
    assert [row[3] for row in rows] == ["ok", "failed", "ok"]
    assert [row[4] for row in rows] == ["-", "-", "8"]
    assert [len(row) > 6 for row in rows] == [True, True, False]


def test_a_server_that_embeds_but_is_not_healthy_is_not_well() -> None:
    with Upstream("tei") as upstream:
        upstream.status(503, on="health")
        serve("phi3", upstream)
        (_, row), refused = run()
    assert (row[3], row[4]) == ("failed", "8")
    assert refused == "1 of 1 endpoints are not well."


def test_a_model_without_an_endpoint_is_not_well() -> None:
    serve("phi3")
    (_, row), refused = run()
    assert (row[0], " ".join(row[6:])) == ("phi3", "no enabled endpoint")
    assert refused == "1 of 1 endpoints are not well."


def test_a_model_that_is_switched_off_is_asked_only_by_name() -> None:
    with Upstream("tei") as upstream, Upstream("ollama") as other:
        serve("phi3", upstream, enabled=False)
        serve("hermes", other)
        (_, *rows), _ = run()
        assert [row[0] for row in rows] == ["hermes"]
        (_, *rows), refused = run("--model", "phi3")
        assert ([row[0] for row in rows], refused) == (["phi3"], "")


def test_an_unknown_model_is_refused() -> None:
    assert "phi4" in run("--model", "phi4")[1]
