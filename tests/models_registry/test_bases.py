from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from models_registry import bases
from tests.models_registry.conftest import REPORT

Conversion = Callable[[str], Path]


class TestKindOf:
    def test_knows_the_demo(self, monkeypatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)

        assert bases.kind_of("demo") == "demo"

    def test_knows_a_folder(self, tmp_path: Path, monkeypatch) -> None:
        (tmp_path / "model").mkdir()
        monkeypatch.setenv("HOME", str(tmp_path))

        assert bases.kind_of(str(tmp_path / "model")) == "folder"
        assert bases.kind_of("~/model") == "folder"

    @pytest.mark.parametrize("source", ["HuggingFaceTB/SmolLM2-135M", "a/b", "o_rg-1/m.o_d-2"])
    def test_knows_a_hub_id(self, source: str, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)

        assert bases.kind_of(source) == "hub"

    def test_prefers_a_folder_that_is_there(self, tmp_path: Path, monkeypatch) -> None:
        (tmp_path / "org" / "model").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)

        assert bases.kind_of("org/model") == "folder"

    @pytest.mark.parametrize(
        "source",
        [
            "",
            "model",
            "/nowhere/model",
            "../model",
            "org/model/file",
            "org/../model",
            "-org/model",
            "https://huggingface.co/org/model",
            "org/model; rm",
            "org/model\n",
            "org/mod\x00el",
            "~nobody-of-this-name/model",
            "a" * 5000,
        ],
        ids=lambda source: repr(source[:30]),
    )
    def test_refuses_anything_else(self, source: str) -> None:
        with pytest.raises(bases.BaseRefused, match="neither a folder nor a hub id"):
            bases.kind_of(source)

    def test_refuses_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "model.gguf"
        file.touch()

        with pytest.raises(bases.BaseRefused):
            bases.kind_of(str(file))


class TestBaseMake:
    def test_puts_the_base_into_the_store_by_its_hash(self, conversion: Conversion) -> None:
        conversion("good")

        base = bases.base_make("demo")

        assert base == bases.Base(**REPORT)
        assert base.path.name == REPORT["sha256"]
        assert (base.path / "model.safetensors").read_text() == "weights"

    def test_lets_nobody_write_to_the_files(self, conversion: Conversion) -> None:
        conversion("good")

        base = bases.base_make("demo")

        modes = {stat.S_IMODE(file.stat().st_mode) for file in base.path.iterdir()}
        assert modes == {0o444}

    def test_asks_for_a_kind_a_source_and_a_folder_below_the_store(
        self, conversion: Conversion, settings, tmp_path: Path
    ) -> None:
        asked = conversion("good")
        (tmp_path / "model").mkdir()

        bases.base_make(str(tmp_path / "model"))

        *module, kind, source, target = json.loads(asked.read_text())
        assert module == ["-m", "models_registry.convert"]
        assert (kind, source) == ("folder", str(tmp_path / "model"))
        # A rename into the store works only within one file system.
        assert Path(target).parent == settings.BASES

    def test_stores_the_same_content_once(self, conversion: Conversion, settings) -> None:
        conversion("good")
        first = bases.base_make("demo")
        inode = first.path.stat().st_ino

        second = bases.base_make("demo")

        assert second == first
        assert second.path.stat().st_ino == inode
        assert list(settings.BASES.iterdir()) == [first.path]

    def test_passes_the_reason_of_a_refusal_on(self, conversion: Conversion, settings) -> None:
        conversion("refused")

        with pytest.raises(bases.BaseRefused, match=r"^It has no tokenizer\.$"):
            bases.base_make("demo")

        assert list(settings.BASES.iterdir()) == []

    @pytest.mark.parametrize(("ending", "code"), [("crash", -9), ("half a report", 0)])
    def test_names_the_exit_code_of_a_crash(
        self, conversion: Conversion, settings, ending: str, code: int
    ) -> None:
        conversion(ending)

        with pytest.raises(bases.BaseRefused, match=f"exit code {code} before it was done"):
            bases.base_make("demo")

        assert list(settings.BASES.iterdir()) == []

    def test_says_what_to_run_without_a_model_environment(
        self, conversion: Conversion, settings
    ) -> None:
        assert not settings.ML_PYTHON.exists()

        with pytest.raises(bases.BaseRefused, match=r"pairloop\.up\.environments ml"):
            bases.base_make("demo")

        assert not settings.BASES.exists()

    def test_says_that_the_model_environment_is_broken(
        self, conversion: Conversion, settings
    ) -> None:
        conversion("good")
        settings.ML_PYTHON.chmod(0o600)

        with pytest.raises(bases.BaseRefused, match="does not start: Permission denied"):
            bases.base_make("demo")

        assert list(settings.BASES.iterdir()) == []

    def test_starts_nothing_for_a_source_that_is_nothing(self, conversion: Conversion) -> None:
        asked = conversion("good")

        with pytest.raises(bases.BaseRefused):
            bases.base_make("/nowhere/model")

        assert not asked.exists()
