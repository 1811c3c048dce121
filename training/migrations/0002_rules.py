"""Rules that Django cannot express: a snapshot holds train prompts only, whatever the code says."""

from __future__ import annotations

from django.db import migrations

FORWARD = """
ALTER TABLE training_snapshotitem
    ADD CONSTRAINT snapshot_item_pair_of_prompt FOREIGN KEY (pair_id, prompt_id)
        REFERENCES annotate_pair (id, prompt_id) DEFERRABLE INITIALLY IMMEDIATE,
    ADD CONSTRAINT snapshot_item_prompt_split FOREIGN KEY (prompt_id, prompt_split)
        REFERENCES annotate_prompt (id, split) DEFERRABLE INITIALLY IMMEDIATE,
    ADD CONSTRAINT snapshot_item_chosen_of_prompt FOREIGN KEY (chosen_id, prompt_id)
        REFERENCES annotate_completion (id, prompt_id) DEFERRABLE INITIALLY IMMEDIATE,
    ADD CONSTRAINT snapshot_item_rejected_of_prompt FOREIGN KEY (rejected_id, prompt_id)
        REFERENCES annotate_completion (id, prompt_id) DEFERRABLE INITIALLY IMMEDIATE;
ALTER TABLE training_round
    ADD CONSTRAINT round_parent_same_model FOREIGN KEY (parent_id, model_id)
        REFERENCES models_registry_modelversion (id, model_id) DEFERRABLE INITIALLY IMMEDIATE,
    ADD CONSTRAINT round_version_same_model FOREIGN KEY (version_id, model_id)
        REFERENCES models_registry_modelversion (id, model_id) DEFERRABLE INITIALLY IMMEDIATE;
"""

BACKWARD = """
ALTER TABLE training_round
    DROP CONSTRAINT round_parent_same_model,
    DROP CONSTRAINT round_version_same_model;
ALTER TABLE training_snapshotitem
    DROP CONSTRAINT snapshot_item_pair_of_prompt,
    DROP CONSTRAINT snapshot_item_prompt_split,
    DROP CONSTRAINT snapshot_item_chosen_of_prompt,
    DROP CONSTRAINT snapshot_item_rejected_of_prompt;
"""


class Migration(migrations.Migration):
    dependencies = [("training", "0001_initial"), ("annotate", "0002_rules")]

    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
