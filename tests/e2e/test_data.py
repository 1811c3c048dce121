from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from annotate import imports, reading
from annotate.models import Import
from tests import factories

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def admin(model, settings, tmp_path, no_jobs):
    settings.IMPORTS = tmp_path / "imports"
    return factories.UserFactory(is_staff=True, username="ada")


def row(number: int) -> str:
    answers = {"chosen": f"It is {number}.", "rejected": "No idea."}
    return json.dumps({"prompt": f"What is {number}?", "tags": ["sums"]} | answers) + "\n"


class TestImport:
    def test_shows_its_progress_until_the_report(
        self, quiet_page, log_in, live_server, model, admin, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(reading, "BATCH", 10)
        file = tmp_path / "preferences.jsonl"
        file.write_text("".join(map(row, range(40))) + "nonsense\n")
        log_in(quiet_page.context, admin)

        quiet_page.goto(f"{live_server.url}/models/{model.slug}/triples/")
        quiet_page.get_by_label("JSONL or Parquet").set_input_files(file)
        quiet_page.get_by_role("button", name="Import").click()
        expect(quiet_page.get_by_text("Waits for the worker")).to_be_visible()
        imports.import_run(import_id=Import.objects.get().pk, should_stop=lambda: True)
        expect(quiet_page.get_by_text(re.compile("24 % read"))).to_be_visible()
        imports.import_run(import_id=Import.objects.get().pk)

        expect(quiet_page.get_by_text("This is not JSON.")).to_be_visible()
        expect(quiet_page.locator("#import")).not_to_have_attribute("hx-get", re.compile("."))
        # Polling stopped: nothing asks any more.
        asked = []
        quiet_page.on("request", lambda request: asked.append(request.url))
        quiet_page.wait_for_timeout(1500)
        assert asked == []

    def test_saves_the_triples(self, quiet_page, log_in, live_server, model, admin, tmp_path):
        factories.ImportedPreferenceFactory(model=model)
        log_in(quiet_page.context, admin)
        quiet_page.goto(f"{live_server.url}/models/{model.slug}/triples/")
        quiet_page.get_by_label("Format").select_option("parquet")

        with quiet_page.expect_download() as saved:
            quiet_page.get_by_role("button", name="Download").click()

        assert saved.value.suggested_filename == f"{model.slug}-triples.parquet"
        assert Path(saved.value.path()).read_bytes().startswith(b"PAR1")
