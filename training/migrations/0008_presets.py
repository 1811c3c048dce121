from django.db import migrations, models

PRESETS = ['paper', 'llama3', 'noisy', 'length', 'anchored']


def own_beta_forget(apps, schema_editor):
    """Let .1, which was everybody's default, follow the preset; what somebody chose stays."""
    policies = apps.get_model('training', 'RoundPolicy').objects
    policies.filter(beta=0.1).update(beta=None)
    # Nothing offered the choice and nothing read it so far, but SQL may have written anything.
    policies.exclude(preset__in=PRESETS).update(preset='paper')


def own_beta_write(apps, schema_editor):
    apps.get_model('training', 'RoundPolicy').objects.filter(beta=None).update(beta=0.1)


class Migration(migrations.Migration):

    dependencies = [
        ('training', '0007_answer_scores'),
    ]

    operations = [
        migrations.AlterField(
            model_name='roundpolicy',
            name='beta',
            field=models.FloatField(blank=True, default=None, null=True),
        ),
        migrations.AlterField(
            model_name='roundpolicy',
            name='preset',
            field=models.CharField(choices=[('paper', 'Standard'), ('llama3', 'Llama 3'), ('noisy', 'Noisy judgements'), ('length', 'Length'), ('anchored', 'Anchored')], default='paper', max_length=20),
        ),
        migrations.RunPython(own_beta_forget, own_beta_write),
    ]
