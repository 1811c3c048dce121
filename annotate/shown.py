"""What is shown of an assignment, read in one go: Django would write such a statement anew each time, and plan it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db.models import Model

from annotate.models import Assignment, Completion, JudgingPolicy, Pair, Prompt, QueueEntry
from models_registry.models import RegisteredModel
from pairloop.lib.statements import Columns, Statement

#: Nobody is shown it, and it takes time to read.
_UNSHOWN = ["prompt_ids", "completion_ids", "sampling"]
#: Which tables a shown assignment is read from, in the order of their columns.
_TABLES = {
    "lease": Columns("lease", Assignment),
    "pair": Columns("pair", Pair),
    "prompt": Columns("prompt", Prompt),
    "model": Columns("model", RegisteredModel),
    "first": Columns("first", Completion, unread=_UNSHOWN),
    "second": Columns("second", Completion, unread=_UNSHOWN),
    "policy": Columns("policy", JudgingPolicy),
    "entry": Columns("entry", QueueEntry),
}


def select_from(lease: str, *, pair: str = "annotate_pair") -> str:
    """Return a SELECT over what `lease` names, for `assignment_from`; `pair` is where its pair is.

    What a statement writes it cannot read again, but it can show what its own parts RETURN.
    """
    return f"""
    SELECT ARRAY(
               SELECT verdict FROM annotate_judgement
               WHERE assignment_id = lease.uuid ORDER BY revision DESC LIMIT 2
           ),
           EXISTS (
               SELECT FROM models_registry_membership
               WHERE model_id = prompt.model_id AND user_id = lease.labeler_id
           ),
           EXISTS (
               SELECT FROM annotate_flag
               WHERE assignment_id = lease.uuid AND taken_back_at IS NULL AND resolved_at IS NULL
           ),
           coalesce((SELECT max(revision) FROM annotate_judgement WHERE assignment_id = lease.uuid), 0),
           {", ".join(columns.sql for columns in _TABLES.values())}
    FROM {lease} lease
    JOIN {pair} pair ON pair.id = lease.pair_id
    JOIN annotate_prompt prompt ON prompt.id = pair.prompt_id
    JOIN models_registry_registeredmodel model ON model.id = prompt.model_id
    JOIN annotate_completion first ON first.id = pair.first_id
    JOIN annotate_completion second ON second.id = pair.second_id
    LEFT JOIN annotate_judgingpolicy policy ON policy.model_id = model.id
    LEFT JOIN annotate_queueentry entry ON entry.pair_id = pair.id
    """  # noqa: S608 columns and names of ours


ONE = Statement(
    "judging_shown",
    f"{select_from('annotate_assignment')} WHERE lease.uuid = %(uuid)s",
)


def assignment(uuid: UUID) -> Assignment | None:
    """Return an assignment with all that is shown of it, in one statement; None when there is none."""
    row = ONE.row({"uuid": uuid})
    return assignment_from(row) if row else None


def assignment_from(row: Sequence[Any]) -> Assignment:
    """Return the assignment of a row of `select_from`, with pair, prompt, model, policy, completions and entry.

    `verdicts_last` holds the two latest things that its labeler said, if any; `is_of_member` whether the labeler
    is a member of the model; `is_flagged` whether their flag waits for staff; `revision_last` the number of the
    latest thing they said, 0 for none.
    """
    found, at = {}, 4
    for name, columns in _TABLES.items():
        found[name] = columns.instance(row[at : at + len(columns)])
        at += len(columns)
    lease, pair = found["lease"], found["pair"]
    lease.pair, pair.prompt, pair.first, pair.second = (
        pair, found["prompt"], found["first"], found["second"],
    )  # fmt: skip
    pair.prompt.model = found["model"]
    # Known to be absent is known, too: else whoever looks asks the database.
    _one_to_one(RegisteredModel, "judging_policy").set_cached_value(found["model"], found["policy"])
    _one_to_one(Pair, "queue_entry").set_cached_value(pair, found["entry"])
    lease.verdicts_last, lease.is_of_member, lease.is_flagged, lease.revision_last = row[:4]
    return lease  # type: ignore[no-any-return]


def _one_to_one(kind: type[Model], name: str) -> Any:
    return kind._meta.get_field(name)  # noqa: SLF001
