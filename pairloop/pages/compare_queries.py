"""What the page about two versions reads: their answers side by side, and what people proved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.conf import settings
from django.utils.safestring import SafeString

from annotate import queries as annotate
from annotate.models import Completion, Judgement, Pair, Prompt, Verdict
from annotate.queries import ComparisonReport
from models_registry import queries as registry
from models_registry.models import Alias, ModelVersion, RegisteredModel
from models_registry.stats.evidence import NEEDED_EVIDENCE, NEEDED_VOTES, Evidence
from pairloop.lib import differences
from pairloop.pages.history_queries import WHY
from training.models import Round

TIMES = "\N{MULTIPLICATION SIGN}"


# --- Which two -----------------------------------------------------------------------------------------


def versions_default(versions: Sequence[ModelVersion]) -> tuple[ModelVersion, ModelVersion] | None:
    """Return the newest verified version and the champion, or whatever comes closest; None below two."""
    verified = [version for version in versions if version.is_verified]
    if len(verified) < 2:
        return None
    candidate = verified[0]
    return candidate, rival_of(candidate, verified)


def rival_of(version: ModelVersion, others: Sequence[ModelVersion]) -> ModelVersion:
    """Return what a version is best compared with: the champion, else its parent, else the newest other."""
    others = [other for other in others if other != version]
    champions = [
        other
        for other in others
        if any(alias.name == Alias.CHAMPION for alias in other.aliases.all())
    ]
    parents = [other for other in others if other.pk == version.parent_id]
    return [*champions, *parents, *others][0]


# --- What people proved --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """What the newest comparison of two versions proves, in words."""

    candidate: ModelVersion
    incumbent: ModelVersion
    report: ComparisonReport | None

    @property
    def evidence(self) -> Evidence | None:
        """The numbers behind it."""
        return self.report.evidence if self.report else None

    @property
    def is_open(self) -> bool:
        """Whether labelers are asked just now."""
        return bool(self.report and self.report.comparison.is_open)

    @property
    def is_proved(self) -> bool:
        """Whether the candidate may be promoted on it."""
        return bool(self.evidence and self.evidence.passed)

    @property
    def title(self) -> str:
        """The state in two words."""
        if self.evidence is None:
            return "not compared yet"
        if self.evidence.passed:
            return "promotable"
        if self.evidence.is_futile:
            return "not better"
        return "labelers are asked" if self.is_open else "not proved"

    @property
    def figures(self) -> list[str]:
        """The numbers as phrases."""
        found = self.evidence
        if found is None or not found.votes:
            return []
        phrases = []
        if rate := found.win_rate:
            phrases.append(
                f"wins {percent(rate.value)} [{100 * rate.low:.1f}, {100 * rate.high:.1f}] of"
                f" {found.decisive} decisive vote{'' if found.decisive == 1 else 's'}"
            )
        phrases.append(f"tie {found.ties / found.votes:.0%}")
        phrases.append(f"both bad {found.both_bad / found.votes:.0%}")
        times = f"{found.evidence:.0f}" if found.evidence >= 10 else f"{found.evidence:.1f}"
        phrases.append(f"evidence {times}{TIMES} ({NEEDED_EVIDENCE:.0f}{TIMES} needed)")
        return phrases

    @property
    def why(self) -> str:
        """Why it is not proved, or what that would take."""
        found, candidate, incumbent = self.evidence, self.candidate.label, self.incumbent.label
        if found is None:
            return f"No labeler has judged {candidate} against {incumbent} yet."
        if found.passed:
            return (
                f"{candidate} is better than {incumbent}, however often one looks at these numbers."
            )
        if found.is_futile:
            return f"It is as good as certain that {candidate} wins less than 53 % against {incumbent}."
        if not found.decisive:
            return "No decisive vote yet."
        if found.votes_needed is None:
            return "At this win rate, no number of votes would prove it better."
        return (
            f"At this win rate the evidence suffices after about {found.votes_needed} decisive votes; a promotion"
            f" asks for at least {NEEDED_VOTES}."
        )


def percent(share: float) -> str:
    """Return a share as 58.9%."""
    return f"{100 * share:.1f}%"


def finding_of(candidate: ModelVersion, incumbent: ModelVersion) -> Finding:
    """Tell what the newest comparison of two versions proves. One query, and five when there is one."""
    comparison = registry.comparison_last(candidate=candidate, incumbent=incumbent)
    report = annotate.comparison_report(comparison) if comparison else None
    return Finding(candidate=candidate, incumbent=incumbent, report=report)


def finding_for_promotion(version: ModelVersion, champion: ModelVersion | None) -> Finding | None:
    """Tell what is proved of a version that might replace the champion; None for the champion itself."""
    if champion is None or version == champion:
        return None
    return finding_of(version, champion)


# --- Side by side --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Note:
    """What one labeler said about a pair."""

    by: str
    said: str
    reasons: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Row:
    """Two answers to one held-out prompt."""

    prompt: Prompt
    #: The incumbent's.
    before: Completion
    #: The candidate's.
    after: Completion
    #: "won", "lost", "tie" or "both_bad" for the candidate; empty: nobody judged these two.
    outcome: str = ""
    notes: tuple[Note, ...] = ()

    @property
    def is_changed(self) -> bool:
        """Whether the two differ at all."""
        return self.before.text != self.after.text

    @property
    def before_tokens(self) -> int:
        """How long the incumbent's is."""
        return len(self.before.completion_ids or ())

    @property
    def after_tokens(self) -> int:
        """How long the candidate's is."""
        return len(self.after.completion_ids or ())

    @property
    def is_greedy(self) -> bool:
        """Whether both are the likeliest answers."""
        return bool(self.after.sampling.get("temperature") == 0)

    @cached_property
    def marked(self) -> tuple[SafeString, SafeString]:
        """Both texts with their differences marked."""
        return differences.mark(self.before.text, self.after.text)


#: Name in the address -> what the filter is called ({candidate} wrote the second answer), and what it lets through.
FILTERS: dict[str, tuple[str, Callable[[Row], bool]]] = {
    "all": ("All", lambda row: True),
    "changed": ("Changed", lambda row: row.is_changed),
    "same": ("Same", lambda row: not row.is_changed),
    "shorter": ("{candidate} shorter", lambda row: row.after_tokens < row.before_tokens),
    "longer": ("{candidate} longer", lambda row: row.after_tokens > row.before_tokens),
}
#: The same for what labelers said, about the answers that they saw.
OUTCOMES = {
    "won": "{candidate} won",
    "lost": "{candidate} lost",
    "tie": "Tie",
    "both_bad": "Both bad",
}


@dataclass(frozen=True, slots=True)
class Answers:
    """All that two versions answered to the same held-out prompts."""

    #: One a prompt: the likeliest answers, or else those that labelers were asked about.
    rows: tuple[Row, ...]
    #: Those that labelers judged.
    judged: tuple[Row, ...]
    #: Version and how many of the evaluation's prompts it has not answered.
    missing: tuple[tuple[ModelVersion, int], ...]
    #: Prompts of an evaluation.
    prompts: int

    @property
    def missing_count(self) -> int:
        """Answers that are not there."""
        return sum(count for _, count in self.missing)

    @property
    def missing_words(self) -> str:
        """Who lacks how many of them."""
        lacks = " and ".join(f"{version.label} lacks {count}" for version, count in self.missing)
        return f"{lacks} of the {self.prompts} answers that an evaluation asks for with the present settings."

    @property
    def tags(self) -> list[str]:
        """The tags of all prompts."""
        return sorted({tag for row in (*self.rows, *self.judged) for tag in row.prompt.tags})

    def filtered(self, *, show: str, tag: str = "") -> list[Row]:
        """Return the rows that a filter lets through."""
        is_judged = show in OUTCOMES
        tagged = [
            row
            for row in (self.judged if is_judged else self.rows)
            if not tag or tag in row.prompt.tags
        ]
        if is_judged:
            return [row for row in tagged if row.outcome == show]
        return [row for row in tagged if FILTERS[show][1](row)]


def answers_of(candidate: ModelVersion, incumbent: ModelVersion) -> Answers:
    """Return what two versions answered to the same prompts. Six queries."""
    model = candidate.model
    greedy = annotate.sampling_greedy(annotate.policy_of(model))
    prompts = annotate.prompts_held_out(model, limit=settings.EVALUATION_PROMPTS)
    before, after = (
        annotate.completions_of_evaluation(version=version, prompts=prompts, sampling=greedy)
        for version in (incumbent, candidate)
    )
    rows = [
        Row(prompt=prompt, before=before[prompt.pk][0], after=after[prompt.pk][0])
        for prompt in prompts
        if prompt.pk in before and prompt.pk in after
    ]
    sampled = _sampled(candidate, incumbent)
    known = {row.prompt.pk for row in rows}
    for row in sampled:
        if row.prompt.pk not in known:
            known.add(row.prompt.pk)
            rows.append(row)
    return Answers(
        rows=tuple(rows),
        judged=tuple(row for row in sampled if row.outcome),
        missing=tuple(
            (version, len(prompts) - len(found))
            for version, found in ((candidate, after), (incumbent, before))
            if len(found) < len(prompts)
        ),
        prompts=len(prompts),
    )


def _sampled(candidate: ModelVersion, incumbent: ModelVersion) -> list[Row]:
    """Return the pairs that labelers were asked about, the newest first, with what they said."""
    pairs = annotate.pairs_compared(candidate, incumbent)
    said = annotate.judgements_on(pairs)
    return [_row_of(pair, said.get(pair.pk, []), candidate) for pair in pairs]


def _row_of(pair: Pair, judgements: Sequence[Judgement], candidate: ModelVersion) -> Row:
    after, before = pair.first, pair.second
    if after.version_id != candidate.pk:
        after, before = before, after
    outcomes = [_outcome(judgement, candidate) for judgement in judgements]
    return Row(
        prompt=pair.prompt,
        before=before,
        after=after,
        outcome=next(filter(None, outcomes), ""),
        notes=tuple(
            Note(
                by=judgement.assignment.labeler.get_username(),
                said=SAID[outcome].format(candidate=candidate.label),
                reasons=tuple(WHY.get(reason, reason) for reason in judgement.reasons),
                note=judgement.note,
            )
            for judgement, outcome in zip(judgements, outcomes, strict=True)
        ),
    )


#: Outcome -> what a labeler said with it.
SAID = {
    "won": "{candidate} is better",
    "lost": "{candidate} is worse",
    "tie": "equally good",
    "both_bad": "both are bad",
    "": "cannot judge",
}


def _outcome(judgement: Judgement, candidate: ModelVersion) -> str:
    if judgement.winner:
        return "won" if judgement.winner.version_id == candidate.pk else "lost"
    return {Verdict.TIE: "tie", Verdict.BOTH_BAD: "both_bad"}.get(Verdict(judgement.verdict), "")


def why_missing(model: RegisteredModel, answers: Answers) -> str:
    """Say what keeps the engine from writing the missing answers; empty: nothing does."""
    progress = registry.engine_progress(model.slug)
    if progress.failed:
        return f"The engine does not run: {progress.failed.detail}"
    if not progress.is_ready:
        return "The engine is starting; it can write them once it is there."
    unloaded = registry.versions_unloaded([version for version, _ in answers.missing])
    if unloaded:
        names = " and ".join(version.label for version in unloaded)
        return (
            f"{names} {'is' if len(unloaded) == 1 else 'are'} not in the engine now. Ask labelers, and it loads"
            " both versions."
        )
    return ""


# --- Measurements --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number of both versions, as a page shows it."""

    title: str
    before: str
    after: str


MEASURED: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "tokens_mean": ("Tokens of an answer", lambda found: f"{found['tokens_mean']:.1f}"),
    "eos_rate": ("End by themselves", lambda found: f"{found['eos_rate']:.0%}"),
    "distinct2": ("Distinct word pairs", lambda found: f"{found['distinct2']:.0%}"),
    "kl": ("Nats from the base", lambda found: f"{found['kl']:.2f}"),
}


def measurements_of(candidate: ModelVersion, incumbent: ModelVersion) -> list[Measurement]:
    """Return what the evaluations of two versions measured; nothing before both were measured."""
    before, after = _measured(incumbent), _measured(candidate)
    if not before or not after:
        return []
    return [
        Measurement(title, words(before), words(after))
        for name, (title, words) in MEASURED.items()
        if name in before and name in after
    ]


def _measured(version: ModelVersion) -> dict[str, Any]:
    """Return a version's numbers; the base's are in the newest evaluation of any round."""
    if version.is_base:
        rounds = Round.objects.filter(model=version.model_id, evaluation__has_key="base")
        evaluation = rounds.order_by("-number").values_list("evaluation", flat=True).first()
        return evaluation["base"] | {"kl": 0.0} if evaluation else {}
    found = version.metrics.get("evaluation")
    return found["version"] | {"kl": found["kl_base"]["k1"]} if found else {}
