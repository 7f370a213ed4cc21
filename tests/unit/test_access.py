"""API keys: who is known, and what they may do."""

from datetime import UTC, datetime, timedelta

import pytest
from django.conf import LazySettings

from integrations import operations, snapshot
from integrations.access import Client, identify, require
from integrations.errors import NotAuthenticated, NotPermitted
from integrations.models import ApiKey

pytestmark = pytest.mark.django_db


def a_key(client: str = "team-a", scopes: tuple[str, ...] = ("embed", "batch")) -> str:
    key = operations.create_key(client, scopes, actor="tests")
    snapshot.load()
    return key


def test_a_key_is_taken_from_either_header() -> None:
    key, client = a_key(), Client(name="team-a", scopes=frozenset({"embed", "batch"}))

    assert identify(f"Bearer {key}", None) == client
    assert identify(f"bearer   {key} ", None) == client
    assert identify(None, key) == client


def test_a_proxys_own_authorization_does_not_hide_the_key() -> None:
    assert identify("Basic dXNlcjpwYXNz", a_key()).name == "team-a"


@pytest.mark.parametrize(
    ("authorization", "x_api_key"), [("Bearer wrong", None), ("Bearer ", None), (None, ""), (None, "ÿ")]
)
def test_an_unknown_key_is_refused_even_where_none_is_needed(
    settings: LazySettings, authorization: str | None, x_api_key: str | None
) -> None:
    settings.CITADEL_ANONYMOUS_SCOPES = ["embed"]
    a_key()

    with pytest.raises(NotAuthenticated):
        identify(authorization, x_api_key)


def test_the_authorization_header_decides_when_both_are_sent() -> None:
    with pytest.raises(NotAuthenticated):
        identify("Bearer wrong", a_key())


def test_a_key_ends_with_its_time_and_when_it_is_revoked() -> None:
    expiring, revoked = a_key("team-a"), a_key("team-b")
    ApiKey.objects.filter(client="team-a").update(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    operations.revoke_keys([ApiKey.objects.get(client="team-b").pk], actor="tests")
    snapshot.load()

    for key in (expiring, revoked):
        with pytest.raises(NotAuthenticated):
            identify(None, key)


def test_a_key_works_until_its_time_comes() -> None:
    key = a_key()
    ApiKey.objects.update(expires_at=datetime.now(UTC) + timedelta(hours=1))
    snapshot.load()

    assert identify(None, key).name == "team-a"


def test_without_a_key_the_anonymous_scopes_count(settings: LazySettings) -> None:
    settings.CITADEL_ANONYMOUS_SCOPES = ["embed"]
    nobody = identify(None, None)

    assert nobody == Client(name="", scopes=frozenset({"embed"}))
    require(nobody, "embed")
    with pytest.raises(NotAuthenticated):
        require(nobody, "operate")

    settings.CITADEL_ANONYMOUS_SCOPES = []
    with pytest.raises(NotAuthenticated):
        identify(None, None)


def test_one_of_several_scopes_is_enough_and_a_lacking_one_is_named() -> None:
    client = Client(name="team-a", scopes=frozenset({"batch"}))

    require(client, "embed", "batch")
    with pytest.raises(NotPermitted, match="operate"):
        require(client, "operate")
