from __future__ import annotations

import json

import pytest

from models_registry.models import ModelVersion, RegisteredModel
from pairloop.lib import markdown
from tests.pairloop.history import history_make
from training import cards
from training.cards import card_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def history(db: None) -> RegisteredModel:
    return history_make()


def version(number: int) -> ModelVersion:
    return ModelVersion.objects.select_related("model", "parent").get(number=number)


def head_of(text: str) -> dict[str, object]:
    """Read the YAML at the top, of which every value is JSON."""
    lines = text.split("---\n")[1].splitlines()
    return {key: json.loads(value) for key, value in (line.split(": ", 1) for line in lines)}


class TestCardOf:
    def test_begins_with_what_the_hub_reads(self, history) -> None:
        head = head_of(card_of(version(3)).text)

        assert head["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
        assert head["library_name"] == "peft"
        assert "license" not in head

    def test_tells_data_training_and_measurements(self, history) -> None:
        body = card_of(version(3)).body

        assert "| parent | v1, `" in body
        assert version(3).sha256 in body
        assert "| new triples | 2 |" in body
        assert "| labelers | 3 |" in body
        assert "| left out by the trainer | 2 too long |" in body
        assert "| steps | 48 |" in body
        # 64 % of 42 held-out triples.
        assert "in 64% (95 % interval 49% to 77%)" in body
        assert "| tokens of an answer | 54.5 | 60.5 | 81.4 |" in body

    def test_names_no_labeler(self, history) -> None:
        assert "labeler-" not in card_of(version(3)).text

    def test_admits_what_is_not_known(self, history) -> None:
        few, unmeasured = card_of(version(1)).body, card_of(version(6)).body

        assert "Only 18 held-out triples" in few
        assert "agree with each other was not measured" in few
        assert "this version" not in unmeasured
        assert "It broke automatic guardrails: length." in card_of(version(4)).body

    def test_tells_a_base_from_what_was_made_of_it(self, history) -> None:
        base, merged = card_of(version(0)), card_of(version(3), merged=True)

        assert base.head["library_name"] == merged.head["library_name"] == "transformers"
        assert "unchanged" in base.body
        assert "What it learned from" not in base.body
        assert "merged into it" in merged.body

    @pytest.mark.parametrize(
        ("source", "name"),
        [("/srv/secret/models/my-model", "my-model"), ("org/some-model", "org/some-model")],
    )
    def test_keeps_paths_of_this_machine_out(self, history, source: str, name: str) -> None:
        RegisteredModel.objects.update(base_source=source)

        text = card_of(version(3)).text

        assert head_of(text)["base_model"] == name
        assert "/srv" not in text

    def test_shows_hostile_names_as_they_are(self, history) -> None:
        RegisteredModel.objects.update(name="<script>alert(1)</script>\n# [x](http://evil) | *b*")

        html = markdown.render(card_of(version(3)).body)

        assert "<script" not in html
        assert "<a href" not in html
        assert "*b*" in html


class TestPlain:
    def test_keeps_a_table_whole(self) -> None:
        assert cards.plain("a|b\n`c`") == "a\\|b \\`c\\`"
