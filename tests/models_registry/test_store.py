from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models_registry import hashing, store
from tests.models_registry.adapters import ROWS, adapter_make, weights


@pytest.fixture
def versions(settings, tmp_path: Path) -> Path:
    settings.VERSIONS = tmp_path / "versions"
    return settings.VERSIONS


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return adapter_make(tmp_path / "round" / "version")


class TestArtifactStore:
    def test_moves_the_folder_to_its_hash_read_only(self, versions: Path, staging: Path) -> None:
        sha256 = hashing.folder_sha256(staging)
        size = sum(path.stat().st_size for path in staging.iterdir())

        artifact = store.artifact_store(staging)

        assert artifact == store.Artifact(sha256=sha256, path=versions / sha256, size_bytes=size)
        assert not staging.exists()
        assert stat.S_IMODE(artifact.path.stat().st_mode) == 0o555
        assert {stat.S_IMODE(path.stat().st_mode) for path in artifact.path.iterdir()} == {0o444}
        assert [path.name for path in versions.iterdir()] == [sha256]

    def test_returns_the_same_for_the_same_content_and_removes_the_copy(
        self, versions: Path, staging: Path
    ) -> None:
        first = store.artifact_store(staging)

        again = store.artifact_store(adapter_make(staging))

        assert again == first
        assert not staging.exists()
        assert len(list(versions.iterdir())) == 1

    def test_returns_what_it_stored_when_its_caller_died_before_using_it(
        self, versions: Path, staging: Path
    ) -> None:
        first = store.artifact_store(staging)
        # As after a crash between the rename and the last chmod.
        first.path.chmod(0o755)

        again = store.artifact_store(staging)

        assert again == first
        assert stat.S_IMODE(again.path.stat().st_mode) == 0o555

    def test_replaces_and_keeps_damaged_content(self, versions: Path, staging: Path) -> None:
        first = store.artifact_store(staging)
        first.path.chmod(0o755)
        (first.path / "README.md").unlink()

        again = store.artifact_store(adapter_make(staging))

        assert again == first
        assert hashing.folder_sha256(again.path) == again.sha256
        assert [path.name for path in versions.glob(".damaged-*")]

    def test_leaves_nothing_in_the_store_when_it_dies_before_the_rename(
        self, versions: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(os, "rename", die)
            patched.setattr(Path, "rename", die)
            store.artifact_store(staging)

        assert list(versions.iterdir()) == []
        assert store.artifact_store(staging).path.is_dir()

    def test_refuses_a_folder_that_is_not_there(self, versions: Path, tmp_path: Path) -> None:
        with pytest.raises(store.ArtifactMissing):
            store.artifact_store(tmp_path / "absent")

    @pytest.mark.parametrize("name", store.FILES)
    def test_refuses_a_missing_file(self, versions: Path, staging: Path, name: str) -> None:
        (staging / name).unlink()

        with pytest.raises(store.ArtifactFilesWrong, match=name):
            store.artifact_store(staging)

    @pytest.mark.parametrize("name", ["adapter_model.bin", "weights.pkl", ".hidden", "notes.txt"])
    def test_refuses_any_other_file(self, versions: Path, staging: Path, name: str) -> None:
        (staging / name).write_bytes(b"\x80\x04.")

        with pytest.raises(store.ArtifactFilesWrong, match=name):
            store.artifact_store(staging)

        assert staging.exists()
        assert not versions.exists()

    @pytest.mark.parametrize("name", store.FILES)
    def test_refuses_a_link(self, versions: Path, staging: Path, tmp_path: Path, name: str) -> None:
        (staging / name).rename(tmp_path / name)
        (staging / name).symlink_to(tmp_path / name)

        with pytest.raises(store.ArtifactFilesWrong, match="not regular files"):
            store.artifact_store(staging)

    def test_refuses_a_link_to_a_folder(
        self, versions: Path, staging: Path, tmp_path: Path
    ) -> None:
        link = tmp_path / "link"
        link.symlink_to(staging)

        with pytest.raises(store.ArtifactFilesWrong, match="not a folder"):
            store.artifact_store(link)

    @pytest.mark.parametrize(
        "config",
        [
            {"peft_type": "IA3"},
            {"use_dora": True},
            {"use_rslora": True},
            {"modules_to_save": ["lm_head"]},
            {"bias": "all"},
            {"lora_bias": True},
            {"r": 3},
            {"r": True},
            {"r": None},
            {"lora_alpha": 0},
            {"lora_alpha": "16"},
            {"init_lora_weights": "pissa"},
            {"rank_pattern": {"q_proj": 4}},
            {"alpha_pattern": {"q_proj": 4}},
        ],
        ids=str,
    )
    def test_refuses_settings_that_vllm_does_not_load(
        self, versions: Path, tmp_path: Path, config: dict[str, Any]
    ) -> None:
        with pytest.raises(store.AdapterUnsupported):
            store.artifact_store(adapter_make(tmp_path / "version", **config))

    @pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
    def test_refuses_settings_that_cannot_be_read(
        self, versions: Path, staging: Path, text: str
    ) -> None:
        (staging / "adapter_config.json").write_text(text)

        with pytest.raises(store.AdapterUnsupported):
            store.artifact_store(staging)

    @pytest.mark.parametrize(
        "broken",
        [
            lambda: b"",
            lambda: weights()[:-1],
            lambda: weights() + b"\0",
            lambda: (1 << 60).to_bytes(8, "little") + weights()[8:],
            lambda: weights(rank=4),
            lambda: weights(dtype="F64"),
            lambda: weights().replace(b"lora_A", b"lora_X"),
            lambda: (2).to_bytes(8, "little") + b"{}",
            lambda: (2).to_bytes(8, "little") + b"[]",
            lambda: b"\x80\x04\x95" + b"\0" * 100,
        ],
    )
    def test_refuses_weights_that_cannot_be_read(
        self, versions: Path, staging: Path, broken: Callable[[], bytes]
    ) -> None:
        (staging / "adapter_model.safetensors").write_bytes(broken())

        with pytest.raises(store.WeightsUnreadable):
            store.artifact_store(staging)

    @pytest.mark.parametrize(
        "rows",
        [
            [],
            ROWS * 2,
            [ROWS[0] | {"adapter": [-0.5]}],
            [ROWS[0] | {"adapter": [-0.5, float("nan")]}],
            [ROWS[0] | {"prompt_ids": []}],
            [ROWS[0] | {"completion_ids": [True, 2]}],
            [1],
        ],
        ids=str,
    )
    def test_refuses_a_canary_that_checks_nothing(
        self, versions: Path, tmp_path: Path, rows: list[dict[str, Any]]
    ) -> None:
        with pytest.raises(store.ArtifactRefused, match="canary"):
            store.artifact_store(adapter_make(tmp_path / "version", rows=rows))
