from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # Concurrently: batches go on being stored while the index is made.
    atomic = False

    dependencies = [
        ('batches', '0006_turns'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='batchjob',
            index=models.Index(condition=models.Q(('released_at__isnull', False), ('state__in', ['queued', 'processing'])), fields=['-priority', 'queued_at', 'id'], name='batch_order'),
        ),
    ]
