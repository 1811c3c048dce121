"""A stand-in for the conversion, which needs torch and minutes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from tests import factories

#: What a conversion reports; its files' names and bytes do not matter to the store.
REPORT = {
    "sha256": factories.sha256("all files"),
    "base_sha256": factories.sha256("weights"),
    "tokenizer_sha256": factories.sha256("tokenizer"),
    "chat_template_sha256": factories.sha256("chat template"),
    "size_bytes": 7,
    "parameters": 135_000_000,
    "context_length": 2048,
}
#: Ways a conversion may end. It is called as `python -m models_registry.convert KIND SOURCE TARGET`.
ENDINGS = {
    "good": f"""
        target.mkdir()
        (target / "model.safetensors").write_text("weights")
        report({{"base": {REPORT!r}}})
    """,
    "refused": """
        target.mkdir()
        (target / "config.json").write_text("half of a model")
        report({"refused": {"code": "no_tokenizer", "detail": "It has no tokenizer."}})
        sys.exit(1)
    """,
    "crash": """
        target.mkdir()
        (target / "config.json").write_text("half of a model")
        os.kill(os.getpid(), 9)
    """,
    "half a report": """
        target.mkdir()
        target.with_name(target.name + ".json").write_text('{"base": {"sha')
    """,
}


@pytest.fixture
def conversion(settings, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that chooses how conversions end; it returns the file of what they were asked."""
    settings.BASES = tmp_path / "bases"
    settings.ML_PYTHON = tmp_path / "python"
    asked = tmp_path / "asked.jsonl"

    def ends(ending: str) -> Path:
        program = f"""\
            #!{sys.executable}
            import json, os, pathlib, sys
            with open({str(asked)!r}, "a") as file:
                print(json.dumps(sys.argv[1:]), file=file)
            target = pathlib.Path(sys.argv[5])
            def report(found):
                target.with_name(target.name + ".json").write_text(json.dumps(found))
            """
        settings.ML_PYTHON.write_text(dedent(program) + dedent(ENDINGS[ending]))
        settings.ML_PYTHON.chmod(0o700)
        return asked

    return ends
