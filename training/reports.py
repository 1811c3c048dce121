"""A round in the words and numbers that its page shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from models_registry.queries import Stage
from pairloop.lib.charts import Chart, Line
from training import measures, numbers, presets, queries
from training.guardrails import ratio
from training.models import Round, RoundAttempt

#: What the trainer calls it -> what a page says, with how far it is.
TRAINER_STAGES = {
    "loading": "Loads the base and the adapter.",
    "reference": "Scores the completions with the reference policy: {done} of {of}.",
    "training": "Step {done} of {of}.",
    "evaluating": "Scores the held-out triples: {done} of {of}.",
    "saving": "Writes the adapter.",
    "publishing": "Registers the version.",
}
#: Numbers that stand large above the charts.
FIGURES = ("loss", "margin", "accuracy")
#: Title -> what a chart means in a sentence, and its lines: the trainer's name for them and ours.
CHARTS = {
    "Loss": ("What the steps make smaller.", {"loss": "Loss"}),
    "Margin": (
        "How far the good answers are ahead of the bad ones, against the reference.",
        {"margin": "Margin"},
    ),
    "Accuracy": (
        "Share of the step's triples whose good answer is ahead; ties are left out.",
        {"accuracy": "Accuracy"},
    ),
    "Drift": (
        (
            "Nats by which good answers, and dashed bad ones, are likelier than to the reference. Where both fall"
            " while the margin grows, the version learns to avoid both, and what it writes instead was never"
            " compared."
        ),
        {"drift_chosen": "Good", "drift_rejected": "Bad"},
    ),
}
DISPLACED = (
    "Both kinds of answers have become less likely in the last steps, the bad ones more so. The margin grows all the"
    " same, so look at what the version writes instead, under “What changed” once it is measured."
)
DISPLACED_ADVICE = " The presets Llama 3 and Anchored work against it."
#: Columns of the table of every step: the trainer's name -> ours.
STEP_COLUMNS = {
    "loss": "Loss",
    "margin": "Margin",
    "accuracy": "Accuracy",
    "drift_chosen": "Drift, good",
    "drift_rejected": "Drift, bad",
    "tokens_per_s": "Tokens/s",
}
GUARDRAILS = {
    "kl_base": "Distance from the base",
    "distinct2": "Variety",
    "length": "Length",
    "eos_drop": "Answers that do not end",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: what, and a number for each column."""

    title: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """One number of the training, what it is, and its value in each column."""

    title: str
    hint: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One automatic limit and how it went."""

    title: str
    value: str
    bound: str
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a round's page shows."""

    round: Round
    attempt: RoundAttempt | None
    stages: tuple[Stage, ...]
    #: Percent of the training that is done.
    percent: int
    seconds_left: int | None
    new: int
    replay: int
    #: New ones that wait for the next round.
    left: int
    figures: tuple[Row, ...]
    charts: tuple[Chart, ...]
    #: A sentence where good answers become less likely, too.
    displaced: str
    #: Heads of the table below it.
    columns: tuple[str, ...]
    numbers: tuple[Told, ...]
    step_columns: tuple[str, ...]
    steps: tuple[Row, ...]
    #: (reason, triples) that the trainer left out.
    dropped: tuple[tuple[str, int], ...]
    loss: str
    holdout: str
    measured: tuple[Row, ...]
    guardrails: tuple[Guardrail, ...]
    examples: tuple[queries.Example, ...]


def report_of(round_: Round) -> Report:
    """Gather a round's page; a handful of queries."""
    attempt = queries.attempt_last(round_)
    metrics = queries.metrics_of(round_)
    roles = queries.roles_of(round_)
    is_done = round_.version_id is not None
    return Report(
        round=round_,
        attempt=attempt,
        stages=_stages(round_, attempt),
        percent=100 if is_done else round(100 * attempt.progress) if attempt else 0,
        seconds_left=attempt.eta_s if attempt and round_.is_open else None,
        new=roles["new"],
        replay=roles["replay"],
        left=round_.snapshot.left_count,
        figures=_figures(metrics),
        charts=tuple(_charts(metrics)),
        displaced=_displaced(round_, metrics),
        columns=_columns(round_),
        numbers=_numbers(round_, metrics),
        step_columns=tuple(STEP_COLUMNS.values()),
        # Not shown while the page asks for itself every two seconds.
        steps=() if round_.is_under_way else _steps(metrics),
        dropped=tuple(measures.dropped_rows(round_.version.metrics)) if round_.version else (),
        loss=presets.words(round_.spec.get("loss", {})),
        holdout=_holdout(round_),
        measured=measured_rows(round_.evaluation),
        guardrails=tuple(
            Guardrail(
                title=GUARDRAILS.get(found["name"], found["name"]),
                value=f"{found['value']:.2f}",
                bound=found["bound"],
                is_kept=found["is_kept"],
            )
            for found in round_.evaluation.get("guardrails", [])
        ),
        examples=tuple(queries.examples_of(round_)),
    )


def _stages(round_: Round, attempt: RoundAttempt | None) -> tuple[Stage, ...]:
    """Return the way from the queue to a version that was measured; empty once it ended badly."""
    state = round_.state
    if state in {Round.State.FAILED, Round.State.CANCELLED, Round.State.SUCCEEDED}:
        return ()
    trained = round_.version is not None
    served = bool(round_.version and round_.version.is_verified)
    train = (
        "done" if trained else "running" if attempt and state == Round.State.RUNNING else "waiting"
    )
    return (
        _stage(
            "Wait for a free trainer",
            "running" if train == "waiting" else "done",
            "Rounds train one after another.",
        ),
        _stage(
            "Train",
            train,
            _trainer_says(attempt),
            attempt.eta_s if attempt and train == "running" else None,
        ),
        _stage(
            "Load into the engine",
            "done" if served else "running" if trained else "waiting",
            "vLLM must compute with it what the trainer computed.",
        ),
        _stage(
            "Measure on held-out prompts",
            "running" if served else "waiting",
            _evaluation_says(round_.evaluation),
        ),
    )


def _stage(title: str, state: str, detail: str, seconds_left: int | None = None) -> Stage:
    shown = detail if state == "running" else ""
    return Stage(title=title, state=state, detail=shown, seconds_left=seconds_left)


def _trainer_says(attempt: RoundAttempt | None) -> str:
    if attempt is None:
        return ""
    words = TRAINER_STAGES.get(attempt.stage, "")
    said = words.format(done=attempt.stage_done, of=attempt.stage_of)
    again = (
        f" Attempt {attempt.number}: it goes on from the last checkpoint."
        if attempt.number > 1
        else ""
    )
    return said + again


def _evaluation_says(evaluation: dict[str, Any]) -> str:
    words = "The version, its parent and the base answer the same prompts."
    return f"{words} {evaluation['done']} of {evaluation['of']}." if evaluation.get("of") else words


def _figures(metrics: dict[str, numbers.Series]) -> tuple[Row, ...]:
    """Return the newest numbers of the training."""
    return tuple(
        Row(STEP_COLUMNS[name], (f"{metrics[name][-1][1]:.3f}",))
        for name in FIGURES
        if metrics.get(name)
    )


def _charts(metrics: dict[str, numbers.Series]) -> Iterator[Chart]:
    """Yield the charts of which every line has two points or more."""
    for title, (hint, names) in CHARTS.items():
        if all(len(metrics.get(name, [])) > 1 for name in names):
            lines = tuple(Line(ours, tuple(metrics[name])) for name, ours in names.items())
            yield Chart(title=title, hint=hint, lines=lines)


def _displaced(round_: Round, metrics: dict[str, numbers.Series]) -> str:
    """Say that good answers become less likely, too, and what to do unless that is done; empty where they do not."""
    if not numbers.is_displaced(metrics):
        return ""
    loss = round_.spec.get("loss", {})
    has_remedy = loss.get("nll") or loss.get("name") == "apo_zero"
    return DISPLACED + ("" if has_remedy else DISPLACED_ADVICE)


def _is_held_out_enough(round_: Round) -> bool:
    return round_.snapshot.holdout_count >= queries.LEAST_HOLDOUT


def _columns(round_: Round) -> tuple[str, ...]:
    held_out = ("Held-out, before", "Held-out, after") if _is_held_out_enough(round_) else ()
    return ("Last step", *held_out)


def _numbers(round_: Round, metrics: dict[str, numbers.Series]) -> tuple[Told, ...]:
    """Return the trainer's numbers as it told them: of the last step, and of the held-out triples."""
    columns = [numbers.last_of(metrics)]
    if _is_held_out_enough(round_):
        columns += [_held_out(metrics, is_before=is_before) for is_before in (True, False)]
    shown = []
    # Those in brackets have no row of their own.
    inside = {name for names in numbers.BRACKETS.values() for name in names}
    for number in numbers.numbers_of(round_.spec.get("loss", {})):
        cells = tuple(numbers.text_of(number.key, values) for values in columns)
        if any(cells) and number.key not in inside:
            shown.append(Told(number.title, number.hint, cells))
    return tuple(shown)


def _held_out(metrics: dict[str, numbers.Series], *, is_before: bool) -> dict[str, float | None]:
    """Return the held-out numbers of step 0, or of the last step."""
    return {
        name.removeprefix(measures.HELD_OUT): value
        for name, series in metrics.items()
        if name.startswith(measures.HELD_OUT)
        for step, value in series
        if (step == 0) == is_before
    }


def _steps(metrics: dict[str, numbers.Series]) -> tuple[Row, ...]:
    """Return the numbers of every step, one row each."""
    by_step: dict[int, dict[str, float]] = {}
    for name in STEP_COLUMNS:
        for step, value in metrics.get(name, []):
            by_step.setdefault(step, {})[name] = value
    return tuple(
        Row(
            str(step),
            tuple(numbers.plain(found[name]) if name in found else "" for name in STEP_COLUMNS),
        )
        for step, found in sorted(by_step.items())
    )


def _holdout(round_: Round) -> str:
    """Say how well the version tells held-out triples apart, or why nobody can know."""
    pairs = round_.snapshot.holdout_count
    if pairs < queries.LEAST_HOLDOUT:
        return (
            f"How often the version prefers the good answer of held-out triples is shown from"
            f" {queries.LEAST_HOLDOUT} of them on; this round had"
            f" {pairs or 'none'}, too few to say."
        )
    found = measures.values_of(round_).get("accuracy")
    if found is None or found.interval is None:
        return ""
    before = (round_.holdout.get("before") or {}).get("accuracy")
    was = f", before the round of {before:.0%}" if before is not None else ""
    least, most = found.interval
    return (
        f"It prefers the good answer of {found.value:.0%} of {pairs} held-out triples{was}; with 95 % certainty"
        f" of {least:.0%} to {most:.0%}."
    )


def measured_rows(evaluation: dict[str, Any]) -> tuple[Row, ...]:
    """Return the measurements of version, parent and base as rows."""
    if not evaluation.get("prompts"):
        return ()
    columns = [evaluation[name] for name in ("version", "parent", "base")]
    kl = evaluation["kl_base"]
    length = ratio(columns[0]["tokens_mean"], columns[1]["tokens_mean"])
    return (
        Row(
            "Tokens of an answer",
            (*(f"{one['tokens_mean']:.1f}" for one in columns), f"{length:.2f} of its parent's"),
        ),
        Row("End by themselves", (*(f"{one['eos_rate']:.0%}" for one in columns), "")),
        Row("Distinct word pairs", (*(f"{one['distinct2']:.0%}" for one in columns), "")),
        Row(
            "Nats from the base",
            (f"{kl['k1']:.2f}", "", "0", f"never-negative estimate {kl['k3']:.2f}"),
        ),
    )
