from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # Concurrently: batches go on being stored while the index is made.
    atomic = False

    dependencies = [
        ('batches', '0005_files'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='batchjob',
            index=models.Index(condition=models.Q(('state__in', ['queued', 'processing'])), fields=['model', 'client', '-priority', 'queued_at', 'id'], name='batch_turn'),
        ),
    ]
