"""A configured Citadel for tests of its HTTP side: models, and a client that shows a key."""

from typing import Any

import orjson
from django.http import HttpResponse
from django.test import Client

from integrations import operations, snapshot
from integrations.models import Endpoint, ModelConfig, PatternAssignment
from tests.upstreams import Upstream

ALL_SCOPES = ("embed", "batch", "read", "operate")


def serve(slug: str, patterns: str, *upstreams: Upstream | str, **assignment: Any) -> None:
    """Store a model with these patterns ("real_time hybrid") at these servers, its times short, and make it known."""
    model = ModelConfig.objects.create(slug=slug, upstream_model="test-model")
    for position, upstream in enumerate(upstreams):
        url, protocol = (upstream, "ollama") if isinstance(upstream, str) else (upstream.url, upstream.protocol)
        Endpoint.objects.create(model=model, position=position, url=url, protocol=protocol)
    times = {
        "deadline": 5.0,
        "connect_timeout": 1.0,
        "attempt_timeout": 2.0,
        "retry_attempts": 0,
        "breaker_threshold": 3,
    }
    for position, pattern in enumerate(patterns.split()):
        PatternAssignment.objects.create(model=model, pattern=pattern, position=position, **(times | assignment))
    # Loaded here and now: versions begin anew in each test's tables, so that an old snapshot can look current.
    snapshot.load()


class Api:
    """A client of the API. `scopes` gives it a key of its own; with none it shows no key."""

    def __init__(self, *scopes: str, name: str = "team-a") -> None:
        key = operations.create_key(name, scopes, actor="tests") if scopes else ""
        snapshot.load()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # What a view raises must come back as a client gets it, not as an exception of the test.
        self.http = Client(raise_request_exception=False, headers=headers)

    def embed(self, model: str, **fields: Any) -> HttpResponse:
        """POST these fields as JSON."""
        return self.raw(model, orjson.dumps(fields))

    def raw(
        self, model: str, body: bytes, *, kind: str = "application/json", query: str = "", **headers: str
    ) -> HttpResponse:
        """POST this very body."""
        path = f"/api/v1/external/{model}/embed{query}"
        return self.http.post(path, body, content_type=kind, headers=headers)  # type: ignore[return-value]


def problem(answer: Any) -> dict[str, Any]:
    """The problem that an answer holds, checked to be one."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer.content
    body: dict[str, Any] = orjson.loads(answer.content)
    assert body["status"] == answer.status_code
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert body["type"] == f"/api/docs/errors#{body['code']}"
    assert body["detail"]
    return body
