"""A supervisor of small Python programs: `python -m tests.pairloop.supervised FOLDER SPECS [STOP_S]`.

SPECS is a JSON list of {"name", "code", ...}; a part that is no one-shot is ready once it has made the
file FOLDER/<name>.ready.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pairloop.lib import processes
from pairloop.lib.errors import Refused
from pairloop.up.guard import Guard
from pairloop.up.supervisor import NotYet, Pace, Spec, Supervisor, folder_held

STOP_S = 1.0


def say(line: str) -> None:
    """Print at once, so a killed supervisor's words are there."""
    print(line, flush=True)


def spec_of(values: dict[str, Any], folder: Path) -> Spec:
    """Return the spec of one small program, run with FOLDER as its working folder."""
    name = values["name"]
    launch = processes.Launch(command=(sys.executable, "-c", values["code"]), folder=folder)

    def launched() -> processes.Launch:
        if (needed := values.get("not_before")) and not (folder / needed).exists():
            raise NotYet(f"Waits for {needed}.")
        return launch

    ready = None if values.get("one_shot") else lambda _started: (folder / f"{name}.ready").exists()
    return Spec(
        name=name,
        launch=launched,
        ready=ready,
        skip=lambda: values.get("skip", ""),
        needs=tuple(values.get("needs", ())),
        follows=tuple(values.get("follows", ())),
        essential=values.get("essential", False),
        stops_last=values.get("stops_last", False),
        expected_s=values.get("expected_s"),
        start_patience_s=values.get("start_patience_s"),
        patience_s=values.get("patience_s"),
    )


def main() -> int:
    """Supervise until a signal."""
    folder = Path(sys.argv[1])
    stop_s = float(sys.argv[3]) if len(sys.argv) > 3 else STOP_S
    pace = Pace(tick_s=0.02, check_s=0.02, pulse_s=0.05, delay_s=0.05, stop_s=stop_s)
    specs = [spec_of(values, folder) for values in json.loads(sys.argv[2])]
    try:
        with folder_held(folder, say=say, pace=pace) as lock:
            guard = Guard(lock=lock)
            try:
                return Supervisor(
                    specs,
                    var=folder,
                    status_file=folder / "status.json",
                    guard=guard,
                    say=say,
                    pace=pace,
                ).run()
            finally:
                guard.close()
    except Refused as refused:
        say(str(refused))
        return 1


if __name__ == "__main__":
    sys.exit(main())
