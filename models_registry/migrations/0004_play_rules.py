"""A question's versions are its own model's."""

from __future__ import annotations

from django.db import migrations

TABLE = "models_registry_play"


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0003_play")]

    operations = [
        migrations.RunSQL(
            f"ALTER TABLE {TABLE} ADD CONSTRAINT {TABLE}_{column}_same_model "
            f"FOREIGN KEY ({column}, model_id) REFERENCES models_registry_modelversion (id, model_id) "
            "DEFERRABLE INITIALLY IMMEDIATE",
            f"ALTER TABLE {TABLE} DROP CONSTRAINT {TABLE}_{column}_same_model",
        )
        for column in ("left_version_id", "right_version_id")
    ]
