"""Preferences go in by the page, come out by the page, and TRL trains on what came out, as it is."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from annotate import imports
from annotate.models import Completion, Import
from tests import factories
from tests.run import ROOT

pytestmark = [pytest.mark.bench, pytest.mark.django_db]

BENCH_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
#: A file of one's own to go the same way, as JSON lines.
OWN = os.environ.get("PAIRLOOP_TEST_PREFERENCES", "")


def preferences() -> bytes:
    """Return preference pairs as other tools write them: some plain, some conversations, some with more keys."""
    if OWN:
        return Path(OWN).read_bytes()
    plain = [{"prompt": f"Say {n}.", "chosen": f"hello {n}", "rejected": "."} for n in range(40)]
    talks = [
        {
            "prompt": [{"role": "user", "content": f"Say hello {n} times."}],
            "chosen": [{"role": "assistant", "content": "hello " * n}],
            "rejected": [{"role": "assistant", "content": "hello"}],
            "source": "somewhere",
        }
        for n in range(2, 42)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in [*plain, *talks])


def judged(model) -> None:
    """Add a triple that a person made, with token ids, beside those of the file."""
    prompt = factories.PromptFactory(model=model, split="train")
    first, second = (
        factories.CompletionFactory(prompt=prompt, text=text) for text in ("hello", ".")
    )
    assert isinstance(first, Completion)
    pair = factories.PairFactory(prompt=prompt, first=first, second=second)
    factories.JudgementFactory(assignment__pair=pair, winner=first)


def trained(*files: Path) -> dict[str, dict]:
    """Return what TRL made of each file."""
    done = subprocess.run(
        [BENCH_PYTHON, "-m", "tests.bench.trl_trains", *files],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.timeout(300)
def test_trains_on_what_was_imported_and_exported(settings, tmp_path: Path) -> None:
    settings.IMPORTS = tmp_path / "imports"
    model = factories.RegisteredModelFactory()
    admin = Client()
    admin.force_login(factories.UserFactory(is_staff=True))
    page = f"/models/{model.slug}/triples/"
    admin.post(page, {"file": SimpleUploadedFile("preferences.jsonl", preferences())})
    imports.import_run(import_id=Import.objects.get().pk)
    judged(model)

    for kind in ("jsonl", "parquet"):
        answer = admin.get(f"{page}file/", {"format": kind, "keys": "chosen_rejected"})
        (tmp_path / f"triples.{kind}").write_bytes(b"".join(answer.streaming_content))

    done = Import.objects.get()
    expected = done.created - done.held_out + 1
    assert expected > 40
    found = trained(tmp_path / "triples.jsonl", tmp_path / "triples.parquet")
    for kind in ("jsonl", "parquet"):
        result = found[f"triples.{kind}"]
        assert result["rows"] == expected
        assert {"prompt", "chosen", "rejected"} <= set(result["columns"])
        # The policy is its own reference before the first step.
        assert math.isclose(result["losses"][0], math.log(2), abs_tol=1e-4)
