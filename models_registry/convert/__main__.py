"""Make a base that can be trained and served, in `.venv-ml`.

    python -m models_registry.convert demo|folder|hub SOURCE TARGET

TARGET must not exist. It ends with the base's files and TARGET.json beside it, written last: either
{"base": {hashes and sizes}} or {"refused": {"code", "detail"}}. Progress goes to stdout, a line a step.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from models_registry import hashing
from models_registry.convert import sources
from models_registry.convert.checks import TOKENIZER, BaseRefused
from models_registry.convert.loading import load_check


def main(arguments: list[str] | None = None) -> int:
    """Convert, check and describe one base; 0 when it is good, 1 when it was refused."""
    parser = argparse.ArgumentParser(prog="python -m models_registry.convert")
    parser.add_argument("kind", choices=["demo", "folder", "hub"])
    parser.add_argument("source", help="a folder, a hub id, or - for the demo")
    parser.add_argument("target", type=Path)
    asked = parser.parse_args(arguments)
    try:
        result = {"base": make(kind=asked.kind, source=asked.source, target=asked.target)}
    except BaseRefused as refused:
        result = {"refused": {"code": refused.code, "detail": str(refused)}}
    draft = asked.target.with_name(asked.target.name + ".draft")
    draft.write_text(json.dumps(result), encoding="utf-8")
    draft.rename(asked.target.with_name(asked.target.name + ".json"))
    return 0 if "base" in result else 1


def make(*, kind: str, source: str, target: Path) -> dict[str, str | int]:
    """Fill `target` and describe it. Raises BaseRefused."""
    say(f"Fetching the base ({source if kind != 'demo' else sources.DEMO})")
    if kind == "demo":
        sources.demo(target)
    elif kind == "folder":
        sources.folder(source, target)
    else:
        sources.hub(source, target)
    say("Loading it and answering one prompt")
    loaded = load_check(target)
    say("Hashing weights, tokenizer and chat template")
    return {
        "sha256": hashing.folder_sha256(target),
        "base_sha256": hashing.folder_sha256(target, ("*.safetensors",)),
        "tokenizer_sha256": hashing.folder_sha256(target, TOKENIZER),
        "chat_template_sha256": loaded.chat_template_sha256,
        "size_bytes": sum(path.stat().st_size for path in target.iterdir()),
        "parameters": loaded.parameters,
        "context_length": loaded.context_length,
    }


def say(sentence: str) -> None:
    """Print one line of progress at once."""
    print(sentence, flush=True)


if __name__ == "__main__":
    sys.exit(main())
