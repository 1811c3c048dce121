from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "vllm", "peft", "accelerate", "gguf")


def imported_by(*modules: str, path: Path) -> set[str]:
    """Return which packages a fresh process holds after it imported these, `path` searched first."""
    code = f"import {', '.join(modules)}, sys; print(*{{n.split('.')[0] for n in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(path), "DJANGO_SETTINGS_MODULE": "tests.settings"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return set(done.stdout.split())


@pytest.mark.slow
class TestWeb:
    def test_imports_nothing_of_the_model_environment(self, tmp_path: Path) -> None:
        # They are not installed here, so an import inside of a `try` would pass unseen without these.
        for name in HEAVY:
            (tmp_path / f"{name}.py").touch()
        assert imported_by("torch", path=tmp_path) >= {"torch"}

        found = imported_by("pairloop.wsgi", "pairloop.urls", "annotate.tasks", path=tmp_path)

        assert found >= {"pairloop", "annotate", "models_registry", "training", "django"}
        assert not found & set(HEAVY)
