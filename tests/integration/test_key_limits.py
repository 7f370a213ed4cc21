"""Limits of keys: what two ledgers of one pool do, the form that sets them, the file that keeps them."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.test import Client

from integrations import limits, operations, snapshot, snapshot_file
from integrations.access import Client as ApiClient
from integrations.errors import RateLimited
from integrations.limit_ledger import Ledger, Need
from integrations.limit_pool import Pool
from integrations.models import ApiKey, ModelConfig
from integrations.values import Key
from tests.processes import wait_until

A_DAY = {"name": "day", "words": "texts a day", "seconds": 86_400}


@pytest.fixture
def ledgers(redis_db: "redis.Redis") -> Iterator[tuple[Ledger, Ledger]]:
    """Those of two processes."""
    pools = Pool("one"), Pool("two")
    yield Ledger("ck_a", pools[0]), Ledger("ck_a", pools[1])
    for pool in pools:
        pool.close()


def use(ledger: Ledger, limit: int, amount: int = 1) -> bool:
    try:
        ledger.settle([Need(limit=limit, amount=amount, **A_DAY)])
    except RateLimited:
        return False
    return True


def test_what_one_process_holds_and_does_not_use_another_gets(ledgers: tuple[Ledger, Ledger]) -> None:
    one, two = ledgers
    assert use(one, 1000)
    used = 1
    while use(two, 1000):
        used += 1
    assert 1000 - 1000 // 50 <= used < 1000
    # The first is asked again, and spends what it held.
    assert [use(one, 1000) for _ in range(1000 - used)] == [True] * (1000 - used)
    assert not use(one, 1000)
    assert not use(two, 1000)


def test_what_lies_idle_goes_back(ledgers: tuple[Ledger, Ledger], redis_db: "redis.Redis") -> None:
    one, _ = ledgers
    assert use(one, 1000)

    def given() -> int:
        one.tidy()
        (name,) = redis_db.keys("citadel:limits:ck_a:day:*")
        return int(redis_db.get(name) or 0)

    assert given() > 1
    wait_until(lambda: given() == 1, 5)


def test_of_several_limits_all_are_used_or_none(ledgers: tuple[Ledger, Ledger]) -> None:
    one, two = ledgers
    few = Need(name="requests", words="requests a minute", limit=1, seconds=86_400, amount=1)
    many = Need(limit=10_000, amount=7, **A_DAY)
    one.settle([few, many])
    for ledger in (one, two):
        with pytest.raises(RateLimited, match="1 requests a minute"):
            ledger.settle([few, many])
    assert use(one, 10_000, 10_000 - 7)
    assert not use(two, 10_000, 1)


def test_one_request_over_the_limit_is_told_so_at_once() -> None:
    key = Key(prefix="ck_b", client="b", scopes=frozenset(), expires_at=None, texts_per_minute=5)
    client = ApiClient(name="b", scopes=frozenset(), key=key)
    with pytest.raises(RateLimited, match="One request with over 5 texts"):
        limits.admit_now(client, 6)
    lines = limits.metered(client, (b'{"text": "a"}' for _ in range(1_000_000)))
    assert len([next(lines) for _ in range(5)]) == 5
    with pytest.raises(RateLimited):
        next(lines)


@pytest.mark.django_db
def test_the_form_of_a_key_sets_its_limits_and_the_audit_shows_them(settings: Any) -> None:
    settings.WHITENOISE_AUTOREFRESH = True
    ModelConfig.objects.create(slug="phi3", upstream_model="phi3")
    browser = Client()
    browser.force_login(User.objects.create_superuser("ann"))
    form = {"client": "team-a", "scopes": ["embed"], "allowed_models": ["phi3"], "texts_per_minute": "6000"}

    refused = browser.post("/admin/integrations/apikey/add/", form | {"requests_per_minute": "0"})
    assert b"greater than or equal to 1" in refused.content
    assert browser.post("/admin/integrations/apikey/add/", form).status_code == 200

    row = ApiKey.objects.get()
    assert (row.allowed_models, row.requests_per_minute, row.texts_per_minute) == (["phi3"], None, 6000)
    page = browser.get(f"/admin/integrations/apikey/{row.pk}/change/").content
    assert b"6000" in page
    assert b"phi3" in page


@pytest.mark.django_db
def test_limits_are_in_the_snapshot_and_outlive_a_start_without_postgresql(settings: Any, tmp_path: Any) -> None:
    settings.STATE_DIR = tmp_path
    ModelConfig.objects.create(slug="phi3", upstream_model="phi3")
    operations.create_key("a", ["embed"], actor="t", models=["phi3"], texts_per_day=10**10)
    loaded = snapshot.load()
    (key,) = loaded.keys.values()
    assert (key.models, key.texts_per_day) == (frozenset({"phi3"}), 10**10)
    snapshot_file.save(loaded)
    assert snapshot_file.read().keys == loaded.keys


@pytest.mark.django_db
def test_a_key_for_a_model_that_does_not_exist_is_not_made() -> None:
    with pytest.raises(ValidationError, match="nobody"):
        operations.create_key("a", ["embed"], actor="t", models=["nobody"])
    assert not ApiKey.objects.exists()
