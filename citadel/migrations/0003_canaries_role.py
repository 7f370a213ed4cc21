"""Who may see endpoints may see their canaries."""

from django.db import migrations


def allow(apps, schema_editor):
    """Add the permission to each group that has the endpoints' own, in whatever way it was changed since."""
    kind, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(
        app_label="integrations", model="canary"
    )
    # Django itself makes permissions only after the last migration; it then finds this one.
    permission, _ = apps.get_model("auth", "Permission").objects.get_or_create(
        content_type=kind, codename="view_canary", defaults={"name": "Can view canary"}
    )
    see = {"permissions__codename": "view_endpoint", "permissions__content_type__app_label": "integrations"}
    for group in apps.get_model("auth", "Group").objects.filter(**see).distinct():
        group.permissions.add(permission)


def leave(apps, schema_editor):
    """Leave the permission: without the page it allows nothing."""


class Migration(migrations.Migration):

    dependencies = [
        ("citadel", "0002_log_in_attempts"),
        ("integrations", "0007_canaries"),
    ]

    operations = [migrations.RunPython(allow, leave)]
