"""“Probe now” over HTTP, on real servers."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from integrations import admin_probe
from integrations.models import AuditEntry, Endpoint
from tests.integration.test_admin import model_form, text
from tests.upstreams import Upstream

pytestmark = pytest.mark.django_db
PROBE = "/admin/integrations/modelconfig/probe/"


@pytest.fixture
def administrator(settings: Any) -> Client:
    settings.WHITENOISE_AUTOREFRESH = True
    client = Client()
    client.force_login(User.objects.create_superuser("ann"))
    return client


def asked(client: Client, upstream: Upstream, **fields: str) -> str:
    row = {"endpoints-0-url": upstream.url, "endpoints-0-protocol": upstream.protocol, "endpoints-0-probe": "now"}
    return text(client.post(PROBE, model_form(upstream_model="test-model", **(row | fields))))


@pytest.mark.parametrize("protocol", ["ollama", "openai", "tei"])
def test_an_endpoint_is_asked_as_the_form_has_it_and_nothing_is_stored(administrator: Client, protocol: str) -> None:
    with Upstream(protocol, dimensions=12) as upstream:
        said = asked(administrator, upstream)
        assert "works" in said
        assert "12 dimensions in" in said
        assert (upstream.calls, upstream.health_calls) == (1, 1)
    assert (Endpoint.objects.count(), AuditEntry.objects.count()) == (0, 0)


def test_what_is_wrong_with_a_server_or_with_the_form_is_said(administrator: Client) -> None:
    with Upstream(dimensions=12) as upstream:
        assert "12" in asked(administrator, upstream, dimensions="384")
        assert "failed" in asked(administrator, upstream, dimensions="384")
        assert "Citadel&#x27;s own secret" in asked(administrator, upstream, **{"endpoints-0-auth_env": "SECRET_KEY"})
        assert upstream.calls == 2
        upstream.status(503)
        assert "failed" in asked(administrator, upstream)


def test_one_probe_runs_at_a_time(administrator: Client) -> None:
    other = connection.copy()
    try:
        with other.cursor() as cursor, Upstream() as upstream:
            cursor.execute("SELECT pg_advisory_lock(%s)", [admin_probe._ONE])
            assert "Another probe is running" in asked(administrator, upstream)
            assert upstream.calls == 0
    finally:
        other.close()


def test_a_probe_is_a_post(administrator: Client) -> None:
    assert administrator.get(PROBE).status_code == 405
