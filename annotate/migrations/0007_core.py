"""Serving pairs and recording judgements with constant work: what used to be counted is kept."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

#: What the new columns would hold, had they always been there.
FILL = """
    WITH standing AS (
        SELECT DISTINCT ON (assignment_id) assignment_id, id, verdict, judged_at
        FROM annotate_judgement ORDER BY assignment_id, revision DESC
    ), opinion AS (
        SELECT lease.pair_id, count(*) AS opinions,
               (array_agg(lease.labeler_id ORDER BY standing.id DESC))[1] AS last_labeler_id
        FROM annotate_assignment lease JOIN standing ON assignment_id = uuid
        WHERE verdict <> '' GROUP BY lease.pair_id
    )
    UPDATE annotate_queueentry entry
    SET opinions = opinion.opinions, last_labeler_id = opinion.last_labeler_id
    FROM opinion WHERE opinion.pair_id = entry.pair_id;

    WITH standing AS (
        SELECT DISTINCT ON (assignment_id) assignment_id, verdict,
               timezone('%(zone)s', judged_at)::date AS day
        FROM annotate_judgement ORDER BY assignment_id, revision DESC
    ), said AS (
        SELECT prompt.model_id, lease.labeler_id, lease.first_is_left, comparison.candidate_id,
               first.version_id, standing.day,
               max(standing.day) OVER (PARTITION BY prompt.model_id, lease.labeler_id) AS last_day
        FROM annotate_assignment lease
        JOIN annotate_pair pair ON pair.id = lease.pair_id
        JOIN annotate_prompt prompt ON prompt.id = pair.prompt_id
        JOIN annotate_completion first ON first.id = pair.first_id
        LEFT JOIN models_registry_comparison comparison ON comparison.id = pair.comparison_id
        LEFT JOIN standing ON assignment_id = uuid AND verdict <> ''
    )
    INSERT INTO annotate_tally
        (model_id, labeler_id, judged, day, today, sides_lead, compare_lead, since_repeat, turn)
    SELECT model_id, labeler_id, count(day), max(day), count(*) FILTER (WHERE day = last_day),
           -- Nobody should see one side for an hour because of what was balanced otherwise.
           greatest(-4, least(4, sum(CASE WHEN first_is_left THEN 1 ELSE -1 END))),
           greatest(-4, least(4, coalesce(sum(
               CASE WHEN first_is_left = (version_id = candidate_id) THEN 1 ELSE -1 END
           ) FILTER (WHERE candidate_id IS NOT NULL), 0))),
           count(day), 0
    FROM said GROUP BY model_id, labeler_id;
""" % {"zone": settings.TIME_ZONE.replace("'", "''")}

#: The queue is small and changes all the time: dead entries at its head would be walked over by everybody.
VACUUM = """
    ALTER TABLE annotate_queueentry SET (
        autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, vacuum_index_cleanup = on
    );
    ALTER TABLE annotate_tally SET (fillfactor = 50);
"""
VACUUM_BEFORE = """
    ALTER TABLE annotate_queueentry RESET (
        autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, vacuum_index_cleanup
    );
"""


class Migration(migrations.Migration):

    dependencies = [
        ('annotate', '0006_comparisons'),
        ('models_registry', '0007_comparisons'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Tally',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('judged', models.PositiveIntegerField(default=0)),
                ('day', models.DateField(blank=True, null=True)),
                ('today', models.PositiveIntegerField(default=0)),
                ('sides_lead', models.SmallIntegerField(default=0)),
                ('compare_lead', models.SmallIntegerField(default=0)),
                ('since_repeat', models.PositiveIntegerField(default=0)),
                ('turn', models.PositiveBigIntegerField(default=0)),
            ],
            options={
                'verbose_name_plural': 'tallies',
            },
        ),
        migrations.RemoveIndex(
            model_name='queueentry',
            name='queue_free',
        ),
        migrations.AddField(
            model_name='assignment',
            name='set_aside_at',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='judgement',
            name='input',
            field=models.CharField(choices=[('key', 'Key'), ('button', 'Button'), ('api', 'Api')], default='api', max_length=6),
        ),
        migrations.AddField(
            model_name='judgement',
            name='shown_at',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='judgingpolicy',
            name='audit_share',
            field=models.FloatField(default=0.1),
        ),
        migrations.AddField(
            model_name='judgingpolicy',
            name='overlap_most',
            field=models.PositiveSmallIntegerField(default=3),
        ),
        migrations.AddField(
            model_name='judgingpolicy',
            name='second_if_slight',
            field=models.BooleanField(default=True),
        ),
        migrations.AddField(
            model_name='judgingpolicy',
            name='second_of_new',
            field=models.PositiveIntegerField(default=20),
        ),
        migrations.AddField(
            model_name='queueentry',
            name='last_labeler',
            field=models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='queueentry',
            name='opinions',
            field=models.PositiveSmallIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='queueentry',
            name='reserved_for',
            field=models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddIndex(
            model_name='queueentry',
            index=models.Index(condition=models.Q(('opinions', 0), ('reserved_for', None), ('wanted__gt', models.F('leased'))), fields=['model', '-priority', 'pair'], name='queue_fresh'),
        ),
        migrations.AddIndex(
            model_name='queueentry',
            index=models.Index(condition=models.Q(('opinions', 1), ('reserved_for', None), ('wanted__gt', models.F('leased'))), fields=['model', 'last_labeler', 'pair'], name='queue_second'),
        ),
        migrations.AddIndex(
            model_name='queueentry',
            index=models.Index(condition=models.Q(('opinions__gt', 1), ('reserved_for', None), ('wanted__gt', models.F('leased'))), fields=['model', 'pair'], name='queue_third'),
        ),
        migrations.AddIndex(
            model_name='queueentry',
            index=models.Index(condition=models.Q(('reserved_for__isnull', False), ('wanted__gt', models.F('leased'))), fields=['reserved_for', 'model', 'pair'], name='queue_reserved'),
        ),
        migrations.AddConstraint(
            model_name='judgement',
            constraint=models.CheckConstraint(condition=models.Q(('input__in', ['key', 'button', 'api'])), name='judgement_input_known'),
        ),
        migrations.AddConstraint(
            model_name='judgingpolicy',
            constraint=models.CheckConstraint(condition=models.Q(('overlap_most__gte', 1), ('overlap_most__lte', 10)), name='policy_overlap_most_bounds'),
        ),
        migrations.AddConstraint(
            model_name='judgingpolicy',
            constraint=models.CheckConstraint(condition=models.Q(('audit_share__gte', 0), ('audit_share__lte', 1)), name='policy_audit_bounds'),
        ),
        migrations.AddField(
            model_name='tally',
            name='labeler',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='tally',
            name='model',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='models_registry.registeredmodel'),
        ),
        migrations.AddConstraint(
            model_name='tally',
            constraint=models.UniqueConstraint(fields=('model', 'labeler'), name='tally_once'),
        ),
        migrations.RunSQL(VACUUM, VACUUM_BEFORE),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
    ]
