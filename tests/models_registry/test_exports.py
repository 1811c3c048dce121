from __future__ import annotations

import errno
import io
import json
import os
import sys
import zipfile
from pathlib import Path
from textwrap import dedent

import pytest

from models_registry import exports, hashing
from models_registry.models import ModelVersion
from models_registry.store import artifact_store
from tests import factories
from tests.models_registry.adapters import adapter_make

pytestmark = pytest.mark.django_db

CARD = "---\nbase_model: x\n---\n# A card\n"
#: Ways a merge may end. It is called as `python -m models_registry.convert.merge BASE ADAPTER TARGET`.
MERGES = {
    "good": 'open(f"{target}/model.safetensors", "w").write("merged")',
    "fails": 'sys.exit("RuntimeError: not enough memory.")',
    "killed": "os.kill(os.getpid(), 9)",
}


@pytest.fixture
def version(settings, tmp_path: Path) -> ModelVersion:
    """A v1 whose adapter and whose base are in their stores."""
    settings.VERSIONS, settings.BASES = tmp_path / "versions", tmp_path / "bases"
    base = tmp_path / "bases" / "base"
    base.mkdir(parents=True)
    (base / "model.safetensors").write_text("base")
    (base / "config.json").write_text("{}")
    (base / "config.json").chmod(0o444)
    adapter_make(tmp_path / "staging")
    artifact = artifact_store(tmp_path / "staging")
    model = factories.RegisteredModelFactory.create(slug="demo", sampler=None, champion=None)
    v0 = factories.ModelVersionFactory.create(
        model=model, artifact_path="base", sha256=hashing.folder_sha256(base)
    )
    found: ModelVersion = factories.ModelVersionFactory.create(
        model=model, number=1, kind="adapter", parent=v0,
        artifact_path=artifact.sha256, sha256=artifact.sha256, size_bytes=artifact.size_bytes,
    )  # fmt: skip
    return found


@pytest.fixture
def merging(settings, tmp_path: Path):
    """Return a function that chooses how merges end."""
    settings.ML_PYTHON = tmp_path / "python"

    def ends(ending: str) -> None:
        program = f"""\
            #!{sys.executable}
            import os, sys
            base, adapter, target = sys.argv[3:]
            assert sys.argv[2] == "models_registry.convert.merge"
            assert os.path.exists(base + "/config.json") and os.path.exists(adapter + "/canary.json")
            """
        settings.ML_PYTHON.write_text(dedent(program) + MERGES[ending])
        settings.ML_PYTHON.chmod(0o700)

    return ends


def export(version: ModelVersion, target: Path, *, merged: bool = False, force: bool = False):
    write = exports.merged_export if merged else exports.adapter_export
    return write(version=version, card=CARD, target=target, force=force)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(version: ModelVersion) -> None:
    path = exports.store.path_of(version) / "adapter_model.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\7")


class TestAdapterExport:
    def test_writes_what_peft_loads_and_the_card(self, version, tmp_path: Path) -> None:
        target = export(version, tmp_path / "new" / "out")

        assert names(target) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
        stored = exports.store.path_of(version)
        weights = "adapter_model.safetensors"
        assert (target / weights).read_bytes() == (stored / weights).read_bytes()
        config = json.loads((target / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
        assert config["r"] == 8
        assert (target / "README.md").read_text() == CARD
        # Whoever took it may change it, unlike the store's.
        assert os.access(target / weights, os.W_OK)
        assert names(target.parent) == ["out"]

    def test_takes_an_empty_folder(self, version, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()

        assert "README.md" in names(export(version, tmp_path / "out"))

    def test_refuses_a_folder_that_holds_something(self, version, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("Mine.")

        for force in (False, True):
            with pytest.raises(exports.TargetTaken):
                export(version, tmp_path / "out", force=force)

        assert names(tmp_path / "out") == ["thesis.txt"]

    def test_refuses_a_file(self, version, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("Mine.")

        with pytest.raises(exports.TargetTaken, match="is a file"):
            export(version, tmp_path / "out", force=True)

    def test_replaces_an_earlier_export_when_told_to(self, version, tmp_path: Path) -> None:
        export(version, tmp_path / "out")
        (tmp_path / "out" / "README.md").write_text("Old.")

        with pytest.raises(exports.TargetTaken, match="--force"):
            export(version, tmp_path / "out")
        export(version, tmp_path / "out", force=True)

        assert (tmp_path / "out" / "README.md").read_text() == CARD
        assert [name for name in names(tmp_path) if "out" in name] == ["out"]

    def test_hands_out_nothing_that_is_damaged(self, version, tmp_path: Path) -> None:
        damage(version)

        with pytest.raises(exports.ArtifactDamaged, match="demo/v1"):
            export(version, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_sends_whoever_wants_the_base_elsewhere(self, version, tmp_path: Path) -> None:
        with pytest.raises(exports.NoAdapter, match="merged"):
            export(version.parent, tmp_path / "out")

    def test_leaves_nothing_on_a_full_disk(self, version, tmp_path: Path, monkeypatch) -> None:
        def full(*_paths: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(exports.shutil, "copyfile", full)

        with pytest.raises(exports.ExportFailed, match="is full"):
            export(version, tmp_path / "new" / "out")
        assert names(tmp_path / "new") == []

    def test_asks_for_room_before_it_begins(self, version, tmp_path: Path) -> None:
        version.size_bytes = 10**18

        with pytest.raises(exports.ExportFailed, match="Make room"):
            export(version, tmp_path / "out")

    def test_says_when_a_folder_cannot_be_made(self, version, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")

        with pytest.raises(exports.ExportFailed, match="cannot be written"):
            export(version, tmp_path / "file" / "out")

    def test_says_when_the_store_is_away(self, version, settings, tmp_path: Path) -> None:
        settings.VERSIONS = tmp_path / "unmounted"

        with pytest.raises(exports.ExportFailed, match="cannot be read"):
            export(version, tmp_path / "out")


class TestMergedExport:
    def test_puts_the_card_beside_what_was_merged(self, version, merging, tmp_path: Path) -> None:
        merging("good")

        target = export(version, tmp_path / "out", merged=True)

        assert names(target) == ["README.md", "model.safetensors"]
        assert (target / "README.md").read_text() == CARD

    def test_copies_the_base_as_it_is(self, version, tmp_path: Path) -> None:
        target = export(version.parent, tmp_path / "out", merged=True)

        assert names(target) == ["README.md", "config.json", "model.safetensors"]
        assert (target / "model.safetensors").read_text() == "base"
        assert os.access(target / "config.json", os.W_OK)

    @pytest.mark.parametrize(
        ("ending", "said"), [("fails", "not enough memory"), ("killed", "it was killed")]
    )
    def test_leaves_nothing_when_merging_fails(
        self, version, merging, tmp_path: Path, ending: str, said: str
    ) -> None:
        merging(ending)

        with pytest.raises(exports.ExportFailed, match=said):
            export(version, tmp_path / "new" / "out", merged=True)
        assert names(tmp_path / "new") == []

    def test_says_what_to_set_up(self, version, settings, tmp_path: Path) -> None:
        settings.ML_PYTHON = tmp_path / "nowhere"

        with pytest.raises(exports.ExportFailed, match="environments ml"):
            export(version, tmp_path / "out", merged=True)

    def test_hands_out_no_damaged_base(self, version, tmp_path: Path) -> None:
        (tmp_path / "bases" / "base" / "model.safetensors").write_text("other")

        with pytest.raises(exports.ArtifactDamaged, match="demo/v0"):
            export(version, tmp_path / "out", merged=True)


class TestAdapterArchive:
    def test_is_a_zip_of_the_folder(self, version) -> None:
        name, pieces = exports.adapter_archive(version=version, card=CARD)

        assert name == "demo-v1.zip"
        with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
            assert archive.testzip() is None
            assert sorted(archive.namelist()) == [
                "demo-v1/README.md", "demo-v1/adapter_config.json", "demo-v1/adapter_model.safetensors",
            ]  # fmt: skip
            stored = exports.store.path_of(version) / "adapter_model.safetensors"
            assert archive.read("demo-v1/adapter_model.safetensors") == stored.read_bytes()

    def test_is_never_in_memory_as_a_whole(self, version, monkeypatch) -> None:
        monkeypatch.setattr(exports, "PIECE", 64)

        _, pieces = exports.adapter_archive(version=version, card=CARD)

        assert max(len(piece) for piece in pieces) < 2000

    def test_refuses_before_the_first_piece(self, version) -> None:
        damage(version)

        with pytest.raises(exports.ArtifactDamaged):
            exports.adapter_archive(version=version, card=CARD)
