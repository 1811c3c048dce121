"""What the judging screen shows: one pair as a card, and what stands around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, get_args

from django.contrib.auth.models import User
from django.utils import timezone

from annotate import answers, queries
from annotate.answers import Panes, Shown
from annotate.models import CANNOT, REASONS, Assignment, Judgement, JudgingPolicy, Verdict
from annotate.queries import JudgingProgress
from annotate.waiting import Waiting, waiting_for
from models_registry.models import RegisteredModel

#: How answers can be shown; the first is how they are shown unless somebody asks.
VIEWS: tuple[Shown, ...] = get_args(Shown)


class Choice(NamedTuple):
    """A verdict's button: the mark says the same as the label, for the eye that already knows."""

    verdict: Verdict
    #: For a bar in which seven of them stand side by side.
    words: str
    mark: str
    #: The key of the usual preset; judge/keys.js writes another one where it is chosen.
    key: str


#: In spatial order, as are the keys.
SCALE = [
    Choice(Verdict.LEFT_MUCH, "Left, much better", "«", "A"),
    Choice(Verdict.LEFT, "Left, slightly", "‹", "S"),  # noqa: RUF001
    Choice(Verdict.TIE, "Equally good", "=", "D"),
    Choice(Verdict.RIGHT, "Right, slightly", "›", "F"),  # noqa: RUF001
    Choice(Verdict.RIGHT_MUCH, "Right, much better", "»", "G"),
]
OTHERS = [
    Choice(Verdict.BOTH_BAD, "Both bad", "×", "X"),  # noqa: RUF001
    Choice(Verdict.CANNOT_JUDGE, "Can't judge", "?", "Q"),
]


@dataclass(frozen=True, slots=True)
class Card:
    """One pair to read. Made without a query unless it was judged before: two are fetched for each judgement."""

    assignment: Assignment
    shown: Shown
    panes: Panes
    #: Why this pair, in small words; the same for all that should not be told apart.
    why: str
    #: What was said before it was taken back.
    taken_back: Verdict | None
    #: The same with reasons and note, or what stands.
    said: Judgement | None
    is_flagged: bool
    #: The number of the latest thing its labeler said about it, 0 for none.
    revision: int


@dataclass(frozen=True, slots=True)
class Screen:
    """A card, or why there is none, and what stands around it."""

    model: RegisteredModel
    card: Card | None
    waiting: Waiting | None
    policy: JudgingPolicy
    progress: JudgingProgress
    #: What one undo takes back.
    judged_last: Assignment | None

    @property
    def is_revision(self) -> bool:
        """Whether the pair was judged, and what was said may be changed."""
        card = self.card
        return bool(card and card.said and card.assignment.closed_at)


def shown_as(asked: str) -> Shown:
    """Return the view that is asked for; the usual one for nonsense."""
    return next((view for view in VIEWS if view == asked), VIEWS[0])


def card_of(assignment: Assignment, *, shown: Shown = VIEWS[0]) -> Card:
    """Return the card of a pair that was read for it. One query if its labeler judged it before, else none."""
    said = queries.said_before(assignment)
    taken_back = queries.verdict_taken_back(assignment)
    return Card(
        assignment=assignment,
        shown=shown,
        panes=answers.panes(assignment, shown),
        why=_why(assignment, said=said, taken_back=taken_back),
        taken_back=taken_back,
        said=said,
        is_flagged=assignment.is_flagged,  # type: ignore[attr-defined]
        revision=assignment.revision_last,  # type: ignore[attr-defined]
    )


def screen_of(*, model: RegisteredModel, labeler: User, assignment: Assignment | None) -> Screen:
    """Return the whole screen, as it is loaded once."""
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    return Screen(
        model=model,
        card=card_of(assignment) if assignment else None,
        waiting=None if assignment else waiting_for(model),
        policy=queries.policy_of(model),
        progress=queries.judging_progress(model=model, labeler=labeler, since=midnight),
        judged_last=queries.assignment_judged_last(model=model, labeler=labeler),
    )


def _why(assignment: Assignment, *, said: Judgement | None, taken_back: Verdict | None) -> str:
    """Say how a pair came here. Gold pairs and repeats are among the fresh ones: nothing tells them apart."""
    if taken_back:
        return "you took it back"
    if said:
        return "you judged it"
    if assignment.set_aside_at:
        return "you set it aside"
    if queries.is_own_prompt(assignment):
        return "you wrote it"
    return "second opinion" if queries.is_second_opinion(assignment) else "fresh"


#: What a template needs of the bar below the answers; the digit of a reason is its place.
BAR = {"scale": SCALE, "others": OTHERS, "reasons": REASONS, "cannot": CANNOT}
