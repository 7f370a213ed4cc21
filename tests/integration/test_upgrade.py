"""Processes of the version before go on beside the new ones, on the database that `migrate` has left.

What such a process says to PostgreSQL is what its own models say: here Django builds those of every earlier state from
the migrations, and they insert, read, update and delete on today's tables.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final

import pytest
from django.apps import apps as today
from django.contrib.postgres.fields import ArrayField
from django.db import connection, models
from django.db.migrations import AlterField
from django.db.migrations.loader import MigrationLoader

from batches.models import BatchJob
from tests.acceptance.test_worker_kills import assert_each_text_has_its_own_vector
from tests.processes import Stack, serve_model, wait_until
from tests.upstreams import Upstream

OURS: Final = ("integrations", "batches", "citadel")
LOADER: Final = MigrationLoader(None)
EVERY: Final = sorted(key for key in LOADER.disk_migrations if key[0] in OURS)
LATER: Final = [key for key in EVERY if not key[1].startswith("0001")]
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
# What takes nothing away from who does not know it. RemoveIndex: a query may be slower until the upgrade is through.
HARMLESS: Final = {
    "AddField",
    "AddIndex",
    "AddIndexConcurrently",
    "AlterModelOptions",
    "CreateModel",
    "RemoveIndex",
    "RemoveIndexConcurrently",
    "RunPython",
}
# Statements that were looked at: how PostgreSQL keeps the vectors, which no other statement notices.
LOOKED_AT: Final = {("batches", "0004_plain_vectors"): {"RunSQL"}}
# Tables that grow with traffic: an index on them is made without stopping who writes. The first release is still to
# come, so nobody had rows in them at these.
GROWING: Final = {"callrecord", "callstats", "batchjob", "batchchunk"}
BEFORE_THE_FIRST_RELEASE: Final = {
    ("integrations", "0003_call_indexes"),
    ("batches", "0003_callbacks"),
    ("batches", "0005_files"),
}
# The record of a batch stays for good.
NEVER_DELETED: Final = {"batchjob"}

_numbers = count(1)


def names(keys: list[tuple[str, str]]) -> list[str]:
    return [f"{app}.{name}" for app, name in keys]


@pytest.mark.parametrize("key", LATER, ids=names(LATER))
def test_a_migration_only_adds(key: tuple[str, str]) -> None:
    for operation in LOADER.disk_migrations[key].operations:
        kind = type(operation).__name__
        if isinstance(operation, AlterField):
            before = LOADER.project_state(key, at_end=False).models[key[0], operation.model_name_lower]
            assert in_the_database(before.fields[operation.name]) == in_the_database(operation.field)
            continue
        assert kind in HARMLESS | LOOKED_AT.get(key, set()), "would processes of the version before go on working?"
        if kind == "AddIndex" and key not in BEFORE_THE_FIRST_RELEASE:
            grows = operation.model_name in GROWING  # type: ignore[attr-defined]
            assert not grows, "make it with AddIndexConcurrently, in a migration with atomic = False"


def in_the_database(field: "models.Field[Any, Any]") -> tuple[str, dict[str, Any]]:
    """What PostgreSQL knows of a field: not its words, nor what Django alone checks."""
    _, path, _, options = field.deconstruct()
    ours = ("choices", "help_text", "verbose_name", "validators", "default", "editable", "blank")
    return path, {name: value for name, value in options.items() if name not in ours}


# --- The models of an earlier state -----------------------------------------------------------------------------------


def earlier() -> Iterator[tuple[str, str]]:
    """Every state but the last of each app."""
    for app in OURS:
        yield from [key for key in EVERY if key[0] == app][:-1]


def value(field: "models.Field[Any, Any]") -> Any:
    """Something that this column takes."""
    number = next(_numbers)
    if isinstance(field, models.DateTimeField):
        return NOW
    if isinstance(field, models.BooleanField):
        return False
    if isinstance(field, models.CharField | models.TextField):
        return f"x{number}"[: field.max_length]
    if isinstance(field, ArrayField | models.JSONField):
        return []
    if isinstance(field, models.BinaryField):
        return b"x"
    return number


def filled(kind: type[models.Model], /, **given: Any) -> models.Model:
    """Store a row with whatever its model asks for."""
    needed = (f for f in kind._meta.concrete_fields if not (f.null or f.has_default() or f.primary_key))
    for field in needed:
        if field.name not in given and field.attname not in given:
            related = field.related_model
            is_model = isinstance(related, type) and issubclass(related, models.Model)
            given[field.name] = filled(related) if is_model else value(field)
    if kind._meta.model_name == "configversion":
        kind._default_manager.all().delete()
        given["id"] = 1
    return kind._default_manager.create(**given)


def point_at(row: models.Model, known: Any) -> None:
    """Store a row of each model that is newer than `known` and points at this one."""
    current = today.get_model(row._meta.app_label, row._meta.model_name or "")
    for relation in current._meta.related_objects:
        newer = relation.related_model
        if newer._meta.label_lower not in {m._meta.label_lower for m in known.get_models()}:
            filled(newer, **{relation.field.attname: row.pk})


@pytest.mark.django_db
@pytest.mark.parametrize("key", list(earlier()), ids=names(list(earlier())))
def test_an_earlier_version_inserts_reads_updates_and_deletes_on_todays_tables(key: tuple[str, str]) -> None:
    known = LOADER.project_state(key).apps
    for model in [m for m in known.get_models() if m._meta.app_label == key[0]]:
        row = filled(model)
        point_at(row, known)
        row = model._default_manager.get(pk=row.pk)
        row.save()
        if model._meta.model_name not in NEVER_DELETED:
            row.delete()
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")


def test_a_batch_that_the_first_version_has_stored_is_completed_by_todays_processes(stack: Stack) -> None:
    first = LOADER.project_state(("batches", "0001_initial")).apps
    texts = [f"text {n}" for n in range(10)]
    with Upstream() as upstream:
        serve_model(upstream, fields={"batch_size": 10})
        stack.scheduler()
        stack.worker()
        times = dict.fromkeys(("submitted_at", "queued_at", "available_at"), datetime.now(UTC))
        job = filled(
            first.get_model("batches", "BatchJob"),
            batch_id="batch_of_before",
            model="m",
            pattern="bulk_only",
            total=10,
            expires_at=datetime(2100, 1, 1, tzinfo=UTC),
            **times,
        )
        filled(
            first.get_model("batches", "BatchChunk"),
            batch=job,
            number=0,
            first=0,
            size=10,
            texts=texts,
            available_at=datetime.now(UTC),
        )
        wait_until(lambda: BatchJob.objects.get(batch_id="batch_of_before").state == "completed", 30)
        assert_each_text_has_its_own_vector("batch_of_before", texts, upstream)
