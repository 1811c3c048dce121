"""A version's trigger names what may change; every other column, also a later one, is fixed."""

from __future__ import annotations

from django.db import migrations

FORWARD = """
CREATE OR REPLACE FUNCTION pairloop_version_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF to_jsonb(OLD) - '{state,metrics,card}'::text[]
        IS DISTINCT FROM to_jsonb(NEW) - '{state,metrics,card}'::text[]
    THEN
        RAISE EXCEPTION 'a version is immutable' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
"""

BACKWARD = """
CREATE OR REPLACE FUNCTION pairloop_version_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.id, OLD.model_id, OLD.number, OLD.parent_id, OLD.kind, OLD.artifact_path, OLD.sha256, OLD.size_bytes)
        IS DISTINCT FROM
       (NEW.id, NEW.model_id, NEW.number, NEW.parent_id, NEW.kind, NEW.artifact_path, NEW.sha256, NEW.size_bytes)
    THEN
        RAISE EXCEPTION 'a version is immutable' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0002_rules")]

    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
