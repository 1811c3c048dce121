from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from annotate.models import Prompt
from tests import factories


@pytest.mark.django_db
class TestPromptsImport:
    def test_keeps_good_lines_and_reports_bad_ones_by_number(self, tmp_path: Path) -> None:
        model = factories.RegisteredModelFactory.create()
        file = tmp_path / "prompts.jsonl"
        file.write_text(
            '{"prompt": "One."}\n{"prompt": \n\n' + "[" * 100_000 + '\n{"prompt": "Two."}\n'
        )
        out, err = StringIO(), StringIO()

        call_command("prompts_import", model.slug, str(file), stdout=out, stderr=err)

        assert "2 created, 0 duplicates, 2 rejected" in out.getvalue()
        assert [line.split(":")[0] for line in err.getvalue().splitlines()] == [
            "line 2", "line 4",
        ]  # fmt: skip
        assert Prompt.objects.filter(model=model).count() == 2

    def test_refuses_an_unknown_model_and_an_unreadable_file(self, tmp_path: Path) -> None:
        model = factories.RegisteredModelFactory.create()
        (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")

        with pytest.raises(CommandError, match="No model nowhere"):
            call_command("prompts_import", "nowhere", str(tmp_path / "binary.jsonl"))
        with pytest.raises(CommandError, match="cannot be read"):
            call_command("prompts_import", model.slug, str(tmp_path / "binary.jsonl"))
        with pytest.raises(CommandError, match="cannot be read"):
            call_command("prompts_import", model.slug, str(tmp_path / "missing.jsonl"))

    def test_takes_a_byte_order_mark_for_what_it_is(self, tmp_path: Path) -> None:
        model = factories.RegisteredModelFactory.create()
        (tmp_path / "prompts.jsonl").write_text('{"prompt": "One."}', encoding="utf-8-sig")

        call_command(
            "prompts_import", model.slug, str(tmp_path / "prompts.jsonl"), stdout=StringIO()
        )

        assert Prompt.objects.get(model=model).question == "One."

    def test_fails_when_nothing_could_be_imported(self, tmp_path: Path) -> None:
        model = factories.RegisteredModelFactory.create()
        (tmp_path / "prompts.jsonl").write_text('[{"prompt": "One."}]')
        err = StringIO()

        with pytest.raises(CommandError, match="0 created, 0 duplicates, 1 rejected"):
            call_command("prompts_import", model.slug, str(tmp_path / "prompts.jsonl"), stderr=err)
        assert err.getvalue().startswith("line 1: A prompt is an object")

    def test_gives_every_prompt_the_tags_and_the_system_message(self, tmp_path: Path) -> None:
        model = factories.RegisteredModelFactory.create()
        file = tmp_path / "prompts.csv"
        file.write_text("prompt,system,tags\nOne?,,b\nTwo?,My own.,\n")

        call_command(
            "prompts_import", model.slug, str(file), "--tag", "a", "--system", "Be brief.", stdout=StringIO()
        )  # fmt: skip

        one, two = Prompt.objects.order_by("pk")
        assert one.messages[0] == {"role": "system", "content": "Be brief."}
        assert two.messages[0] == {"role": "system", "content": "My own."}
        assert (one.tags, two.tags) == (["a", "b"], ["a"])
