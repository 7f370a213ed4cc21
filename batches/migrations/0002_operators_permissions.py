from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('batches', '0001_initial'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='batchjob',
            options={'permissions': [('operate_batch', 'Can cancel, retry and reorder batches')], 'verbose_name': 'batch', 'verbose_name_plural': 'batches'},
        ),
    ]
