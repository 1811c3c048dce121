"""Rules that Django cannot express: composite foreign keys, immutable versions, append-only moves."""

from __future__ import annotations

from django.db import migrations

SAME_MODEL = [
    # table, column that names a version
    ("models_registry_modelversion", "parent_id"),
    ("models_registry_alias", "version_id"),
    ("models_registry_aliasmove", "from_version_id"),
    ("models_registry_aliasmove", "to_version_id"),
    ("models_registry_comparison", "candidate_id"),
    ("models_registry_comparison", "incumbent_id"),
]

FORWARD = """
CREATE FUNCTION pairloop_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON models_registry_aliasmove
    FOR EACH ROW EXECUTE FUNCTION pairloop_append_only();

CREATE FUNCTION pairloop_version_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.id, OLD.model_id, OLD.number, OLD.parent_id, OLD.kind, OLD.artifact_path, OLD.sha256, OLD.size_bytes)
        IS DISTINCT FROM
       (NEW.id, NEW.model_id, NEW.number, NEW.parent_id, NEW.kind, NEW.artifact_path, NEW.sha256, NEW.size_bytes)
    THEN
        RAISE EXCEPTION 'a version is immutable' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER version_fixed BEFORE UPDATE ON models_registry_modelversion
    FOR EACH ROW EXECUTE FUNCTION pairloop_version_fixed();
"""

BACKWARD = """
DROP TRIGGER version_fixed ON models_registry_modelversion;
DROP FUNCTION pairloop_version_fixed;
DROP TRIGGER append_only ON models_registry_aliasmove;
DROP FUNCTION pairloop_append_only;
"""


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0001_initial")]

    operations = [
        *(
            migrations.RunSQL(
                f"ALTER TABLE {table} ADD CONSTRAINT {table}_{column}_same_model "
                f"FOREIGN KEY ({column}, model_id) REFERENCES models_registry_modelversion (id, model_id) "
                "DEFERRABLE INITIALLY IMMEDIATE",
                f"ALTER TABLE {table} DROP CONSTRAINT {table}_{column}_same_model",
            )
            for table, column in SAME_MODEL
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
