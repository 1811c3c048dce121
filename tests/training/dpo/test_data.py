"""Reading a snapshot: what is dropped, what is refused, in which order the rest comes."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.training.dpo import tiny
from training.dpo import data, model
from training.dpo.data import Data, Row
from training.dpo.failures import RoundFailed
from training.dpo.spec import Base


def read(
    folder: Path,
    *lines: dict[str, Any] | str,
    max_tokens: int = 64,
    mask_special: bool = False,
) -> Data:
    path = folder / "snapshot.jsonl"
    path.write_text(
        "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines)
    )
    return data.read(
        path,
        tokeniser=model.tokeniser_load(Base(path=tiny.base_save(folder), sha256=tiny.BASE)),
        max_tokens=max_tokens,
        vocabulary=len(tiny.WORDS),
        mask_special=mask_special,
    )


class TestRead:
    def test_takes_ids_as_the_engine_returned_them(self, tmp_path: Path) -> None:
        line = tiny.line(1)

        found = read(tmp_path, line)

        triple = found.triples[0]
        assert list(triple.chosen.prompt) == list(triple.rejected.prompt) == line["prompt_ids"]
        assert list(triple.chosen.completion) == line["chosen_ids"]
        # It was cut off, so nothing may teach the model to end there.
        assert list(triple.rejected.completion) == line["rejected_ids"]
        assert (found.tokenised, found.dropped) == (0, {})

    def test_tokenises_what_has_no_ids_to_the_same_ids(self, tmp_path: Path) -> None:
        line = tiny.line(1)
        without = line | {"prompt_ids": None, "chosen_ids": None, "rejected_ids": None}

        found = read(tmp_path, line, without)

        assert found.triples[0] == found.triples[1]
        assert found.tokenised == 1

    def test_takes_line_separators_inside_an_answer(self, tmp_path: Path) -> None:
        line = json.dumps(tiny.line(1) | {"note": "one\u2028two\x85three"}, ensure_ascii=False)

        assert len(read(tmp_path, line, tiny.line(2)).triples) == 2

    def test_ends_an_answer_that_no_engine_finished(self, tmp_path: Path) -> None:
        line = tiny.line(1, chosen_ids=None, finish={"chosen": None, "rejected": "length"})

        found = read(tmp_path, line)

        assert found.triples[0].chosen.completion[-1] == tiny.END
        assert found.triples[0].chosen.completion.count(tiny.END) == 1

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"chosen_ids": []}, "empty"),
            ({"prompt_ids": []}, "empty"),
            ({"chosen_ids": [9, 9], "rejected_ids": [9, 9]}, "identical"),
            ({"rejected_ids": [9] * 61}, "too_long"),
            ({"chosen_ids": [len(tiny.WORDS)]}, "unknown_token"),
            ({"chosen_ids": [-1]}, "unknown_token"),
        ],
    )
    def test_drops_and_counts_what_cannot_be_trained_on(
        self, tmp_path: Path, changes: dict[str, Any], reason: str
    ) -> None:
        found = read(tmp_path, tiny.line(1), tiny.line(2, **changes))

        assert len(found.triples) == 1
        assert found.dropped == {reason: 1}

    def test_keeps_what_is_exactly_as_long_as_allowed(self, tmp_path: Path) -> None:
        found = read(tmp_path, tiny.line(1), max_tokens=12)

        assert [triple.rejected.tokens for triple in found.triples] == [12]

    @pytest.mark.parametrize(
        "wrong",
        [
            "{",
            "[]",
            tiny.line(2) | {"target": 1.5},
            tiny.line(2) | {"weight": 0},
            tiny.line(2) | {"target": None},
            tiny.line(2) | {"chosen_ids": ["1"]},
            {key: value for key, value in tiny.line(2).items() if key != "rejected_ids"},
            tiny.line(2) | {"chosen_ids": None, "chosen": []},
        ],
    )
    def test_refuses_a_line_that_is_no_triple_by_its_number(
        self, tmp_path: Path, wrong: dict[str, Any] | str
    ) -> None:
        with pytest.raises(RoundFailed, match="Line 2 of snapshot") as failed:
            read(tmp_path, tiny.line(1), wrong)

        assert failed.value.code == "data_invalid"


class TestMaskSpecial:
    def test_reads_the_end_and_does_not_score_it(self, tmp_path: Path) -> None:
        triple = read(tmp_path, tiny.line(1), mask_special=True).triples[0]

        assert triple.chosen.completion[-1] == tiny.END
        assert triple.chosen.scored == (0, 1, 2)
        # Cut off, without an end.
        assert triple.rejected.scored == tuple(range(6))
        assert triple.chosen.key != Row(triple.chosen.prompt, triple.chosen.completion).key

    def test_drops_what_has_nothing_else(self, tmp_path: Path) -> None:
        found = read(tmp_path, tiny.line(1, chosen_ids=[tiny.END]), mask_special=True)

        assert not found.triples
        assert found.dropped == {"nothing_scored": 1}


class TestBatch:
    def triples(self, count: int) -> list[data.Triple]:
        return [
            data.Triple(Row((number,), (1,)), Row((number,), (2,)), target=1.0, weight=1.0)
            for number in range(count)
        ]

    def test_shows_every_triple_once_an_epoch_in_even_batches(self) -> None:
        triples = self.triples(9)

        batches = [data.batch(triples, step=step, batch_pairs=4, seed=3) for step in range(6)]

        assert [len(batch) for batch in batches] == [3] * 6
        first, second = (list(chain(*epoch)) for epoch in (batches[:3], batches[3:]))
        assert set(first) == set(second) == set(triples)
        assert first != second

    def test_depends_on_seed_and_step_alone(self) -> None:
        triples = self.triples(9)

        def at(step: int, seed: int) -> list[data.Triple]:
            return data.batch(triples, step=step, batch_pairs=4, seed=seed)

        assert at(5, 3) == at(5, 3)
        assert [at(step, 3) for step in range(3)] != [at(step, 4) for step in range(3)]

    def test_never_changes(self) -> None:
        # A round that resumes after an upgrade must see the order it began with.
        assert data.epoch_order(8, seed=0, epoch=0) == [4, 2, 6, 0, 7, 5, 1, 3]
