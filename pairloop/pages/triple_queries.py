"""What the page of triples shows of several apps."""

from __future__ import annotations

from dataclasses import dataclass

from annotate import triples
from annotate.models import Pair
from annotate.triples import Triple
from models_registry.models import RegisteredModel
from training.queries import rounds_of_pairs

#: Triples of one page.
PAGE = 20


@dataclass(frozen=True, slots=True)
class TripleRow:
    """A triple, and the round that has trained on it."""

    triple: Triple
    #: The number of the round, if there was one.
    round: int | None

    @property
    def question(self) -> str:
        """The last message of the prompt."""
        return self.triple.messages[-1]["content"]


@dataclass(frozen=True, slots=True)
class TriplePage:
    """Some triples, the newest first, and where the older ones begin."""

    rows: list[TripleRow]
    #: The pair before which the next page begins; None on the last.
    older: int | None


def triple_page(model: RegisteredModel, *, before: int | None) -> TriplePage:
    """Return the newest triples, or those of older pairs than one. Costs the same on every page."""
    pairs = triples.triple_pairs(model=model)
    if before is not None:
        pairs = pairs.filter(pk__lt=before)
    ids = list(pairs.order_by("-pk").values_list("pk", flat=True)[: PAGE + 1])
    shown = ids[:PAGE]
    rounds = rounds_of_pairs(shown)
    found = triples.triples_of(Pair.objects.filter(pk__in=shown))
    rows = [TripleRow(triple, rounds.get(triple.pair_id)) for triple in found]
    return TriplePage(rows=rows[::-1], older=shown[-1] if len(ids) > PAGE else None)
