"""Vectors are stored as they are: float32 do not compress, and to find that out for each row costs time."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("batches", "0003_callbacks")]

    operations = [
        # Rows that are there stay as they are, and are read as before: nothing is rewritten.
        migrations.RunSQL(
            "ALTER TABLE batches_batchchunk ALTER COLUMN vectors SET STORAGE EXTERNAL",
            "ALTER TABLE batches_batchchunk ALTER COLUMN vectors SET STORAGE EXTENDED",
        ),
    ]
