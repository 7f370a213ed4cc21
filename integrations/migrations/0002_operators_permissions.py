from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('integrations', '0001_initial'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='endpoint',
            options={'ordering': ['model_id', 'position', 'id'], 'permissions': [('trip_breaker', 'Can trip and reset breakers')]},
        ),
        migrations.AlterModelOptions(
            name='modelconfig',
            options={'ordering': ['slug'], 'permissions': [('drain_model', 'Can drain a model and end its maintenance')], 'verbose_name': 'model'},
        ),
    ]
