"""Who asks in the console's table, and one row of every model, so that each page has something to show."""

from datetime import UTC, datetime
from typing import Any, Final

from django.contrib.auth.models import Group, User
from django.db.models import Model
from django.test import Client

from batches.models import WorkerHeartbeat
from integrations.models import (
    ApiKey,
    AuditEntry,
    BreakerEvent,
    CallRecord,
    CallStats,
    Canary,
    ConfigVersion,
    Endpoint,
    ModelConfig,
    PatternAssignment,
)
from tests.made_batches import a_batch
from tests.made_files import a_file, a_file_batch
from tests.operators import create_roles

ROLES: Final = ("anonymous", "outsider", "staff", "viewer", "operator", "administrator")
NOW: Final = datetime(2025, 7, 15, 14, 30, tzinfo=UTC)


def clients() -> dict[str, Client]:
    """One browser a role: nobody, an account without and with access to the admin, and the three groups."""
    create_roles()
    found = {role: Client(raise_request_exception=False) for role in ROLES}
    for role, client in found.items():
        if role == "anonymous":
            continue
        user = User.objects.create(username=role, is_staff=role != "outsider")
        if role not in ("outsider", "staff"):
            user.groups.add(Group.objects.get(name=role))
        client.force_login(user)
    return found


def rows() -> dict[type[Model], Model]:
    """One row of each model that the admin shows, by its model."""
    phi3 = ModelConfig.objects.create(slug="phi3", upstream_model="phi3")
    of_phi3: dict[str, Any] = {"model": phi3}
    call = {"model": "phi3", "pattern": "real_time", "mode": "live", "code": "ok"}
    seen = {"kind": "worker", "host": "here", "pid": 1, "started_at": NOW, "seen_at": NOW}
    endpoint = Endpoint.objects.create(url="http://127.0.0.1:9001", **of_phi3)
    made = [
        phi3,
        endpoint,
        Canary.objects.create(endpoint=endpoint, since=NOW, state="moved", cosine=0.1),
        PatternAssignment.objects.create(pattern="real_time", **of_phi3),
        ApiKey.objects.create(client="team-a", prefix="ck_a", hash="0" * 64, scopes=["embed"]),
        CallRecord.objects.create(started_at=NOW, request_id="r", duration_ms=1, texts=1, **call),
        CallStats.objects.create(width="minute", bucket=NOW, kind="call", histogram=[1], **call),
        BreakerEvent.objects.create(at=NOW, model="phi3", url="http://x", from_state="closed", to_state="open"),
        AuditEntry.objects.create(actor="ann", action="save_model"),
        ConfigVersion.objects.get_or_create(id=1)[0],
        a_batch("phi3"),
        a_file_batch("batch_1"),
        a_file("file-1"),
        WorkerHeartbeat.objects.create(name="w1", **seen),
        User.objects.create(username="somebody"),
        Group.objects.create(name="somebodies"),
    ]
    return {type(row): row for row in made}
