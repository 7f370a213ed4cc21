"""What surrounds the console's pages: their policy, the operator's zone, sessions that end, PostgreSQL that is gone."""

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client

from integrations.models import AuditEntry, Endpoint
from tests.made_api import serve

pytestmark = pytest.mark.django_db

TRIP = "/admin/breakers/trip/"


def policy(answer: Any) -> dict[str, str]:
    directives = answer["Content-Security-Policy"].split("; ")
    return dict(d.split(" ", 1) for d in directives)


def test_every_inline_script_and_style_of_the_admin_carries_the_nonce_of_its_own_answer(operator: Client) -> None:
    seen = set()
    for address in ("/admin/", "/admin/integrations/callrecord/", "/admin/auth/user/add/"):
        answer = operator.get(address)
        (nonce,) = re.findall(r"'nonce-([^']+)'", policy(answer)["script-src"])
        tags = re.findall(r"<(?:script|style)\b(?![^>]*\bsrc=)[^>]*>", answer.content.decode())
        assert tags
        assert [tag for tag in tags if f'nonce="{nonce}"' not in tag] == []
        seen.add(nonce)
    assert len(seen) == 3


def test_only_the_admin_may_evaluate_and_nobody_may_inline(operator: Client) -> None:
    admin, site = policy(operator.get("/admin/")), policy(operator.get("/api/docs/"))
    assert "'unsafe-eval'" in admin["script-src"]
    assert site["script-src"] == site["style-src"] == "'self'"
    for found in (admin, site):
        assert "unsafe-inline" not in str(found)
        assert (found["default-src"], found["base-uri"], found["frame-ancestors"]) == ("'none'",) * 3


def test_nothing_is_loaded_from_elsewhere(operator: Client) -> None:
    for address in ("/admin/", "/admin/login/", "/api/docs/"):
        page = operator.get(address).content.decode()
        assert re.findall(r"""(?:src|href)=["'](?:https?:)?//[^"']+""", page) == []


@pytest.mark.parametrize(("zone", "ahead"), [("Asia/Tokyo", 9), ("", 0), ("../etc/passwd", 0), ("x", 0)])
def test_times_are_in_the_zone_of_the_operators_browser(operator: Client, zone: str, ahead: int) -> None:
    serve("m", "real_time", "http://127.0.0.1:9")
    operator.cookies["citadel_zone"] = zone
    page = operator.get("/admin/").content.decode()
    utc, local = re.search(r'title="\S+ (\d\d):\d\d:\d\d\.\d+ UTC">\S+ (\d\d):', page).groups()  # type: ignore[union-attr]
    assert int(local) == (int(utc) + ahead) % 24


def test_a_part_of_a_page_sends_the_whole_page_to_the_log_in(db: None) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://testserver/admin/breakers/?a=b"}
    answer = Client().get("/admin/breakers/live/", headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer["HX-Redirect"] == "/admin/login/?next=/admin/breakers/%3Fa%3Db"


def sent(client: Client, **fields: str) -> HttpResponse:
    return client.post(f"{TRIP}?endpoint={Endpoint.objects.get().pk}", fields)  # type: ignore[return-value]


def test_what_was_sent_without_a_session_is_not_done_and_the_operator_is_told_after_the_log_in(
    operator: Client,
) -> None:
    serve("m", "real_time", "http://127.0.0.1:9")
    stranger = Client()
    answer = sent(stranger, reason="fire")
    assert answer["Location"].startswith("/admin/login/?next=/admin/breakers/trip/%3Fendpoint%3D")
    assert not AuditEntry.objects.exists()
    assert "Your session has ended" in stranger.get("/admin/login/").content.decode()
    stranger.force_login(User.objects.get())
    back = stranger.get(answer["Location"].split("next=")[1].replace("%3F", "?").replace("%3D", "="))
    assert "Your last step was not carried out" in back.content.decode()


def test_a_form_of_another_session_is_not_done_and_comes_back(operator: Client) -> None:
    serve("m", "real_time", "http://127.0.0.1:9")
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get())
    answer = sent(strict, reason="fire", csrfmiddlewaretoken="of another session")
    assert (answer.status_code, answer["Location"]) == (302, f"{TRIP}?endpoint={Endpoint.objects.get().pk}")
    assert not AuditEntry.objects.exists()
    assert "Your last step was not carried out" in strict.get(answer["Location"]).content.decode()
    assert strict.post("/admin/logout/")["Location"] == "/admin/"


def test_reading_a_page_without_a_session_leaves_no_notice(db: None) -> None:
    client = Client()
    client.get("/admin/breakers/")
    assert "citadel_unfinished" not in client.cookies
