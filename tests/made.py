"""Configuration values for tests that need no database."""

from typing import Any

from integrations.values import Assignment, Endpoint, Model
from tests.upstreams import Upstream

_next_id = iter(range(1_000_000, 2_000_000))


def an_endpoint(upstream: Upstream | str, **changes: Any) -> Endpoint:
    """An endpoint at an upstream (or a URL), with an id that no other has."""
    url, protocol = (upstream, "ollama") if isinstance(upstream, str) else (upstream.url, upstream.protocol)
    values: dict[str, Any] = {
        "id": next(_next_id),
        "model": "m",
        "url": url,
        "protocol": protocol,
        "upstream_model": "test-model",
        "max_batch": None,
        "max_in_flight": 100,
        "min_target": 1,
        "max_target": 1000,
        "auth_header": "Authorization",
        "auth_env": "",
        "ca_file": "",
        "breaker_epoch": 0,
        "forced": None,
    }
    return Endpoint(**(values | changes))


def an_assignment(pattern: str = "real_time", **changes: Any) -> Assignment:
    """An assignment whose times suit tests."""
    values: dict[str, Any] = {
        "pattern": pattern,
        "deadline": 3.0,
        "connect_timeout": 0.5,
        "attempt_timeout": 1.0,
        "retry_attempts": 3,
        "breaker_threshold": 10,
        "breaker_reset_timeout": 0.5,
        "urgent_threshold": 5,
        "batch_size": 100,
        "processing_interval": 300.0,
    }
    return Assignment(**(values | changes))


def a_model(*endpoints: Endpoint, **changes: Any) -> Model:
    """A live model called m at these endpoints."""
    values: dict[str, Any] = {
        "slug": "m",
        "enabled": True,
        "draining": False,
        "drain_reason": "",
        "upstream_model": "test-model",
        "dimensions": None,
        "embedding_space": "",
        "query_prefix": "",
        "passage_prefix": "",
        "normalise": True,
        "truncate": "error",
        "max_waiting_texts": 1_000_000,
        "coalesce": False,
        "endpoints": endpoints,
        "assignments": (an_assignment(),),
        "fallbacks": (),
    }
    return Model(**(values | changes))
