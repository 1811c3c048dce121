"""Which prompts are sampled next: what labelers wrote, where the model does badly, and all others in turn."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from django.db.models import Exists, OuterRef

from annotate import queries
from annotate.models import JudgingPolicy, Pair, Prompt, QueueEntry, Split, WeakSpot
from models_registry.models import ModelVersion, RegisteredModel

#: Weak prompts and tags that one draw considers, the worst ones.
MOST_PROMPTS = 200
MOST_TAGS = 20


@dataclass(frozen=True, slots=True)
class Drawn:
    """A prompt to sample, why, and how probable that was."""

    prompt: Prompt
    arm: str = Pair.UNIFORM
    #: As Pair.drawn_with.
    probability: float | None = None

    @property
    def reserved_for(self) -> User | None:
        """The only labeler who judges what comes of it."""
        return self.prompt.author if self.arm == Pair.ATTACK else None


@dataclass(frozen=True, slots=True)
class Odds:
    """How probable it is that one draw takes a prompt."""

    #: Of the draws, those that go to weak spots.
    weak_share: float
    #: Prompts that the others go through in turn.
    count: int
    #: Prompt id -> probability that a weak draw takes it for its own sake.
    prompts: Mapping[int, float]
    #: Tag -> probability that a weak draw takes a certain prompt that has it for the tag's sake.
    tags: Mapping[str, float]
    #: Prompt id -> weight, of the prompts that a weak draw can take just now.
    weights: Mapping[int, float]

    @property
    def weak(self) -> float:
        """The probability that a draw goes to a weak spot: none without one."""
        return self.weak_share if self.weights else 0.0

    def of(self, prompt: Prompt) -> float:
        """Return the probability of a prompt, whichever way it is drawn."""
        spot = self.prompts.get(prompt.pk, 0.0) + sum(
            self.tags.get(tag, 0.0) for tag in prompt.tags
        )
        return min(1.0, (1 - self.weak) / self.count + self.weak * spot)


def train_draw(
    *,
    model: RegisteredModel,
    version: ModelVersion,
    policy: JudgingPolicy,
    limit: int,
    chance: random.Random,
) -> list[Drawn]:
    """Draw prompts to train on, each once: a share of them from weak spots, the rest in turn."""
    odds = odds_of(model=model, policy=policy)
    wanted = sum(chance.random() < odds.weak for _ in range(limit))
    ids = picked(odds.weights, wanted=wanted, chance=chance)
    found = Prompt.objects.in_bulk(ids)
    weak = [found[pk] for pk in ids]
    turn = queries.prompts_to_sample(model=model, version=version, split=Split.TRAIN, limit=limit)
    # What a weak draw has taken already leaves its place to the next one.
    uniform = [prompt for prompt in turn if prompt not in weak][: limit - len(weak)]
    drawn = [(prompt, Pair.WEAK) for prompt in weak] + [
        (prompt, Pair.UNIFORM) for prompt in uniform
    ]
    return [Drawn(prompt, arm, odds.of(prompt)) for prompt, arm in drawn]


def holdout_draw(*, model: RegisteredModel, version: ModelVersion) -> list[Drawn]:
    """Draw the held-out prompt whose turn it is, if there is one."""
    count = queries.sampling_count(model, Split.HOLDOUT)
    found = queries.prompts_to_sample(model=model, version=version, split=Split.HOLDOUT, limit=1)
    return [Drawn(prompt, probability=1 / count) for prompt in found]


def odds_of(*, model: RegisteredModel, policy: JudgingPolicy) -> Odds:
    """Return how probable each prompt to train on is now: half of the weak draws are for tags, half for prompts."""
    spots = WeakSpot.objects.filter(model=model).order_by("-weakness", "pk")
    prompts = list(spots.filter(tag="")[:MOST_PROMPTS])
    tags = list(spots.filter(prompt=None)[:MOST_TAGS])
    free = _free(
        [spot.prompt_id for spot in prompts] + [pk for tag in tags for pk in tag.prompt_ids]
    )
    ids = {spot.tag: [pk for pk in spot.prompt_ids if pk in free] for spot in tags}
    of_prompts = _shares(
        {spot.prompt_id: spot.weakness for spot in prompts if spot.prompt_id in free}
    )
    of_tags = _shares({spot.tag: spot.weakness for spot in tags if ids[spot.tag]})
    half = 0.5 if of_prompts and of_tags else 1.0
    of_prompts = {pk: half * share for pk, share in of_prompts.items()}
    of_tags = {tag: half * share for tag, share in of_tags.items()}
    weights = Counter(of_prompts)
    for tag, share in of_tags.items():
        weights.update(dict.fromkeys(ids[tag], share / len(ids[tag])))
    counts = {spot.tag: max(spot.prompt_count, 1) for spot in tags}
    return Odds(
        weak_share=policy.weak_share,
        count=queries.sampling_count(model, Split.TRAIN),
        prompts=of_prompts,
        tags={tag: share / counts[tag] for tag, share in of_tags.items()},
        weights=weights,
    )


def _free(ids: Iterable[int | None]) -> set[int]:
    """Return those of some prompts that may be asked just now: nobody should judge the same one all day."""
    waits = QueueEntry.objects.filter(pair__prompt=OuterRef("pk"))
    asked = Prompt.objects.filter(
        ~Exists(waits), pk__in=[pk for pk in ids if pk], split=Split.TRAIN, refusal=""
    )
    return set(asked.values_list("pk", flat=True))


def _shares(weights: Mapping[Any, float]) -> dict[Any, float]:
    """Return the weights as parts of their sum."""
    total = sum(weights.values())
    return {key: weight / total for key, weight in weights.items()}


def picked(weights: Mapping[int, float], *, wanted: int, chance: random.Random) -> list[int]:
    """Draw ids by weight, each once; fewer when there are no more."""
    left = dict(weights)
    taken: list[int] = []
    while left and len(taken) < wanted:
        (pk,) = chance.choices(list(left), list(left.values()))
        taken.append(pk)
        del left[pk]
    return taken
