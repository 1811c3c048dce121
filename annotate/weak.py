"""Where the model does badly: found in what labelers said, and in prompts that they write to see it fail."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import fmean
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Exists, F, Max, Min, OuterRef, Q, QuerySet
from django.utils import timezone

from annotate import prompts, queries, tasks
from annotate.drawing import MOST_PROMPTS, MOST_TAGS, Drawn
from annotate.models import (
    ATTACK_TAG,
    Judgement,
    Pair,
    Prompt,
    QueueEntry,
    SamplingState,
    Split,
    Verdict,
    WeakSpot,
)
from models_registry import queries as registry
from models_registry.models import Alias, ModelVersion, RegisteredModel
from pairloop.lib import jobs
from pairloop.lib.errors import Refused

#: The newest judgements, of all models, that say where they do badly.
MOST_JUDGEMENTS = 5000
#: What is left of a judgement's weight with each version that came after the one it is about.
FADE = 0.5
#: The share of failures that is taken for usual before there are judgements, and how many it counts as.
USUAL = 0.1
USUAL_STRENGTH = 10
#: Judgements' worth of the usual share that are added to those of a spot, and the least failures it must have.
PROMPT_STRENGTH, PROMPT_FAILURES = 3, 2
TAG_STRENGTH, TAG_FAILURES = 10, 3
#: The least by which its smoothed share of failures is above the usual one.
LEAST = 0.05
#: Failed pairs that a spot names; prompts that a tag keeps ready to be drawn, and ids tried to find them.
MOST_PAIRS = 5
READY = 30
TRIED = 2000

#: A labeler's prompts that may wait at once, and that may be written within an hour.
MOST_WAITING = 3
MOST_AN_HOUR = 20
HOUR = timedelta(hours=1)
#: Times that a model may answer one so that nothing can be compared.
MOST_TRIES = 3
#: Seconds from a written prompt to its pair, until some were measured.
ATTACK_S = 15
MEASURED = 5


class PromptKnown(Refused):
    """This prompt is here already, and its answers come in turn. Write another one."""

    code = "prompt_known"


class TooManyAttacks(Refused):
    """Judge the answers to your other prompts first."""

    code = "too_many_attacks"


# --- Weak spots ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """What one judgement, or the model's own rewards, say about a version on a prompt."""

    pair_id: int
    version: int
    #: Of a prompt that may be trained on; a held-out one only speaks about its tags.
    prompt_id: int | None
    tags: Sequence[str]
    #: The column of WeakSpot that counts such failures; empty when it did well.
    failure: str = ""


@dataclass(slots=True)
class Account:
    """What is known about one prompt or tag."""

    #: Faded with each version.
    weight: float = 0.0
    failed: float = 0.0
    #: As they are.
    judged: int = 0
    failures: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    pairs: list[int] = field(default_factory=list)
    last_failed: int = -1
    last_did_well: int = -1

    def add(self, finding: Finding, *, weight: float) -> None:
        """Count a finding; the newest ones come first."""
        self.judged += 1
        self.weight += weight
        if not finding.failure:
            self.last_did_well = max(self.last_did_well, finding.version)
            return
        self.failed += weight
        self.failures[finding.failure] += 1
        self.last_failed = max(self.last_failed, finding.version)
        if finding.pair_id not in self.pairs and len(self.pairs) < MOST_PAIRS:
            self.pairs.append(finding.pair_id)

    def weakness(self, *, usual: float, strength: int, least: int) -> float:
        """Return by how much it fails more than usual; 0 while one judgement could decide, or a newer version did well."""
        if sum(self.failures.values()) < least:
            return 0.0
        smoothed = (self.failed + strength * usual) / (self.weight + strength)
        return max(0.0, smoothed - usual)


def spots_refresh(*, now: datetime) -> None:
    """Compute anew where each model does badly, if there is anything new to know.

    A model of which nothing is among the newest judgements keeps the spots that it has.
    """
    newest = Judgement.objects.aggregate(last=Max("pk"))["last"] or 0
    stale = []
    for model in registry.models_ready():
        _prompts_count(model)
        state = queries.sampling_state(model)
        sampler = registry.version_of_alias(model=model, name=Alias.SAMPLER).number
        if state.spots_at is None or (state.judged_until, state.spots_of) != (newest, sampler):
            stale.append((model, sampler))
    judged = _judged(until=newest) if stale else {}
    for model, sampler in stale:
        _spots_store(model, judged.get(model.pk), until=newest, sampler=sampler, now=now)


def _prompts_count(model: RegisteredModel) -> None:
    """Count the prompts of each side, when some were added since: an import need not."""
    newest = Prompt.objects.aggregate(last=Max("pk"))["last"] or 0
    state, _ = SamplingState.objects.get_or_create(model=model)
    if state.counted_until == newest:
        return
    counts = {
        split: Prompt.objects.filter(model=model, split=split, refusal="").count()
        for split in Split
    }
    SamplingState.objects.filter(model=model).update(
        counted_until=newest,
        train_prompts=counts[Split.TRAIN],
        holdout_prompts=counts[Split.HOLDOUT],
    )


@transaction.atomic
def _spots_store(
    model: RegisteredModel,
    judged: list[Finding] | None,
    *,
    until: int,
    sampler: int,
    now: datetime,
) -> None:
    state = SamplingState.objects.select_for_update().get(model=model)
    if judged is not None or state.spots_at is None:
        spots = spots_of([*(judged or ()), *_disagreed(state)], newest=sampler)
        for spot in spots:
            spot.model = model
            if spot.tag:
                spot.prompt_ids, spot.prompt_count = _ready(model, spot.tag, random.SystemRandom())
        WeakSpot.objects.filter(model=model).delete()
        WeakSpot.objects.bulk_create(spots)
    state.judged_until, state.spots_of, state.spots_at = until, sampler, now
    state.save(update_fields=["judged_until", "spots_of", "spots_at"])


def spots_of(findings: Iterable[Finding], *, newest: int) -> list[WeakSpot]:
    """Return the prompts and tags that fail more often than usual, the worst of each, not stored."""
    every, by_prompt, by_tag = (
        Account(),
        defaultdict[int, Account](Account),
        defaultdict[str, Account](Account),
    )
    for finding in findings:
        weight = FADE ** max(0, newest - finding.version)
        every.add(finding, weight=weight)
        if finding.prompt_id:
            by_prompt[finding.prompt_id].add(finding, weight=weight)
        for tag in finding.tags:
            by_tag[tag].add(finding, weight=weight)
    usual = (every.failed + USUAL * USUAL_STRENGTH) / (every.weight + USUAL_STRENGTH)
    spots = []
    for pk, account in by_prompt.items():
        # One answered well by a newer version than the one that failed is no weak spot any more.
        if account.last_did_well <= account.last_failed:
            weakness = account.weakness(
                usual=usual, strength=PROMPT_STRENGTH, least=PROMPT_FAILURES
            )
            spots.append(_spot(account, weakness, prompt_id=pk))
    tags = [
        _spot(
            account,
            account.weakness(usual=usual, strength=TAG_STRENGTH, least=TAG_FAILURES),
            tag=tag,
        )
        for tag, account in by_tag.items()
    ]
    return _worst(spots, MOST_PROMPTS) + _worst(tags, MOST_TAGS)


def _spot(account: Account, weakness: float, **where: Any) -> WeakSpot:
    return WeakSpot(
        weakness=weakness,
        judged=account.judged,
        version_number=max(account.last_failed, 0),
        pairs=account.pairs,
        **account.failures,
        **where,
    )


def _worst(spots: list[WeakSpot], most: int) -> list[WeakSpot]:
    weak = [spot for spot in spots if spot.weakness >= LEAST]
    return sorted(weak, key=lambda spot: -spot.weakness)[:most]


def _judged(*, until: int) -> dict[int, list[Finding]]:
    """Return what the newest judgements say by model, the newest first. Gold pairs and repeats measure labelers.

    Walks back over a fixed stretch of ids and sorts out in here what was revised or taken back, so that it
    costs the same however many judgements there are.
    """
    pair = "assignment__pair__"
    rows = (
        Judgement.objects.filter(
            pk__gt=until - MOST_JUDGEMENTS,
            pk__lte=until,
            assignment__pair__purpose__in=["train", "eval", "compare"],
        )
        .order_by("-pk")
        .values_list(
            "assignment", "verdict", "winner__version__number", f"{pair}first__version__number",
            f"{pair}second__version__number", f"{pair}prompt__model", f"{pair}id", f"{pair}prompt",
            f"{pair}prompt__split", f"{pair}prompt__tags",
        )
    )  # fmt: skip
    found: dict[int, list[Finding]] = {}
    known: set[Any] = set()
    for assignment, verdict, winner, first, second, model, *where in rows:
        said = found.setdefault(model, [])
        # What came with a file, no version of the model wrote.
        if assignment in known or first is None or second is None:
            continue
        known.add(assignment)
        if verdict not in ("", Verdict.CANNOT_JUDGE):
            # Of a comparison's two versions, the newer one is the model now.
            said.append(
                _finding(*where, verdict=verdict, winner=winner, version=max(first, second))
            )
    return found


def _finding(
    pair_id: int,
    prompt_id: int,
    split: str,
    tags: list[str],
    *,
    verdict: str,
    winner: int | None,
    version: int,
) -> Finding:
    failure = ""
    if verdict == Verdict.BOTH_BAD:
        failure = "both_bad"
    elif winner is not None and winner != version:
        failure = "lost"
    return Finding(
        pair_id=pair_id,
        version=version,
        prompt_id=prompt_id if split == Split.TRAIN else None,
        tags=tags,
        failure=failure,
    )


def _disagreed(state: SamplingState) -> Iterable[Finding]:
    """Yield on which pairs the newest version that was asked disagrees with the labelers."""
    told = state.disagreements
    for failure, key in (("disagreed", "disagreed"), ("", "agreed")):
        pairs = Pair.objects.filter(pk__in=told.get(key, [])).order_by("-pk")
        for pk, prompt_id, split, tags in pairs.values_list(
            "pk", "prompt", "prompt_split", "prompt__tags"
        ):
            yield Finding(
                pair_id=pk,
                version=told["version"],
                prompt_id=prompt_id if split == Split.TRAIN else None,
                tags=tags,
                failure=failure,
            )


def _ready(model: RegisteredModel, tag: str, chance: random.Random) -> tuple[list[int], int]:
    """Return some prompts of a tag drawn at random, and how many it has, or about how many when it has many."""
    tagged = Prompt.objects.filter(model=model, split=Split.TRAIN, refusal="", tags__contains=[tag])
    ends = Prompt.objects.aggregate(first=Min("pk"), last=Max("pk"))
    ids = range(ends["first"] or 0, (ends["last"] or 0) + 1)
    if len(ids) > TRIED:
        found = list(tagged.filter(pk__in=chance.sample(ids, TRIED)).values_list("pk", flat=True))
        if len(found) >= READY:
            return chance.sample(found, READY), round(len(found) / TRIED * len(ids))
    every = list(tagged.values_list("pk", flat=True))
    return chance.sample(every, min(READY, len(every))), len(every)


@transaction.atomic
def disagreements_note(
    *, version: ModelVersion, agreed: Sequence[int], disagreed: Sequence[int]
) -> None:
    """Keep on which pairs a new version's own rewards prefer what the labelers do, and on which they do not."""
    SamplingState.objects.get_or_create(model=version.model)
    SamplingState.objects.filter(model=version.model).update(
        disagreements={
            "version": version.number,
            "agreed": list(agreed),
            "disagreed": list(disagreed),
        },
        spots_at=None,
    )


@dataclass(frozen=True, slots=True)
class Weaknesses:
    """Where a model does badly, the worst first."""

    tags: list[WeakSpot]
    prompts: list[WeakSpot]
    #: Of the pairs to train on, how many go there.
    share: float

    @property
    def is_empty(self) -> bool:
        """Whether nothing stands out, so that all prompts are drawn alike."""
        return not (self.tags or self.prompts)


def weaknesses(model: RegisteredModel, *, limit: int) -> Weaknesses:
    """Return a model's worst tags and prompts. Three queries."""
    spots = WeakSpot.objects.filter(model=model).order_by("-weakness", "pk")
    return Weaknesses(
        tags=list(spots.filter(prompt=None)[:limit]),
        prompts=list(spots.filter(tag="").select_related("prompt")[:limit]),
        share=queries.policy_of(model).weak_share,
    )


# --- Attack prompts ------------------------------------------------------------------------------------


@transaction.atomic
def attack_prompt_add(*, model: RegisteredModel, author: User, text: str, now: datetime) -> Prompt:
    """Store a prompt that a labeler wrote to see the model fail; its answers are sampled before all others.

    Raises PromptRefused, PromptKnown, TooManyAttacks. Locks the labeler, so that two tabs do not pass a limit.
    """
    line = prompts.parse({"prompt": text.replace("\r\n", "\n")}, tags=[ATTACK_TAG])
    User.objects.select_for_update(no_key=True).get(pk=author.pk)
    _within_limits(model, author, now)
    sha256 = line.sha256
    share = queries.policy_of(model).holdout_share
    prompt = Prompt(
        model=model,
        messages=line.messages,
        sha256=sha256,
        split=Split.HOLDOUT if prompts.is_held_out(sha256, share=share) else Split.TRAIN,
        tags=line.tags,
        author=author,
    )
    if Prompt.objects.filter(model=model, sha256=sha256).exists():
        raise PromptKnown
    # Not in turn with the imports: a long one must not keep a labeler waiting.
    Prompt.objects.bulk_create([prompt], ignore_conflicts=True)
    jobs.defer_once(tasks.pairs_top_up)
    return Prompt.objects.get(model=model, sha256=sha256)


def _within_limits(model: RegisteredModel, author: User, now: datetime) -> None:
    written = Prompt.objects.filter(model=model, author=author, created_at__gt=now - HOUR)
    if attacks_waiting(model=model, author=author, now=now) >= MOST_WAITING:
        raise TooManyAttacks(
            f"{MOST_WAITING} of your prompts wait already. Judge their answers first, then write the next one."
        )
    times = list(written.order_by("created_at").values_list("created_at", flat=True))
    if len(times) >= MOST_AN_HOUR:
        free_at = timezone.localtime(times[-MOST_AN_HOUR] + HOUR)
        raise TooManyAttacks(
            f"You wrote {MOST_AN_HOUR} prompts within an hour. Write the next one after {free_at:%H:%M}."
        )


def _unanswered(model: RegisteredModel) -> QuerySet[Prompt, Prompt]:
    """Select the labelers' prompts of which there is no pair yet, unless the model fails to make one."""
    return Prompt.objects.filter(
        ~Exists(Pair.objects.filter(prompt=OuterRef("pk"))),
        model=model,
        author__isnull=False,
        refusal="",
        asked__lt=MOST_TRIES,
    )


def attacks_waiting(*, model: RegisteredModel, author: User, now: datetime) -> int:
    """Return how many prompts of a labeler wait for their answers, or for their author to judge them."""
    kept = (
        QueueEntry.objects.filter(model=model, reserved_for=author, opinions=0)
        .values("pair__prompt")
        .distinct()
    )
    unanswered = _unanswered(model).filter(author=author, created_at__gt=now - HOUR)
    return unanswered.count() + kept.count()


def attacks_to_sample(model: RegisteredModel, *, limit: int) -> list[Drawn]:
    """Return the labelers' prompts of the last hour that have no pair yet, the oldest first."""
    found = _unanswered(model).filter(created_at__gt=timezone.now() - HOUR).select_related("author")
    return [Drawn(prompt, Pair.ATTACK) for prompt in found.order_by("created_at", "pk")[:limit]]


@dataclass(frozen=True, slots=True)
class Written:
    """A prompt that a labeler wrote, and what became of it."""

    question: str
    state: str


def attacks_of(*, model: RegisteredModel, author: User, limit: int, now: datetime) -> list[Written]:
    """Return the newest prompts that a labeler wrote. One query."""
    of_prompt = QueueEntry.objects.filter(pair__prompt=OuterRef("pk"), reserved_for=author)
    said = queries.judgements_standing().filter(
        assignment__pair__prompt=OuterRef("pk"), assignment__labeler=author
    )
    rows = Prompt.objects.filter(model=model, author=author).annotate(
        has_pair=Exists(Pair.objects.filter(prompt=OuterRef("pk"))),
        is_kept=Exists(of_prompt),
        is_judged=Exists(said),
    )
    return [Written(row.question, _became(row, now)) for row in rows.order_by("-pk")[:limit]]


def _became(row: Any, now: datetime) -> str:
    if row.is_judged:
        return "judged"
    if row.is_kept:
        return "waits for you"
    if row.has_pair:
        return "waits for anybody"
    if row.refusal:
        return "the model cannot take it; it may be too long"
    if row.asked >= MOST_TRIES or row.created_at <= now - HOUR:
        return "no two answers to compare yet; its turn comes again"
    return "being answered"


def attack_seconds(model: RegisteredModel) -> int:
    """Return how many seconds it takes from a labeler's prompt to its pair, by the last ones."""
    rows = (
        Prompt.objects.filter(model=model, author__isnull=False)
        .order_by("-created_at")
        .annotate(answered_at=Min("pairs__created_at"))
        .values_list("created_at", "answered_at")[: 2 * MEASURED]
    )
    waits = [(end - start).total_seconds() for start, end in rows if end and end > start]
    return round(fmean(waits[:MEASURED])) if waits else ATTACK_S


def reservations_end(*, now: datetime) -> int:
    """Let everybody judge what a labeler wrote and has judged, or left for an hour; return how many pairs."""
    done = Q(opinions__gt=0) | Q(pair__created_at__lte=now - HOUR)
    kept = QueueEntry.objects.filter(reserved_for__isnull=False, wanted__gt=F("leased"))
    return kept.filter(done).update(reserved_for=None)
