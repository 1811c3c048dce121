"""Making a base out of a folder, in the environment with torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models_registry.convert import __main__ as program
from tests.convert import tiny


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    tiny.model_save(folder)
    return folder


def convert(source: Path, target: Path) -> dict[str, Any]:
    """Run the program; return its report, whose exit code must fit."""
    code = program.main(["folder", str(source), str(target)])
    report: dict[str, Any] = json.loads(target.with_name(target.name + ".json").read_text())
    assert code == (0 if "base" in report else 1)
    return report


class TestMain:
    def test_takes_a_good_folder_and_describes_it(self, source: Path, tmp_path: Path) -> None:
        (source / "notes.txt").write_text("Not part of a model.")
        (source / "training_args.bin").write_bytes(b"pickle")

        base = convert(source, tmp_path / "target")["base"]

        names = {path.name for path in (tmp_path / "target").iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
        assert not names & {"notes.txt", "training_args.bin"}
        assert base["context_length"] == 64
        weights = load_file(source / "model.safetensors")
        # The program counts a tied head once, as the file does.
        assert base["parameters"] == sum(tensor.numel() for tensor in weights.values())
        assert all(len(base[name]) == 64 for name in base if name.endswith("sha256"))

    def test_gives_the_same_hashes_for_the_same_content(self, source: Path, tmp_path: Path) -> None:
        one = convert(source, tmp_path / "one")["base"]
        other = convert(source, tmp_path / "other")["base"]

        assert one == other

    def test_changes_only_the_weights_hash_with_the_weights(
        self, source: Path, tmp_path: Path
    ) -> None:
        before = convert(source, tmp_path / "before")["base"]
        weights = load_file(source / "model.safetensors")
        name = next(iter(weights))
        save_file(
            weights | {name: weights[name] + 1}, source / "model.safetensors", {"format": "pt"}
        )

        after = convert(source, tmp_path / "after")["base"]

        changed = {key for key in before if before[key] != after[key]}
        assert changed == {"sha256", "base_sha256"}

    @pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
    def test_refuses_code_of_its_own(self, source: Path, tmp_path: Path, name: str) -> None:
        config = json.loads((source / name).read_text())
        (source / name).write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))

        assert convert(source, tmp_path / "target")["refused"]["code"] == "base_remote_code"

    def test_refuses_pickled_weights(self, source: Path, tmp_path: Path) -> None:
        weights = load_file(source / "model.safetensors")
        (source / "model.safetensors").unlink()
        torch.save(weights, source / "pytorch_model.bin")

        refused = convert(source, tmp_path / "target")["refused"]

        assert refused["code"] == "base_pickle"
        assert "safetensors" in refused["detail"]

    def test_refuses_a_folder_without_weights(self, source: Path, tmp_path: Path) -> None:
        (source / "model.safetensors").unlink()

        assert convert(source, tmp_path / "target")["refused"]["code"] == "base_weights_missing"

    def test_refuses_a_folder_that_is_no_model(self, tmp_path: Path) -> None:
        assert convert(tmp_path, tmp_path / "target")["refused"]["code"] == "base_config_missing"
        missing = convert(tmp_path / "nowhere", tmp_path / "other")
        assert missing["refused"]["code"] == "base_missing"

    def test_refuses_a_model_without_chat_template(self, tmp_path: Path) -> None:
        tiny.model_save(tmp_path / "source", template=None)

        refused = convert(tmp_path / "source", tmp_path / "target")["refused"]

        assert refused["code"] == "base_chat_template_missing"

    def test_refuses_weights_that_do_not_load(self, source: Path, tmp_path: Path) -> None:
        (source / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00not json")

        refused = convert(source, tmp_path / "target")["refused"]

        assert refused["code"] == "base_not_loading"
        assert refused["detail"].startswith("The model does not load")

    def test_refuses_a_tokenizer_that_does_not_load(self, source: Path, tmp_path: Path) -> None:
        (source / "tokenizer.json").write_text("{")

        refused = convert(source, tmp_path / "target")["refused"]

        assert refused["detail"].startswith("The tokenizer does not load")

    def test_refuses_numbers_that_are_not_finite(self, source: Path, tmp_path: Path) -> None:
        weights = load_file(source / "model.safetensors")
        broken = {name: torch.full_like(tensor, float("nan")) for name, tensor in weights.items()}
        save_file(broken, source / "model.safetensors", {"format": "pt"})

        assert convert(source, tmp_path / "target")["refused"]["code"] == "base_not_finite"
