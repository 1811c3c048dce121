"""Rules that Django cannot express: a pair's completions answer its own prompt; judgements only grow."""

from __future__ import annotations

from django.db import migrations

FORWARD = """
ALTER TABLE annotate_pair
    ADD CONSTRAINT pair_prompt_split FOREIGN KEY (prompt_id, prompt_split)
        REFERENCES annotate_prompt (id, split) DEFERRABLE INITIALLY IMMEDIATE,
    ADD CONSTRAINT pair_first_of_prompt FOREIGN KEY (first_id, prompt_id)
        REFERENCES annotate_completion (id, prompt_id) DEFERRABLE INITIALLY IMMEDIATE,
    ADD CONSTRAINT pair_second_of_prompt FOREIGN KEY (second_id, prompt_id)
        REFERENCES annotate_completion (id, prompt_id) DEFERRABLE INITIALLY IMMEDIATE;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON annotate_judgement
    FOR EACH ROW EXECUTE FUNCTION pairloop_append_only();
"""

BACKWARD = """
DROP TRIGGER append_only ON annotate_judgement;
ALTER TABLE annotate_pair
    DROP CONSTRAINT pair_prompt_split,
    DROP CONSTRAINT pair_first_of_prompt,
    DROP CONSTRAINT pair_second_of_prompt;
"""


class Migration(migrations.Migration):
    dependencies = [("annotate", "0001_initial"), ("models_registry", "0002_rules")]

    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
