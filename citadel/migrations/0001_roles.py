"""The console's roles, as groups: viewer, operator, administrator.

What a role may do is stated here in full. An installation may change the groups afterwards: no later start puts them
back.
"""

from django.db import migrations

VIEW = {
    "integrations": {
        "modelconfig": "model",
        "endpoint": "endpoint",
        "patternassignment": "pattern assignment",
        "apikey": "API key",
        "callrecord": "call record",
        "callstats": "call stats",
        "breakerevent": "breaker event",
        "auditentry": "audit entry",
        "configversion": "config version",
    },
    "batches": {
        "batchjob": "batch",
        "batchchunk": "batch chunk",
        "workerheartbeat": "worker heartbeat",
    },
}
OPERATE = (
    ("integrations", "endpoint", "trip_breaker", "Can trip and reset breakers"),
    ("integrations", "modelconfig", "drain_model", "Can drain a model and end its maintenance"),
    ("batches", "batchjob", "operate_batch", "Can cancel, retry and reorder batches"),
)
ADMINISTER = (
    *(
        ("integrations", model, f"{verb}_{model}", f"Can {verb} {VIEW['integrations'][model]}")
        for model in ("modelconfig", "endpoint", "patternassignment")
        for verb in ("add", "change", "delete")
    ),
    ("integrations", "apikey", "add_apikey", "Can add API key"),
    ("integrations", "apikey", "change_apikey", "Can change API key"),  # to revoke it
)


def create(apps, schema_editor):
    """Make the groups that are not there, each with what it may do."""
    group = apps.get_model("auth", "Group")
    see = [(app, m, f"view_{m}", f"Can view {name}") for app, names in VIEW.items() for m, name in names.items()]
    roles = {"viewer": see, "operator": [*see, *OPERATE], "administrator": [*see, *OPERATE, *ADMINISTER]}
    for name, allowed in roles.items():
        role, made = group.objects.get_or_create(name=name)
        if made:
            role.permissions.set([_permission(apps, *each) for each in allowed])


def _permission(apps, app_label, model, codename, name):
    # Django itself makes permissions only after the last migration; it then finds these.
    kind, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(app_label=app_label, model=model)
    permissions = apps.get_model("auth", "Permission").objects
    permission, _ = permissions.get_or_create(content_type=kind, codename=codename, defaults={"name": name})
    return permission


def leave(apps, schema_editor):
    """Leave the groups: they may have members."""


class Migration(migrations.Migration):

    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("integrations", "0002_operators_permissions"),
        ("batches", "0002_operators_permissions"),
    ]

    operations = [migrations.RunPython(create, leave)]
