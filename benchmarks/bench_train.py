"""How fast a round trains, how much memory it takes and whether it computes the same, against TRL's DPOTrainer.

`make bench-train [DATA=file.jsonl]`, about 25 minutes on two cores: for each ratio r of prompt tokens to mean completion
tokens the same 16 pairs in the same order, 4 a step, float32, LoRA on all linear layers, the same fresh adapter, the same
number of threads. TRL once with its defaults (bf16 and checkpointing off) and once tuned; Pairloop three times with the reference
pass and three times with the reference's scores stored. Loading and saving count on neither side. DATA holds
`prompt`, `chosen`, `rejected` as lists of messages; without it pairs are made up.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import train_figures as figures
from benchmarks.train_figures import Compared, OwnRun, Pair, Run
from models_registry import hashing
from training.dpo import data

ROOT = Path(__file__).resolve().parent.parent
VAR = ROOT / "var" / "bench"
WORK = VAR / "train"
BASES = VAR / "bases"
ML_PYTHON = ROOT / ".venv-ml" / "bin" / "python"
TRL_PYTHON = ROOT / ".venv-bench" / "bin" / "python"

BATCH, LONGEST, SEED, BETA = 4, 1024, 0, 0.1
LORA = {
    "rank": 16,
    "alpha": 32,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
OPTIMIZER = {"learning_rate": 2e-4, "weight_decay": 0.0, "warmup": 0.0, "clip": 1.0}
LOSS = {
    "name": "dpo", "beta": BETA, "ties": False, "smoothing": 0.0, "nll": 0.0, "gamma": None, "penalty": None,
    "mask_special": False,
}  # fmt: skip
#: glibc gives large blocks back to the kernel after every use and takes them page by page anew; these keep them.
TUNED = {
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_MMAP_MAX_": "0",
}
TUNED_HOW = (
    "TRL tuned: batch 1 x 4 accumulation, so that nothing is padded beyond the longer completion of a pair, and glibc's "
    f"malloc told to keep its memory ({' '.join(f'{name}={value}' for name, value in TUNED.items())}). Larger batches, "
    "precompute_ref_log_probs, bf16 and torch_compile were slower when tried on two AVX2 cores; padding_free is switched off in TRL 1.16, and its "
    "fused head scores all positions where there is no Triton."
)


def say(text: str) -> None:
    """Print with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:5.0f} s] {text}", flush=True)


STARTED = time.monotonic()


# --- What is trained ------------------------------------------------------------------------------------


def base_provide(given: Path | None) -> Path:
    """Return the base's folder under the name of its hash, as the trainer wants it; the demo model by default."""
    BASES.mkdir(parents=True, exist_ok=True)
    folder = given.resolve() if given else _demo()
    place = BASES / hashing.folder_sha256(folder)
    if not place.exists():
        place.symlink_to(folder, target_is_directory=True)
    return place


def _demo() -> Path:
    folder = BASES / "demo"
    # The report is written last.
    report = BASES / "demo.json"
    if not report.exists():
        say("making the demo base, about 100 MB to fetch")
        shutil.rmtree(folder, ignore_errors=True)
        call([ML_PYTHON, "-m", "models_registry.convert", "demo", "-", folder])
    return folder


def material(arguments: argparse.Namespace, base: Path) -> dict[str, Any]:
    """Return all usable pairs as token ids, and the model's sizes."""
    if arguments.data:
        source = arguments.data.resolve()
    else:
        source = WORK / "generated.jsonl"
        made = figures.generated(arguments.allowed, pairs=arguments.pairs)
        source.write_text("".join(json.dumps(pair) + "\n" for pair in made), encoding="utf-8")
    job = {
        "base": str(base),
        "data": str(source),
        "lora": LORA,
        "seed": SEED,
        "longest": LONGEST,
    }
    found: dict[str, Any] = ask(ML_PYTHON, "benchmarks.train_material", "prepare", job_write(job))
    say(
        f"{source.name}: {len(found['pairs'])} pairs of at most {LONGEST} tokens, {found['left_out']} left out"
    )
    return found


def in_steps(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Return the pairs in the order in which the trainer takes them, a list per optimizer step."""
    triples = [
        data.Triple(
            chosen=data.Row(tuple(pair["prompt_ids"]), tuple(pair["chosen_ids"])),
            rejected=data.Row(tuple(pair["prompt_ids"]), tuple(pair["rejected_ids"])),
            target=1.0,
            weight=1.0,
        )
        for pair in pairs
    ]
    known = dict(zip(triples, pairs, strict=True))
    steps = [
        [known[triple] for triple in data.batch(triples, step=step, batch_pairs=BATCH, seed=SEED)]
        for step in range(data.steps_per_epoch(len(triples), BATCH))
    ]
    # Else TRL's steps, which are cut from the flat list, would be other ones.
    if any(len(step) != BATCH for step in steps):
        raise SystemExit(f"the trainer does not take {BATCH} pairs in every step")
    return steps


# --- Runs -----------------------------------------------------------------------------------------------


def trl(steps: list[list[Pair]], base: Path, *, threads: int, tuned: bool, adapter: str) -> Run:
    """Train one epoch with TRL."""
    job = {
        "base": str(base),
        "pairs": [pair for step in steps for pair in step],
        "batch": 1 if tuned else BATCH,
        "accumulation": BATCH if tuned else 1,
        "lora": LORA,
        "optimizer": OPTIMIZER,
        "beta": BETA,
        "seed": SEED,
        "threads": threads,
        "folder": str(WORK / "trl"),
    }
    extra = (TUNED if tuned else {}) | {"OMP_NUM_THREADS": str(threads)}
    found = ask(TRL_PYTHON, "benchmarks.trl_train", job_write(job), environment=extra)
    if found["adapter"] != adapter:
        raise SystemExit("TRL began with another adapter: its losses cannot be compared")
    return Run(found["seconds"], tuple(found["losses"]), found["peak_mb"])


def own(pairs: Sequence[Pair], base: Path, *, folder: Path, number: int, threads: int) -> OwnRun:
    """Train one epoch with Pairloop, the way a round is started; rounds below one folder share their scores."""
    settings = _settings(base, number=number, scores=folder / "scores")
    settings["machine"] = {"threads": threads, "nice": 0}
    folder = folder / f"round-{number}"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(settings), encoding="utf-8")
    lines = [
        json.dumps(
            pair | {"target": 1.0, "weight": 1.0, "finish": {"chosen": "stop", "rejected": "stop"}}
        )
        for pair in pairs
    ]
    (folder / "snapshot.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "holdout.jsonl").write_text("", encoding="utf-8")
    call([ML_PYTHON, "-m", "training.dpo", folder])
    return own_read((folder / "events.jsonl").read_text(encoding="utf-8"))


def own_read(events: str) -> OwnRun:
    """Read what a round told about itself."""
    told = [json.loads(line) for line in events.splitlines()]
    steps = [each for each in told if each["event"] == "step"]
    (reference,) = [each for each in told if each["event"] == "reference"]
    step_seconds = sum(step["seconds"] for step in steps)
    computed = sum(step["tokens"] for step in steps)
    whole = sum(step["tokens"] / (1 - step["tokens_saved"]) for step in steps)
    return OwnRun(
        seconds=step_seconds + reference["seconds"],
        losses=tuple(step["loss"] for step in steps),
        peak_mb=told[-1]["peak_mb"],
        step_seconds=step_seconds,
        step_tokens=computed,
        reference_seconds=reference["seconds"],
        reference_tokens=reference["tokens"] if reference["scored"] else 0,
        saved=1 - computed / whole,
    )


def _settings(base: Path, *, number: int, scores: Path) -> dict[str, Any]:
    """Return run.json but for `machine`."""
    return {
        "schema": 2,
        "round": {"model": "bench", "number": number},
        "base": {"path": str(base), "sha256": base.name},
        "parent": {"path": None, "sha256": base.name, "number": 0},
        "reference": {"kind": "base", "sha256": base.name},
        "scores": str(scores),
        "lora": LORA,
        "loss": LOSS,
        "optimizer": OPTIMIZER,
        "epochs": 1,
        "batch_pairs": BATCH,
        "max_tokens": LONGEST,
        "seed": SEED,
        "checkpoint_steps": 1_000_000,
    }


def compare(
    pairs: list[Pair], base: Path, *, name: str, adapter: str, arguments: argparse.Namespace
) -> Compared:
    """Make all runs for one ratio; ours lie around and between TRL's, so that a slow minute of the machine meets both."""
    steps, threads = in_steps(pairs), arguments.threads

    def theirs(*, tuned: bool) -> Run:
        run = trl(steps, base, threads=threads, tuned=tuned, adapter=adapter)
        kind = "tuned" if tuned else "defaults"
        say(f"r={name}: TRL, {kind}: {run.seconds:.1f} s, {run.peak_mb:.0f} MB")
        return run

    def ours(number: int) -> tuple[OwnRun, OwnRun]:
        """Train twice with one store of scores, which is empty before the first."""
        folder = WORK / name / str(number)
        runs = []
        for round_number, kind in enumerate(("first epoch", "reference known"), start=1):
            run = own(pairs, base, folder=folder, number=round_number, threads=threads)
            if bool(run.reference_tokens) != (kind == "first epoch"):
                raise SystemExit(f"{kind}: the reference scored {run.reference_tokens} tokens")
            runs.append(run)
            say(f"r={name}: Pairloop, {kind}: {run.seconds:.1f} s, {run.peak_mb:.0f} MB")
        return runs[0], runs[1]

    mine = [ours(0)]
    default = theirs(tuned=False)
    mine += [ours(number) for number in range(1, arguments.repeats)]
    tuned = theirs(tuned=True)
    return Compared(
        ratio=figures.ratio_of(pairs),
        pairs=len(pairs),
        default=default,
        tuned=tuned,
        first=tuple(run for run, _ in mine),
        cached=tuple(run for _, run in mine),
        scored=figures.scored(steps),
    )


# --- Processes ------------------------------------------------------------------------------------------


def job_write(job: dict[str, Any]) -> Path:
    """Write what a program is to do and return where."""
    path = WORK / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    return path


def ask(
    python: Path, module: str, *words: object, environment: dict[str, str] | None = None
) -> Any:
    """Run a module and return what its last line says."""
    out = call([python, "-m", module, *words], environment=environment)
    return json.loads(out.splitlines()[-1])


def call(command: Sequence[object], *, environment: dict[str, str] | None = None) -> str:
    """Run a program from the project's folder and return what it prints; end here when it fails."""
    log = WORK / "log.txt"
    with log.open("w", encoding="utf-8") as errors:
        done = subprocess.run(
            [str(word) for word in command], cwd=ROOT, env=os.environ | (environment or {}), text=True,
            stdout=subprocess.PIPE, stderr=errors, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        tail = (done.stdout + log.read_text(encoding="utf-8"))[-3000:]
        raise SystemExit(f"{tail}\n{' '.join(map(str, command))} ended with {done.returncode}")
    return done.stdout


# --- The whole ------------------------------------------------------------------------------------------


def asked() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "data", nargs="?", type=Path, help="preference pairs, one JSON object a line"
    )
    parser.add_argument("--base", type=Path, help="a model's folder instead of the demo model")
    parser.add_argument("--pairs", type=int, default=16, help="per ratio; a multiple of 4")
    parser.add_argument("--repeats", type=int, default=3, help="of our runs")
    parser.add_argument("--ratios", default="0.6,1,3,6")
    parser.add_argument(
        "--tokens", type=int, default=14_500, help="of all pairs of all ratios, about, at most"
    )
    parser.add_argument("--threads", type=int, default=2)
    found = parser.parse_args()
    found.ratios = [float(each) for each in found.ratios.split(",")]
    found.allowed = figures.budgets(found.ratios, pairs=found.pairs, tokens=found.tokens)
    if found.pairs < BATCH or found.pairs % BATCH or found.repeats < 1:
        parser.error(f"--pairs must be a multiple of {BATCH}, --repeats 1 or more")
    return found


def chosen(pairs: list[Pair], ratio: float, arguments: argparse.Namespace) -> list[Pair]:
    """Return the pairs for a ratio; end here when there are not enough."""
    try:
        return figures.select(
            pairs, ratio=ratio, count=arguments.pairs, tokens=arguments.allowed[ratio]
        )
    except ValueError as error:
        raise SystemExit(f"r={ratio:g}: {error}") from error


def described(pairs: list[Pair], ratio: float, near: int) -> str:
    """Say which pairs were taken for a ratio."""
    own_ratios = [figures.ratio_of([pair]) for pair in pairs]
    prompts = len({json.dumps(pair["prompt_ids"]) for pair in pairs})
    lengths = [len(pair["prompt_ids"]) + max(len(pair["chosen_ids"]), len(pair["rejected_ids"])) for pair in pairs]  # fmt: skip
    few = f"; only {near} within a factor of {figures.NEAR} of {ratio:g}, the others are farther" if near < len(pairs) else ""  # fmt: skip
    return (
        f"r={ratio:g}: {len(pairs)} pairs of {prompts} prompts, r {figures.ratio_of(pairs):.2f} in all and "
        f"{min(own_ratios):.2f} to {max(own_ratios):.2f} each, {sum(map(figures.tokens_of, pairs))} tokens, the longest "
        f"sequence {max(lengths)}{few}"
    )


def main() -> None:
    """Measure every ratio, then print all tables and the last line."""
    arguments = asked()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    base = base_provide(arguments.base)
    given = material(arguments, base)
    say(TUNED_HOW)
    compared: dict[float, Compared] = {}
    gflops = 0.0
    for ratio in arguments.ratios:
        # The best of the whole run: the machine's speed differs from minute to minute, and a slow one would flatter us.
        fast = ask(ML_PYTHON, "benchmarks.train_material", "sgemm", arguments.threads)
        gflops = max(gflops, fast["gflops"])
        pairs = chosen(given["pairs"], ratio, arguments)
        near = sum(figures.is_near(pair, ratio) for pair in pairs)
        say(f"{described(pairs, ratio, near)}; sgemm {fast['gflops']:.0f} GFLOP/s")
        compared[ratio] = compare(pairs, base, name=f"{ratio:g}", adapter=given["sizes"]["adapter"], arguments=arguments)  # fmt: skip
    report(compared, sizes=given["sizes"], gflops=gflops)


def report(compared: dict[float, Compared], *, sizes: dict[str, Any], gflops: float) -> None:
    """Print a table per ratio and the figures of the one nearest to 3."""
    shares = {ratio: figures.roofline(each, sizes, gflops) for ratio, each in compared.items()}
    for ratio, each in compared.items():
        found = figures.figures(each, shares[ratio][0])
        print(f"\nr = {each.ratio:.2f}, {each.pairs} pairs")
        print(figures.table(each, shares[ratio], gflops))
        print(figures.last_line(found).removeprefix("bench-train: "))
    nearest = figures.headline(compared)
    found = figures.figures(compared[nearest], shares[nearest][0])
    print(
        "\nvs: TRL's seconds / ours. memory: our peak / TRL's. curve: largest difference of a step's loss. roofline: share of "
        "the machine's best float32 matrix product; counted are products with weights and adapters, not attention's own."
    )
    for sentence in figures.missed(found):
        print(f"missed: {sentence}")
    print(figures.last_line(found))


if __name__ == "__main__":
    main()
