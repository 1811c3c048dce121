"""What a labeler reads of their own judgements. Nobody else's are ever selected here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.contrib.auth.models import User
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Left
from django.utils import timezone

from annotate import queries as judging
from annotate.models import CANNOT, REASONS, Assignment, Flag, Judgement
from models_registry.models import RegisteredModel
from pairloop.pages.history_fates import Fate, Told, fates_of, told_of

#: Judgements of one page.
PAGE = 25
#: Characters of a prompt that a row shows.
BEGINNING = 200
#: Name in the address -> what it is called, and how many days it goes back; the first is no filter.
SPANS = {"": ("All", None), "today": ("Today", 0), "week": ("Last 7 days", 6)}
#: Stored -> shown. Others come over REST and are shown as they are.
WHY = dict([*REASONS, *CANNOT])


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which judgements to list."""

    verdict: str = ""
    has_note: bool = False
    is_flagged: bool = False
    #: A key of SPANS.
    span: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: behind this one. Times of two may be equal, their uuids are not."""

    closed_at: datetime
    uuid: UUID

    def __str__(self) -> str:
        """Return it for an address."""
        return f"{round(self.closed_at.timestamp() * 1_000_000)}-{self.uuid.hex}"

    @classmethod
    def read(cls, text: str) -> Place | None:
        """Return what an address says; None for anything else."""
        micros, _, uuid = text.partition("-")
        if not (micros.isascii() and micros.isdigit() and len(micros) < 18 and len(uuid) == 32):
            return None
        try:
            moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(micros))
            return cls(moment, UUID(uuid))
        except (ValueError, OverflowError):
            return None


@dataclass(frozen=True, slots=True)
class Row:
    """One judgement, and what became of it."""

    told: Told
    #: Of the prompt's last message.
    beginning: str
    fate: Fate
    #: The last one that was raised and not taken back.
    flag: Flag | None

    @property
    def judgement(self) -> Judgement:
        """What stands."""
        return self.told.standing

    @property
    def reasons(self) -> list[str]:
        """Why, in words."""
        return [WHY.get(reason, reason) for reason in self.judgement.reasons]

    @property
    def changes(self) -> int:
        """How often it was changed since it was first said."""
        return len(self.told.revisions) - 1

    @property
    def is_flagged(self) -> bool:
        """Whether staff was asked to look at the pair."""
        return self.flag is not None

    @property
    def is_late(self) -> bool:
        """Whether the first one came after the lease had ended; a change always does."""
        return self.told.first.is_late

    @property
    def active_ms(self) -> int:
        """Milliseconds of reading, all revisions together."""
        return active_ms_of(self.told.revisions)


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Some judgements, the newest first, and where the older ones begin."""

    rows: list[Row]
    #: For the address of the next page; None on the last.
    older: Place | None


def history_page(
    *, model: RegisteredModel, labeler: User, wanted: Wanted, before: Place | None
) -> HistoryPage:
    """Return somebody's newest judgements of a model, or those behind a place. Nine queries.

    Costs the same on every page, however many there are; a filter that few pass looks through all of one's own.
    """
    found = _wanted(judgements_of(model=model, labeler=labeler), wanted)
    if before is not None:
        found = found.filter(
            Q(assignment__closed_at__lt=before.closed_at) | Q(assignment__lt=before.uuid),
            assignment__closed_at__lte=before.closed_at,
        )
    page = list(found[: PAGE + 1])
    rows = rows_of(model, page[:PAGE])
    older = _place(page[PAGE - 1].assignment) if len(page) > PAGE else None
    return HistoryPage(rows=rows, older=older)


def judgements_of(*, model: RegisteredModel, labeler: User) -> QuerySet[Judgement, Judgement]:
    """Select somebody's own standing judgements with their prompts' beginnings, what was judged last first."""
    messages = KeyTransform("-1", "assignment__pair__prompt__messages")
    return (
        judging.judgements_standing()
        .filter(
            assignment__labeler=labeler,
            assignment__closed_at__isnull=False,
            assignment__pair__prompt__model=model,
        )
        .select_related("assignment__pair")
        # Without the prompts: a page of long ones would be megabytes.
        .annotate(beginning=Left(KeyTextTransform("content", messages), BEGINNING))
        .order_by("-assignment__closed_at", "-assignment")
    )


def _wanted(
    judgements: QuerySet[Judgement, Judgement], wanted: Wanted
) -> QuerySet[Judgement, Judgement]:
    if wanted.verdict:
        judgements = judgements.filter(verdict=wanted.verdict)
    if wanted.has_note:
        judgements = judgements.exclude(note="")
    if wanted.is_flagged:
        judgements = judgements.filter(
            Exists(flags_standing().filter(assignment=OuterRef("assignment")))
        )
    days = SPANS[wanted.span][1]
    if days is not None:
        judgements = judgements.filter(assignment__closed_at__gte=midnight(days_ago=days))
    return judgements


def flags_standing() -> QuerySet[Flag, Flag]:
    """Select the flags that their labeler did not take back."""
    return Flag.objects.filter(taken_back_at=None)


def midnight(*, days_ago: int = 0) -> datetime:
    """Return when a day began where the server is."""
    day = timezone.localtime() - timedelta(days=days_ago)
    return day.replace(hour=0, minute=0, second=0, microsecond=0)


def _place(assignment: Assignment) -> Place | None:
    return Place(assignment.closed_at, assignment.uuid) if assignment.closed_at else None


def rows_of(model: RegisteredModel, judgements: Sequence[Judgement]) -> list[Row]:
    """Tell of judgements as `judgements_of` selects them what was said before and what became of them."""
    revisions = revisions_of([judgement.assignment_id for judgement in judgements])
    told = told_of(judgements, revisions)
    fates = fates_of(model, told)
    raised = flags_standing().filter(assignment__in=[one.assignment_id for one in judgements])
    flags = {flag.assignment_id: flag for flag in raised.order_by("pk")}
    return [
        Row(
            told=one,
            beginning=_beginning(judgement),
            fate=fate,
            flag=flags.get(judgement.assignment_id),
        )
        for judgement, one, fate in zip(judgements, told, fates, strict=True)
    ]


def _beginning(judgement: Judgement) -> str:
    """Return what the query cut off the prompt."""
    text = str(getattr(judgement, "beginning", ""))
    return f"{text.rstrip()}…" if len(text) == BEGINNING else text


def revisions_of(assignments: Collection[UUID]) -> list[Judgement]:
    """Return everything that was said about assignments, the oldest first."""
    rows = Judgement.objects.filter(assignment__in=assignments)
    return list(rows.order_by("assignment", "revision"))


def row_of(*, model: RegisteredModel, labeler: User, uuid: UUID) -> Row:
    """Return one of somebody's own judgements. Raises Judgement.DoesNotExist."""
    judgement = judgements_of(model=model, labeler=labeler).get(assignment=uuid)
    return rows_of(model, [judgement])[0]


def active_ms_of(revisions: Sequence[Judgement]) -> int:
    """Add up the reading time of revisions, in milliseconds.

    A page goes on counting when a pair comes back to it, and repeats the time when only a reason is added; a time
    that is shorter than the one before was counted anew.
    """
    times = [revision.active_ms for revision in revisions]
    pairs = zip([0, *times], times, strict=False)
    return sum(now - before if now >= before else now for before, now in pairs)
