"""Triples: what the standing judgements of a pair say to a trainer, or the file that it came with.

Derived, never stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

from django.db.models import Exists, F, OuterRef, Q, QuerySet

from annotate import queries
from annotate.models import Completion, ImportedPreference, Judgement, Pair, Verdict
from models_registry.models import RegisteredModel

#: How probable it is that the winner is the better one; at a tie, that either is. The others say nothing.
CONFIDENCE: dict[str, float] = {
    Verdict.LEFT_MUCH: 0.98,
    Verdict.LEFT: 0.85,
    Verdict.TIE: 0.5,
    Verdict.RIGHT: 0.85,
    Verdict.RIGHT_MUCH: 0.98,
}
TIE = 0.5
#: Origins of a triple.
JUDGEMENT = "judgement"
IMPORT = "import"
#: Pairs that are in memory at once.
CHUNK = 500


@dataclass(frozen=True, slots=True)
class TripleSide:
    """One of a triple's two completions."""

    completion_id: int
    text: str
    #: As the engine returned them; None when somebody else wrote the text.
    ids: list[int] | None
    finish_reason: str
    #: The number of the version that wrote it.
    version: int | None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The text as what the assistant says next."""
        return [{"role": "assistant", "content": self.text}]


@dataclass(frozen=True, slots=True)
class Triple:
    """A prompt, the better completion, the worse one, and how sure the labelers are."""

    pair_id: int
    prompt_id: int
    messages: list[dict[str, str]]
    tags: list[str]
    prompt_ids: list[int] | None
    chosen: TripleSide
    rejected: TripleSide
    #: Probability that `chosen` is the better one, from .5.
    target: float
    weight: float
    #: The judgements that it was made from; none when it was made from an import.
    judgement_ids: list[int]

    @property
    def origin(self) -> str:
        """Who said which one is better."""
        return JUDGEMENT if self.judgement_ids else IMPORT

    @property
    def is_tie(self) -> bool:
        """Whether neither is the better one."""
        return self.target == TIE


def triple_pairs(
    *, model: RegisteredModel, purpose: str = Pair.Purpose.TRAIN
) -> QuerySet[Pair, Pair]:
    """Select the pairs of a model that make a triple.

    Somebody's standing judgement prefers, or is a tie; or the pair came with a preference.
    """
    said = _preferences().filter(assignment__pair=OuterRef("pk"))
    # One hash table of the ids: an EXISTS would look each of 100,000 pairs up.
    imported = ImportedPreference.objects.filter(model=model).values("pair")
    return Pair.objects.filter(
        Q(Exists(said)) | Q(pk__in=imported), prompt__model=model, purpose=purpose
    )


def judged(pairs: QuerySet[Pair, Pair]) -> QuerySet[Pair, Pair]:
    """Leave out the pairs whose triple comes from an import."""
    return pairs.filter(Exists(_preferences().filter(assignment__pair=OuterRef("pk"))))


def judged_since(pairs: QuerySet[Pair, Pair], *, judgement: int) -> QuerySet[Pair, Pair]:
    """Select those of which a standing judgement is younger than the one with this id."""
    younger = _preferences().filter(assignment__pair=OuterRef("pk"), pk__gt=judgement)
    return pairs.filter(Exists(younger))


def triples_of(pairs: QuerySet[Pair, Pair]) -> Iterator[Triple]:
    """Yield the triples of pairs in the order of their ids. Two or three queries for each 500, and one at first.

    A pair that neither a standing judgement nor an import says anything about makes none. Takes no slices.
    """
    ids = pairs.order_by("pk").values_list("pk", flat=True).iterator(chunk_size=CHUNK)
    while chunk := list(islice(ids, CHUNK)):
        yield from _triples(chunk)


def _preferences() -> QuerySet[Judgement, Judgement]:
    return queries.judgements_standing().filter(verdict__in=CONFIDENCE)


def _triples(pair_ids: list[int]) -> Iterator[Triple]:
    said: dict[int, list[Judgement]] = defaultdict(list)
    preferences = _preferences().select_related("assignment").order_by("pk")
    for judgement in preferences.filter(assignment__pair__in=pair_ids):
        said[judgement.assignment.pair_id].append(judgement)
    imported = ImportedPreference.objects.in_bulk([pk for pk in pair_ids if pk not in said])
    pairs = (
        Pair.objects.filter(pk__in=[*said, *imported])
        .select_related("prompt", "first", "second")
        .annotate(
            first_version=F("first__version__number"), second_version=F("second__version__number")
        )
        .order_by("pk")
    )
    for pair in pairs:
        first = _side(pair.first, version=pair.first_version)
        second = _side(pair.second, version=pair.second_version)
        if pair.pk in said:
            p = _first_is_better(said[pair.pk], first=pair.first_id)
        else:
            p = _first_is_preferred(imported[pair.pk], first=pair.first_id)
        yield Triple(
            pair_id=pair.pk,
            prompt_id=pair.prompt_id,
            messages=pair.prompt.messages,
            tags=pair.prompt.tags,
            prompt_ids=pair.first.prompt_ids or pair.second.prompt_ids,
            chosen=first if p >= 0.5 else second,
            rejected=second if p >= 0.5 else first,
            target=max(p, 1 - p),
            weight=1.0,
            judgement_ids=[judgement.pk for judgement in said.get(pair.pk, [])],
        )


def _side(completion: Completion, *, version: int | None) -> TripleSide:
    return TripleSide(
        completion_id=completion.pk,
        text=completion.text,
        ids=completion.completion_ids,
        finish_reason=completion.finish_reason,
        version=version,
    )


def _first_is_better(judgements: Iterable[Judgement], *, first: int) -> float:
    """Return the mean probability that the first completion is the better one."""
    said = []
    for judgement in judgements:
        confidence = CONFIDENCE[judgement.verdict]
        said.append(confidence if judgement.winner_id in {first, None} else 1 - confidence)
    # Rounded, so that opposite judgements cancel out whatever the floats do.
    return round(fmean(said), 9)


def _first_is_preferred(imported: ImportedPreference, *, first: int) -> float:
    """Return the probability that the first completion is the better one, as the import has it."""
    return imported.target if imported.preferred_id == first else round(1 - imported.target, 9)
