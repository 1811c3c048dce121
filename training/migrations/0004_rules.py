"""A snapshot item's two completions are those of its pair."""

from __future__ import annotations

from django.db import migrations

FORWARD = """
CREATE FUNCTION pairloop_item_of_its_pair() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM annotate_pair WHERE id = NEW.pair_id
        AND (first_id, second_id) IN
            ((NEW.chosen_id, NEW.rejected_id), (NEW.rejected_id, NEW.chosen_id))
    ) THEN
        RAISE EXCEPTION 'the completions are not those of the pair'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE CONSTRAINT TRIGGER item_of_its_pair AFTER INSERT OR UPDATE ON training_snapshotitem
    DEFERRABLE INITIALLY IMMEDIATE
    FOR EACH ROW EXECUTE FUNCTION pairloop_item_of_its_pair();
"""

BACKWARD = """
DROP TRIGGER item_of_its_pair ON training_snapshotitem;
DROP FUNCTION pairloop_item_of_its_pair;
"""


class Migration(migrations.Migration):
    dependencies = [("training", "0003_rounds_run"), ("annotate", "0002_rules")]

    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
