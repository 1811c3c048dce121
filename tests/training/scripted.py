"""A trainer that does what a test tells it, in the place of the interpreter that would run the real one."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.models_registry.adapters import adapter_make

HEAD = """\
#!{python}
import json, os, signal, sys, time
from pathlib import Path

folder = Path(sys.argv[-1])
spec = json.loads((folder / "run.json").read_text())
checkpoints = folder / "checkpoints"


def tell(event, **fields):
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({{"event": event, "at": time.time(), **fields}}) + "\\n")


def checkpoint(step):
    (checkpoints / f"step-{{step:06d}}").mkdir(parents=True)
    tell("checkpoint", step=step)


def step(number, of=3):
    tell("step", step=number, of=of, loss=0.7 - number / 10, margin=number / 2, accuracy=1.0, seconds=0.1)


def end(**result):
    draft = folder / ".result"
    draft.write_text(json.dumps(result))
    draft.rename(folder / "result.json")


def version():
    import shutil
    # By rename, as the real one does.
    shutil.copytree({adapter!r}, folder / ".version")
    (folder / ".version").rename(folder / "version")


"""
#: A round as it should go.
GOOD = """\
tell("stage", stage="loading", done=0, of=1)
tell("start", pairs=2, holdout=0, steps=3, epochs=3, resumed_from=0, dropped={}, tokenised=0)
for number in (1, 2, 3):
    step(number)
version()
(folder / "eval.json").write_text(json.dumps({"pairs": 0, "before": None, "after": None}))
end(outcome="done", steps=3, metrics={"loss": 0.4}, dropped={}, seconds=1.0)
"""


def trainer(folder: Path, script: str) -> Path:
    """Write an executable that runs the script when it is asked for the trainer; return its path."""
    adapter = folder / "adapter"
    if not adapter.exists():
        adapter_make(adapter)
    path = folder / "trainer"
    path.write_text(HEAD.format(python=sys.executable, adapter=str(adapter)) + script)
    path.chmod(0o755)
    return path
