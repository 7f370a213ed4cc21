"""Who may see batches may see those of files, and the files."""

from django.db import migrations

NAMES = {"filebatch": "file batch", "storedfile": "file"}


def allow(apps, schema_editor):
    """Add the permissions to each group that has the batches' own, in whatever way it was changed since."""
    see = {"permissions__codename": "view_batchjob", "permissions__content_type__app_label": "batches"}
    groups = list(apps.get_model("auth", "Group").objects.filter(**see).distinct())
    for model, name in NAMES.items():
        kind, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(app_label="batches", model=model)
        # Django itself makes permissions only after the last migration; it then finds these.
        permission, _ = apps.get_model("auth", "Permission").objects.get_or_create(
            content_type=kind, codename=f"view_{model}", defaults={"name": f"Can view {name}"}
        )
        for group in groups:
            group.permissions.add(permission)


def leave(apps, schema_editor):
    """Leave the permissions: without the pages they allow nothing."""


class Migration(migrations.Migration):

    dependencies = [
        ("citadel", "0003_canaries_role"),
        ("batches", "0005_files"),
    ]

    operations = [migrations.RunPython(allow, leave)]
