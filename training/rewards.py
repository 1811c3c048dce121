"""The reward that a version has learned without being told: r(x, y) = β (log version(y|x) - log base(y|x)).

Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a Reward Model"
(arXiv 2305.18290), equation 5 without its partition function, which cancels between two answers of a prompt.
A loss that compares means over tokens has the mean as its reward: r(x, y) / n(y).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from annotate import triples, weak
from annotate.models import Completion
from annotate.triples import Triple
from models_registry.engine.types import Engine, EngineModelUnknown, EngineRejected
from models_registry.models import ModelVersion
from training import actions, measures, queries
from training.models import Round

#: Held-out pairs whose answers are scored, the newest: as many as a share needs to mean something. An adapter
#: on a CPU takes about 20 ms for each of their tokens.
MOST_PAIRS = queries.LEAST_HOLDOUT
#: Requests under way at once; about what a vLLM of ours does side by side.
REQUESTS = 20


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities of one answer's tokens under a version and its base."""

    completion: Completion
    version: tuple[float, ...]
    base: tuple[float, ...]

    @property
    def log_ratio(self) -> float:
        """How much likelier the answer is to the version, in nats."""
        return sum(self.version) - sum(self.base)


def scored(
    engine: Engine, *, version: ModelVersion, base: ModelVersion, answers: Iterable[Completion]
) -> Iterator[Scored]:
    """Yield the answers with their log-probabilities, but for those that the engine refuses. Raises EngineError."""

    def score(completion: Completion) -> Scored | None:
        ids = {
            "prompt_ids": completion.prompt_ids or [],
            "completion_ids": completion.completion_ids or [],
        }
        try:
            return Scored(
                completion=completion,
                version=engine.score(model=version.served_name, **ids),
                base=engine.score(model=base.served_name, **ids),
            )
        except EngineModelUnknown:
            raise
        except EngineRejected:
            # It fills the engine's context to the last token; the others say enough.
            return None

    with ThreadPoolExecutor(max_workers=REQUESTS) as pool:
        yield from (one for one in pool.map(score, answers) if one)


def answers_score(
    *, version: ModelVersion, base: ModelVersion, engine: Engine, examples: Sequence[int]
) -> None:
    """Score the judged held-out answers and the examples, those that are not yet. Raises EngineError.

    Whatever was scored before an engine died stays. Answers without token ids, as imports are, cannot be scored.
    """
    known = queries.answers_scored(version)
    wanted = [pk for pk in dict.fromkeys([*_judged(version), *examples]) if pk not in known]
    answers = Completion.objects.filter(
        pk__in=wanted, prompt_ids__len__gt=0, completion_ids__len__gt=0
    ).order_by("pk")
    for one in scored(engine, version=version, base=base, answers=answers):
        actions.answer_score_store(
            version=version,
            completion=one.completion,
            log_ratio=one.log_ratio,
            tokens=len(one.version),
        )


def _judged(version: ModelVersion) -> list[int]:
    """Return the answers of the newest held-out pairs of which one is the better."""
    pairs = queries.pairs_held_out(version.model, most=MOST_PAIRS)
    return [
        side.completion_id
        for triple in triples.triples_of(pairs)
        for side in (triple.chosen, triple.rejected)
    ]


@dataclass(frozen=True, slots=True)
class Rated:
    """A held-out pair, as labelers judged it and as the version rates it."""

    triple: Triple
    #: The rewards of the answers that labelers found good and bad.
    good: float
    bad: float

    @property
    def prompt(self) -> str:
        """The last message's text."""
        return str(self.triple.messages[-1]["content"])

    @property
    def margin(self) -> float:
        """By how much the good answer is ahead; below zero it is behind."""
        return self.good - self.bad

    @property
    def agrees(self) -> bool:
        """Whether the version, too, finds the good answer better."""
        return self.margin > 0


@dataclass(frozen=True, slots=True)
class Ratings:
    """The held-out pairs that a version was asked about, the worst disagreement first."""

    beta: float
    #: Whether a reward is a mean over an answer's tokens.
    per_token: bool
    pairs: tuple[Rated, ...]

    @property
    def agreed(self) -> int:
        """On how many the version agrees with the labelers."""
        return sum(pair.agrees for pair in self.pairs)

    @property
    def share(self) -> float | None:
        """The share of those; None while chance would decide it."""
        if len(self.pairs) < queries.LEAST_HOLDOUT:
            return None
        return self.agreed / len(self.pairs)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the true share is, with 95 % certainty."""
        return None if self.share is None else measures.wilson(self.share, len(self.pairs))


def ratings_of(round_: Round) -> Ratings:
    """Rate the judged held-out pairs by the version that a round made. Ties have no good answer, so none is shown."""
    known = queries.rewards_of(round_)
    rated = [
        Rated(
            triple=triple,
            good=known[triple.chosen.completion_id],
            bad=known[triple.rejected.completion_id],
        )
        for triple in triples.triples_of(queries.pairs_rated(round_.model, answers=known))
        if triple.target > 0.5
    ]
    return Ratings(
        beta=queries.beta_of(round_),
        per_token=queries.is_per_token(round_),
        pairs=tuple(sorted(rated, key=lambda pair: pair.margin)),
    )


def disagreements_tell(round_: Round) -> None:
    """Tell the sampling on which held-out pairs a round's version disagrees with the labelers.

    Pairs to train on are not scored by the engine, and what the trainer makes of them says how well it learned
    them. So these numbers only speak about the tags of held-out prompts.
    """
    if round_.version is None:
        return
    rated = ratings_of(round_).pairs
    weak.disagreements_note(
        version=round_.version,
        agreed=[one.triple.pair_id for one in rated if one.agrees],
        disagreed=[one.triple.pair_id for one in rated if not one.agrees],
    )
