from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # Concurrently: a table of many millions of calls goes on being written while its indexes are made.
    atomic = False

    dependencies = [
        ('integrations', '0004_key_limits'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='callrecord',
            index=models.Index(fields=['-started_at', 'pattern', 'mode'], name='call_newest'),
        ),
        AddIndexConcurrently(
            model_name='callrecord',
            index=models.Index(condition=models.Q(('duration_ms__gte', 1000)), fields=['-started_at', 'duration_ms', 'pattern', 'mode', 'model', 'code'], name='call_slowest'),
        ),
        RemoveIndexConcurrently(
            model_name='callrecord',
            name='call_started',
        ),
        RemoveIndexConcurrently(
            model_name='callrecord',
            name='call_slow',
        ),
    ]
