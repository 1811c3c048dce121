from __future__ import annotations

import json
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from pyarrow import json as arrow_json
from pyarrow import parquet

from annotate import exports, imports, triples
from annotate.models import Pair
from models_registry.models import RegisteredModel
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def model() -> RegisteredModel:
    return factories.RegisteredModelFactory.create()


def judged(model: RegisteredModel, verdict: str = "left", **prompt: Any) -> Pair:
    more = {f"assignment__pair__prompt__{key}": value for key, value in prompt.items()}
    judgement = factories.JudgementFactory.create(
        verdict=verdict, assignment__pair__prompt__model=model, **more
    )
    pair: Pair = judgement.assignment.pair
    return pair


def imported(model: RegisteredModel) -> Pair:
    pair: Pair = factories.ImportedPreferenceFactory.create(model=model).pair
    return pair


def export(model: RegisteredModel, **wishes: Any) -> bytes:
    asked = {"file_format": exports.JSONL, "ties": False, "keys": "chosen_rejected"} | wishes
    return b"".join(exports.triples_export(pairs=triples.triple_pairs(model=model), **asked))


def lines(model: RegisteredModel, **wishes: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in export(model, **wishes).splitlines()]


def table(model: RegisteredModel, **wishes: Any) -> pa.Table:
    return parquet.read_table(BytesIO(export(model, file_format=exports.PARQUET, **wishes)))


class TestJsonl:
    def test_says_where_a_triple_came_from(self, model: RegisteredModel) -> None:
        pair = imported(model)

        (line,) = lines(model)

        assert line == {
            "prompt": pair.prompt.messages,
            "chosen": [{"role": "assistant", "content": pair.first.text}],
            "rejected": [{"role": "assistant", "content": pair.second.text}],
            "target": 0.98,
            "weight": 1.0,
            "tags": [],
            "origin": "import",
            "pair": pair.pk,
            "judgements": [],
            "version": {"chosen": None, "rejected": None},
            "finish": {"chosen": "", "rejected": ""},
            "tokens": None,
        }

    def test_leaves_alone_the_columns_that_trl_writes(self, model: RegisteredModel) -> None:
        judged(model)

        (line,) = lines(model)

        # DPOTrainer's own columns, and those that it reads as tools, images or arguments of the template.
        assert not set(line) & {
            "prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps",
            "image", "images", "tools", "chat_template_kwargs", "completion", "messages",
        }  # fmt: skip

    def test_shows_every_field_at_the_beginning(self, model: RegisteredModel) -> None:
        for _ in range(30):
            imported(model)
        tie, tagged = judged(model, "tie", tags=["sums"]), judged(model, tags=["sums"])

        rows = lines(model)

        assert rows[0]["pair"] == tagged.pk
        assert rows[0]["tags"]
        assert rows[0]["tokens"]
        assert [row["pair"] for row in rows[1:]] == sorted(
            set(Pair.objects.values_list("pk", flat=True)) - {tie.pk, tagged.pk}
        )
        # A reader that looks only at the first lines, as `datasets` does with the first 10 MB.
        first = arrow_json.read_json(BytesIO(json.dumps(rows[0]).encode()))
        rest = arrow_json.read_json(
            BytesIO(export(model)),
            parse_options=arrow_json.ParseOptions(explicit_schema=first.schema),
        )
        assert rest.schema == first.schema
        assert rest.num_rows == 31

    def test_leaves_ties_out_unless_asked(self, model: RegisteredModel) -> None:
        judged(model, "tie")

        assert lines(model) == []
        assert [line["target"] for line in lines(model, ties=True)] == [0.5]

    def test_leaves_out_held_out_prompts_and_other_models(self, model: RegisteredModel) -> None:
        judged(model, split="holdout")
        judged(factories.RegisteredModelFactory.create())

        assert export(model, ties=True) == b""


class TestParquet:
    def test_holds_the_same_as_jsonl(
        self, model: RegisteredModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exports, "ROW_GROUP", 2)
        imported(model)
        for _ in range(4):
            judged(model, tags=["sums"])

        for keys in exports.KEYS:
            read = table(model, keys=keys)
            assert read.to_pylist() == lines(model, keys=keys)
        assert (
            parquet.ParquetFile(
                BytesIO(export(model, file_format=exports.PARQUET))
            ).metadata.num_row_groups
            == 3
        )

    def test_has_the_same_columns_whatever_is_in_it(self, model: RegisteredModel) -> None:
        empty = table(model).schema
        imported(model)
        only_imported = table(model).schema
        judged(model, tags=["sums"])

        assert empty == only_imported == table(model).schema
        assert empty.field("tags").type == pa.list_(pa.string())


@pytest.fixture
def folder(settings: Any, tmp_path: Path) -> Path:
    settings.IMPORTS = tmp_path / "imports"
    return tmp_path


class TestRoundTrip:
    @pytest.mark.parametrize("file_format", list(exports.MEDIA_TYPES))
    @pytest.mark.parametrize("keys", list(exports.KEYS))
    def test_comes_in_again_as_it_went_out(
        self, model: RegisteredModel, folder: Path, file_format: str, keys: str
    ) -> None:
        judged(model, tags=["sums"])
        imported(model)
        body = export(model, file_format=file_format, keys=keys)
        other = factories.RegisteredModelFactory.create(judging_policy__holdout_share=0.2)

        started = imports.import_start(model=other, by=None, filename="t", pieces=[body])
        imports.import_run(import_id=started.pk)

        started.refresh_from_db()
        assert (started.created, started.rejected) == (2, [])
        kept = ("prompt", "chosen", "rejected", "target", "tags")
        there = {json.dumps([line[key] for key in kept]) for line in lines(model)}
        again = {json.dumps([line[key] for key in kept]) for line in lines(other)}
        # Some may be held out there.
        assert again <= there
        assert len(again) == 2 - started.held_out


class TestCommand:
    @pytest.mark.parametrize("file_format", list(exports.MEDIA_TYPES))
    def test_writes_a_file(self, model: RegisteredModel, tmp_path: Path, file_format: str) -> None:
        judged(model)
        path = tmp_path / "triples"
        arguments = [model.slug, "--format", file_format, "--output", str(path)]

        call_command("triples_export", *arguments)

        assert path.read_bytes() == export(model, file_format=file_format)
        with pytest.raises(CommandError, match="cannot be written: File exists"):
            call_command("triples_export", *arguments)

    def test_writes_to_the_standard_output(
        self, model: RegisteredModel, capfdbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        judged(model, "tie")

        call_command("triples_export", model.slug, "--ties", "--keys", "good_bad")

        assert capfdbinary.readouterr().out == export(model, ties=True, keys="good_bad")

    def test_refuses_an_unknown_model(self) -> None:
        with pytest.raises(CommandError, match="No model nowhere"):
            call_command("triples_export", "nowhere", stdout=StringIO())
