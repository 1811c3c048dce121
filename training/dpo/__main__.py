"""Train one round, in `.venv-ml`.

    python -m training.dpo RUN_FOLDER

Reads run.json, snapshot.jsonl and holdout.jsonl; writes events.jsonl, checkpoints/, version/, eval.json and, last
of all, result.json. Exit codes: 0 done, 1 failed (result.json says why), 75 stopped by SIGTERM: start it again and
it goes on.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from training.dpo import failures, files, spec
from training.dpo.events import Events
from training.dpo.failures import RoundFailed
from training.dpo.stopping import Stop, Stopped

DONE, FAILED, STOPPED = 0, 1, 75
#: Nothing is fetched, nothing is reported to anybody.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
#: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD of malloc.h, in bytes.
MALLOC = {-3: 1 << 30, -1: (1 << 31) - 1, -2: 1 << 24}


def main(arguments: list[str] | None = None) -> int:
    """Run the trainer in a folder and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.dpo")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(arguments).folder.resolve()
    result = folder / "result.json"
    if _is_done(result):
        print("This round is done already.")
        return DONE
    try:
        # What an attempt before this one died of is no longer true.
        result.unlink(missing_ok=True)
        return _attempt(folder, result)
    except OSError as error:
        # A disk so full that not even the reason fits.
        print(f"The round failed and could not say so in its folder: {error}", flush=True)
        return FAILED


def _attempt(folder: Path, result: Path) -> int:
    """Run once and leave behind what the exit code promises."""
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.ask)
    events = Events(folder / "events.jsonl")
    began = time.monotonic()
    try:
        outcome = _outcome(folder, events, stop)
        events.write("end", outcome=outcome["outcome"], **_cost(began))
    except Stopped:
        events.write("end", outcome="stopped", **_cost(began))
        print("Stopped; start the round again to go on.", flush=True)
        return STOPPED
    finally:
        events.close()
    files.write_json(result, outcome)
    return DONE if outcome["outcome"] == "done" else FAILED


def _outcome(folder: Path, events: Events, stop: Stop) -> dict[str, Any]:
    """Train, and turn whatever goes wrong into a reason with a name. Raises Stopped."""
    try:
        # The page shows life before torch is imported, which takes seconds.
        events.stage("loading", 0, 1)
        asked = spec.read(folder / "run.json")
        _process_prepare(asked.machine)
        from training.dpo import train  # noqa: PLC0415

        return train.run(folder=folder, spec=asked, events=events, stop=stop)
    except Stopped:
        raise
    except RoundFailed as failed:
        return _failed(failed)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return _failed(failures.named(error))


def _process_prepare(machine: spec.Machine) -> None:
    """Yield to the web app and the engine, and keep libraries offline."""
    os.nice(max(0, machine.nice - os.nice(0)))
    # Set, not read; libraries look at these while they are imported.
    os.environ.update(QUIET | {"OMP_NUM_THREADS": str(machine.threads)})  # noqa: TID251
    _memory_keep()


def _memory_keep() -> None:
    """Have glibc keep freed memory: it would give every large tensor back, and take it page by page anew."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter, value in MALLOC.items():
            libc.mallopt(parameter, value)


def _cost(began: float) -> dict[str, float]:
    """Return what this attempt took: seconds, and megabytes of memory at their highest."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": round(time.monotonic() - began, 3), "peak_mb": round(peak)}


def _failed(failed: RoundFailed) -> dict[str, Any]:
    print(f"The round failed: {failed}", flush=True)
    return {"outcome": "failed", "code": failed.code, "detail": str(failed)}


def _is_done(result: Path) -> bool:
    try:
        found = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("outcome") == "done"


if __name__ == "__main__":
    sys.exit(main())
