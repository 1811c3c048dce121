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

-- It names what may change; every other column, also a later one, is fixed.
CREATE FUNCTION pairloop_version_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF to_jsonb(OLD) - '{state,metrics,card}'::text[]
        IS DISTINCT FROM to_jsonb(NEW) - '{state,metrics,card}'::text[]
    THEN
        RAISE EXCEPTION 'a version is immutable' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER version_fixed BEFORE UPDATE ON models_registry_modelversion
    FOR EACH ROW EXECUTE FUNCTION pairloop_version_fixed();

CREATE FUNCTION pairloop_winner_compared() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.winner_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM models_registry_comparison
        WHERE id = NEW.comparison_id AND NEW.winner_id IN (candidate_id, incumbent_id)
    ) THEN
        RAISE EXCEPTION 'the winner was not compared' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER winner_compared BEFORE INSERT OR UPDATE ON models_registry_outcome
    FOR EACH ROW EXECUTE FUNCTION pairloop_winner_compared();
"""

BACKWARD = """
DROP TRIGGER winner_compared ON models_registry_outcome;
DROP FUNCTION pairloop_winner_compared;
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
