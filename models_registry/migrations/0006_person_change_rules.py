"""Changes of people are append-only."""

from __future__ import annotations

from django.db import migrations

FORWARD = """
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON models_registry_personchange
    FOR EACH ROW EXECUTE FUNCTION pairloop_append_only();
"""

BACKWARD = """
DROP TRIGGER append_only ON models_registry_personchange;
"""


class Migration(migrations.Migration):
    dependencies = [("models_registry", "0005_person_change")]

    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
