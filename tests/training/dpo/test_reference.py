"""What must not be able to move the reference, and what must be able to move."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.training.dpo import rounds, tiny

LINES = [tiny.line(number) for number in range(6)]
LORA = {"rank": 8, "alpha": 16, "target_modules": rounds.ALL_LINEAR}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny.base_save(tmp_path)
    return tmp_path


class TestDropout:
    def test_of_the_base_is_off_in_reference_and_policy(self, place: Path) -> None:
        without = rounds.run(place, "without", LINES)
        config = place / tiny.BASE / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"attention_dropout": 0.5}))

        dropping = rounds.run(
            place, "dropping", LINES, scores=str(place / "others"), holdout=LINES[:2]
        )

        # Also to the bit: one that draws numbers at random could not do that.
        assert rounds.losses(dropping) == rounds.losses(without)
        assert rounds.adapter(dropping) == rounds.adapter(without)


class TestAdapter:
    def test_learns_in_every_layer_that_it_names(self, place: Path) -> None:
        one, two = (
            load_file(
                rounds.run(place, f"{epochs}", LINES, lora=LORA, epochs=epochs, batch_pairs=6)
                / "version"
                / "adapter_model.safetensors"
            )
            for epochs in (1, 2)
        )

        # Two layers of seven matrices, each with an A and a B.
        assert len(one) == 2 * 7 * 2
        for name, tensor in one.items():
            # A fresh B is nothing, and as long as it is, no gradient reaches A.
            if "lora_B" in name:
                assert tensor.any(), name
            assert not tensor.equal(two[name]), name

    def test_is_all_that_a_round_changes(self, place: Path) -> None:
        before = {path.name: path.read_bytes() for path in (place / tiny.BASE).iterdir()}
        first = rounds.run(place, "first", LINES, lora=LORA, optimizer=rounds.optimizer())
        kept = {path: path.read_bytes() for path in (place / "scores").rglob("*.json")}
        child = rounds.child_of(place, first, number=1)

        rounds.run(place, "second", LINES, lora=LORA, optimizer=rounds.optimizer(), **child)

        # The base is the reference of both rounds; nothing was scored twice.
        assert {path.name: path.read_bytes() for path in (place / tiny.BASE).iterdir()} == before
        assert {path: path.read_bytes() for path in (place / "scores").rglob("*.json")} == kept
