"""Keep every version of the guidelines, and find what somebody changed lately."""

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

TRIGGER = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON annotate_guidelines
    FOR EACH ROW EXECUTE FUNCTION pairloop_append_only();
"""

#: What stands now. A first version came with its model; when a later one was written, nothing but the last change
#: of the policy tells. The texts before it are gone.
KEEP = """
INSERT INTO annotate_guidelines (model_id, version, text, created_at)
SELECT policy.model_id, policy.guidelines_version, policy.guidelines,
       CASE WHEN policy.guidelines_version = 1 THEN model.created_at ELSE policy.updated_at END
FROM annotate_judgingpolicy policy
JOIN models_registry_registeredmodel model ON model.id = policy.model_id
"""


class Migration(migrations.Migration):
    dependencies = [
        ("annotate", "0009_weak"),
        ("models_registry", "0007_comparisons"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Guidelines",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("version", models.PositiveIntegerField()),
                ("text", models.TextField(blank=True)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("created_by", models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL)),
                ("model", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="guidelines", to="models_registry.registeredmodel")),
            ],
            options={
                "verbose_name_plural": "guidelines",
                "constraints": [
                    models.UniqueConstraint(fields=("model", "version"), name="guidelines_version_once"),
                    models.CheckConstraint(condition=models.Q(("version__gte", 1)), name="guidelines_version_from_1"),
                ],
            },
        ),
        migrations.AddIndex(
            model_name="judgement",
            index=models.Index(condition=models.Q(("revision__gt", 1)), fields=["judged_at"], name="judgement_changed"),
        ),
        migrations.RunSQL(TRIGGER, "DROP TRIGGER append_only ON annotate_guidelines"),
        migrations.RunSQL(KEEP, migrations.RunSQL.noop),
    ]
