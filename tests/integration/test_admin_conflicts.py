"""Two operators on one model, over HTTP: the later one is told, whatever the earlier one did and whenever."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import Client

from integrations import operations
from integrations.differences import ABSENT, Difference, differences, seal, unseal
from integrations.models import AuditEntry, Endpoint, ModelConfig, PatternAssignment
from tests.integration.test_admin import change_form, latest, text, url
from tests.processes import wait_until


def client_of(name: str) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser(name))
    return client


def a_model() -> ModelConfig:
    model = ModelConfig(slug="phi3", upstream_model="phi3")
    rows = [Endpoint(url="http://127.0.0.1:9001"), PatternAssignment(pattern="real_time")]
    operations.save_model(model, rows=rows, actor="setup")
    return model


def seen_in(response: Any) -> str:
    return str(response.context["seen"])


@pytest.mark.django_db
def test_the_later_edit_is_kept_in_the_form_and_saved_only_when_sent_again() -> None:
    client, model = client_of("ann"), a_model()
    page = url(ModelConfig, "change", model.pk)
    form = change_form(model, upstream_model="of-ann", normalise="on", coalesce="on")
    other = ModelConfig.objects.get(pk=model.pk)
    other.dimensions = 384
    operations.save_model(other, actor="bob")

    told = client.post(page, form)
    assert told.status_code == 200
    assert "Last changed by bob" in text(told)
    assert told.context["differences"] == [
        Difference(field="upstream_model", seen="phi3", stored="phi3", mine="of-ann"),
        Difference(field="dimensions", seen=ABSENT, stored="384", mine=ABSENT),
    ]
    assert 'value="of-ann"' in told.content.decode()
    assert latest().actor == "bob"

    assert client.post(page, form | {"seen": seen_in(told)}).status_code == 302
    assert latest().after["upstream_model"] == "of-ann"


@pytest.mark.django_db
def test_a_tripped_breaker_or_a_drain_in_between_is_no_conflict_and_survives() -> None:
    client, model = client_of("ann"), a_model()
    form = change_form(model, upstream_model="of-ann")
    operations.trip_breaker([model.endpoints.get().pk], actor="bob", reason="fire")
    operations.drain_model("phi3", actor="bob", reason="fire")
    assert client.post(url(ModelConfig, "change", model.pk), form).status_code == 302
    model.refresh_from_db()
    assert (model.upstream_model, model.draining, model.endpoints.get().forced_open) == ("of-ann", True, True)


@pytest.mark.django_db
def test_a_row_that_somebody_else_removed_stays_in_the_form_and_can_be_added_again() -> None:
    client, model = client_of("ann"), a_model()
    page = url(ModelConfig, "change", model.pk)
    form = change_form(model, **{"endpoints-0-max_batch": "16"})
    operations.delete_endpoints([model.endpoints.get().pk], actor="bob")

    told = client.post(page, form)
    assert told.status_code == 200
    fields = {d.field: (d.stored, d.mine) for d in told.context["differences"]}
    assert fields["endpoints"] == (ABSENT, "http://127.0.0.1:9001")
    formset = next(f.formset for f in told.context["inline_admin_formsets"] if f.formset.prefix == "endpoints")
    assert (formset.initial_form_count(), formset.total_form_count(), formset.errors) == (0, 1, [{}])

    again = form | {"seen": seen_in(told), "endpoints-INITIAL_FORMS": "0", "endpoints-0-id": ""}
    assert client.post(page, again).status_code == 302
    assert latest().after["endpoints"] == [{"url": "http://127.0.0.1:9001", "max_batch": 16}]


@pytest.mark.django_db
def test_a_form_that_does_not_say_what_it_began_from_is_not_saved() -> None:
    client, model = client_of("ann"), a_model()
    for seen in ("", "forged"):
        told = client.post(url(ModelConfig, "change", model.pk), change_form(model, dimensions="5", seen=seen))
        assert "Somebody else has changed this model" in text(told)
    assert latest().actor == "setup"


def _waiting_for_the_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return bool(cursor.fetchone()[0])


@pytest.mark.django_db(transaction=True)
def test_a_write_between_the_forms_own_look_and_its_saving_is_told_too() -> None:
    client, model = client_of("ann"), a_model()
    form = change_form(model, upstream_model="of-ann")
    gate = threading.Event()

    def send() -> Any:
        gate.wait(30)
        try:
            return client.post(url(ModelConfig, "change", model.pk), form)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(send)
        with transaction.atomic():
            other = ModelConfig.objects.get(pk=model.pk)
            other.dimensions = 384
            operations.save_model(other, actor="bob")  # holds the writers' lock until this block ends
            gate.set()
            wait_until(_waiting_for_the_lock, 30)
        told = answer.result(60)
    assert told.status_code == 200
    assert "Last changed by bob" in text(told)
    model.refresh_from_db()
    assert (model.dimensions, model.upstream_model) == (384, "phi3")
    assert AuditEntry.objects.filter(actor="ann").count() == 0


def test_what_differs_is_named_by_field_pattern_and_url() -> None:
    seen = {"slug": "m", "dimensions": 4, "patterns": ["hybrid"], "endpoints": ["http://a"], "fallbacks": ["n"]}
    stored = seen | {"patterns": [{"pattern": "hybrid", "deadline": 9.0}, "real_time"], "normalise": False}
    mine = seen | {"endpoints": [{"url": "http://a", "max_batch": 8}, "http://b"], "fallbacks": []}
    found = {d.field: (d.seen, d.stored, d.mine) for d in differences(seen, stored, mine)}
    assert found == {
        "fallbacks": ("n", "n", ABSENT),
        "normalise": (ABSENT, "no", ABSENT),
        "patterns": ("hybrid", "hybrid, real_time", "hybrid"),
        "hybrid: deadline": (ABSENT, "9.0", ABSENT),
        "endpoints": ("http://a", "http://a", "http://a, http://b"),
        "http://a: max_batch": (ABSENT, ABSENT, "8"),
    }
    assert unseal(seal(seen)) == seen
    assert unseal("forged") == {}
