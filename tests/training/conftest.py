"""A model whose triples wait, and a folder for its rounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from annotate.models import Split, Verdict
from models_registry.models import RegisteredModel
from tests import factories
from tests.training.scripted import trainer

# The trainer's own tests run where there is no Django.
collect_ignore = ["dpo"]


@pytest.fixture
def places(settings, tmp_path: Path) -> Path:
    """Keep every file of a test in its own folder."""
    settings.ROUNDS = tmp_path / "rounds"
    settings.VERSIONS = tmp_path / "versions"
    settings.SCORES = tmp_path / "scores"
    settings.BASES = tmp_path / "bases"
    return tmp_path


@pytest.fixture
def script(settings, places: Path) -> Callable[[str], None]:
    """Return a function that says what the trainer does from now on."""

    def write(text: str) -> None:
        settings.ML_PYTHON = trainer(places, text)

    return write


@pytest.fixture
def model(db: None, places: Path) -> RegisteredModel:
    """A model that is ready: v0 samples and is champion."""
    return factories.RegisteredModelFactory.create()


def judge(
    model: RegisteredModel, *, count: int = 1, verdict: str = Verdict.LEFT, split: str = Split.TRAIN
) -> None:
    """Have pairs of a model judged."""
    for _ in range(count):
        factories.JudgementFactory.create(
            verdict=verdict,
            assignment__pair__prompt__model=model,
            assignment__pair__prompt__split=split,
        )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the trainer and renew the lease often."""
    monkeypatch.setattr("training.runner.LOOK_S", 0.02)
    monkeypatch.setattr("training.runner.RENEW_S", 0.05)
