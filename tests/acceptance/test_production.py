"""Production settings: what is refused at the start, Django's own check, and where a secret must never turn up."""

import json
import re
import secrets
from collections.abc import Iterator
from typing import Any, Final

import pytest
import requests
from django.contrib.auth.models import User
from django.db import connection

from integrations import operations, snapshot
from integrations.models import CallRecord, Endpoint
from tests.made_api import serve
from tests.processes import Process, Stack, wait_until
from tests.upstreams import Upstream

LONG: Final = secrets.token_urlsafe(50)


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"SECRET_KEY": ""}, "SECRET_KEY is not set"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY is too simple"),
        ({"SECRET_KEY": "a" * 60}, "SECRET_KEY is too simple"),
        ({"SECRET_KEY": "django-insecure-" + LONG}, "SECRET_KEY is too simple"),
        ({"SECRET_KEY": LONG, "DEBUG": "true"}, "DEBUG is on"),
    ],
)
@pytest.mark.parametrize("marker", [{"CITADEL_ENV": "production"}, {"CITADEL_HTTPS": "true"}], ids=["env", "https"])
def test_an_unsafe_start_is_refused(stack: Stack, env: dict[str, str], why: str, marker: dict[str, str]) -> None:
    done = stack.manage("check", **env, **marker)
    assert done.returncode != 0
    assert why in done.stderr


def test_the_deploy_check_is_clean(stack: Stack) -> None:
    done = stack.manage("check", "--deploy", "--fail-level", "WARNING", SECRET_KEY=LONG, CITADEL_HTTPS="true")
    assert done.returncode == 0, done.stderr
    assert "no issues (0 silenced)" in done.stdout


# --- Planted secrets -------------------------------------------------------------------------------------------------


class Planted:
    """Secrets of every kind, each recognisable, and what was seen of the system that holds them."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {
            "SECRET_KEY": f"planted-secret-key-{secrets.token_hex(20)}",
            "database password": f"planted-db-{secrets.token_hex(8)}",
            "upstream credential": f"planted-upstream-{secrets.token_hex(8)}",
            "callback secret": f"planted-callback-{secrets.token_hex(20)}",
            "log-in password": f"planted-log-in-{secrets.token_hex(8)}",
            "wrong password": f"planted-wrong-{secrets.token_hex(8)}",
            "wrong key": f"ck_planted-{secrets.token_hex(16)}",
        }
        self.seen: dict[str, str] = {}

    def leaks(self) -> list[str]:
        """Where which secret turned up."""
        return [
            f"{name} in {place}"
            for name, value in self.of.items()
            for place, text in self.seen.items()
            if value in text
        ]


@pytest.fixture
def upstreams() -> Iterator[tuple[Upstream, Upstream]]:
    with Upstream() as good, Upstream() as bad:
        yield good, bad


def test_no_planted_secret_turns_up_in_logs_answers_pages_metrics_or_tables(
    stack: Stack, upstreams: tuple[Upstream, Upstream]
) -> None:
    planted = Planted()
    _configure(upstreams, planted)
    planted.of["API key"] = operations.create_key("team-a", ["embed", "batch", "read", "operate"], actor="tests")
    snapshot.bump()
    user = re.sub(r"//([^:@/]+)(:[^@]*)?@", rf"//\1:{planted.of['database password']}@", stack.database_url)
    stack.common |= {
        "SECRET_KEY": planted.of["SECRET_KEY"],
        "DATABASE_URL": user,
        "UPSTREAM_CREDENTIAL": planted.of["upstream credential"],
        "CALLBACK_SECRET": planted.of["callback secret"],
        "CITADEL_ENV": "production",
        "LOG_LEVEL": "DEBUG",
    }
    web, url = stack.web()
    processes = [web, stack.worker(), stack.scheduler()]
    _use(url, planted)
    wait_until(lambda: CallRecord.objects.filter(mode="bulk", code="ok").exists(), 30)
    for command in (("diagnose", "--verbose", "--debug"), ("check_models",), ("export_models",)):
        done = stack.manage(*command)
        planted.seen[command[0]] = done.stdout + done.stderr
    _look_at(stack, processes, planted)
    assert planted.leaks() == []
    # The scan sees what there is: a word of the clients' own is found where it belongs.
    assert "team-a" in planted.seen["integrations_callrecord"]


def _configure(upstreams: tuple[Upstream, Upstream], planted: Planted) -> None:
    for name, upstream in zip(("good", "bad"), upstreams, strict=True):
        upstream.auth = ("Authorization", planted.of["upstream credential"])
        serve(name, "real_time hybrid", upstream)
    upstreams[1].status(500, body=f"I was shown {planted.of['upstream credential']}")
    Endpoint.objects.update(auth_env="UPSTREAM_CREDENTIAL")
    User.objects.create_superuser("ann", password=planted.of["log-in password"])


def _use(url: str, planted: Planted) -> None:
    """Every way in, right and wrong; what comes back is kept."""
    key = {"Authorization": f"Bearer {planted.of['API key']}"}
    wrong = {"Authorization": f"Bearer {planted.of['wrong key']}"}
    embed = "/api/v1/external/{}/embed"
    for n, (path, headers, body) in enumerate(
        (
            (embed.format("good"), key, {"text": "a", "urgent": True}),
            (embed.format("good"), key, {"text": "a", "urgent": False}),
            (embed.format("bad"), key, {"text": "a", "urgent": True}),
            (embed.format("good"), wrong, {"text": "a"}),
            (embed.format("good"), key, {"text": 7}),
            ("/v1/embeddings", key, {"model": "bad", "input": "a"}),
            ("/v1/embeddings", wrong, {"model": "good", "input": "a"}),
            ("/api/v1/external/test/failover", key, {"model": "good", "simulate_failure": False}),
        )
    ):
        _keep(planted, f"answer {n}", requests.post(url + path, json=body, headers=headers, timeout=30))
    for path in ("/metrics", "/api/v1/external/patterns/status", "/api/v1/external/patterns/metrics", "/health/ready"):
        _keep(planted, path, requests.get(url + path, headers=key, timeout=30))
    _browse(url, planted)


def _browse(url: str, planted: Planted) -> None:
    with requests.Session() as browser:
        token = _token(browser.get(f"{url}/admin/login/", timeout=30).text)
        for kind in ("wrong password", "log-in password"):
            form = {"username": "ann", "password": planted.of[kind], "csrfmiddlewaretoken": token, "next": "/admin/"}
            answer = browser.post(f"{url}/admin/login/", data=form, headers={"Referer": url}, timeout=30)
            _keep(planted, f"log-in with the {kind}", answer)
            token = _token(answer.text) or token
        endpoint = Endpoint.objects.first()
        assert endpoint is not None
        for page in (
            "/admin/",
            "/admin/breakers/",
            "/admin/integrations/apikey/",
            "/admin/integrations/modelconfig/",
            f"/admin/integrations/modelconfig/{endpoint.model_id}/change/",
            f"/admin/integrations/endpoint/{endpoint.pk}/change/",
            "/admin/integrations/callrecord/",
            "/admin/integrations/auditentry/",
            "/admin/auth/user/",
            "/admin/nowhere/",
        ):
            answer = browser.get(url + page, timeout=30)
            assert "Log out" in answer.text or "log out" in answer.text.lower() or page.endswith("nowhere/"), page
            _keep(planted, page, answer)


def _token(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    return found[1] if found else ""


def _keep(planted: Planted, place: str, answer: requests.Response) -> None:
    planted.seen[place] = json.dumps(dict(answer.headers)) + answer.text


def _look_at(stack: Stack, processes: list[Process], planted: Planted) -> None:
    """What the processes wrote, and all that PostgreSQL, Redis and the state folder hold."""
    for process in processes:
        process.stop()
        planted.seen[f"log of {process.name}"] = process.log.read_text(errors="replace")
    for table in connection.introspection.table_names():
        with connection.cursor() as cursor:
            cursor.execute(f'SELECT row_to_json(t)::text FROM "{table}" AS t')
            planted.seen[table] = "\n".join(row[0] for row in cursor.fetchall())
    planted.seen["redis"] = str([(name, _value(stack.redis, name)) for name in stack.redis.keys("*")])
    for path in stack.folder.rglob("*"):
        if path.is_file() and path.suffix != ".log":
            planted.seen[path.name] = path.read_bytes().decode("latin-1")


def _value(client: Any, name: bytes) -> Any:
    return client.dump(name)
