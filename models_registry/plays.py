"""The playground's writes: ask, answer, pick. Nothing here is a judgement, an outcome or a triple."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import F

from models_registry import play_queries, queries, tasks
from models_registry.engine.types import (
    Engine,
    EngineError,
    EngineModelUnknown,
    EngineUnreachable,
    Message,
    Sampling,
)
from models_registry.models import ModelVersion, Play, RegisteredModel
from pairloop.lib import jobs
from pairloop.lib.errors import Refused

logger = logging.getLogger(__name__)

#: Questions of one person that may wait at once.
MOST_WAITING = 5
#: Questions that the engine is asked at once.
BATCH = 4
#: The engine may fail at a question this often for reasons of its own.
MOST_TRIES = 3
#: Nobody comes back for an answer after this long.
PATIENCE = timedelta(days=1)


class TooManyWaiting(Refused):
    """Five of your questions wait for their answers already. Ask again when one of them is answered."""

    code = "too_many_waiting"


class VersionTwice(Refused):
    """Choose two different versions: the same one would answer twice."""

    code = "version_twice"


class VersionUnplayable(Refused):
    """Only verified versions answer in the playground."""

    code = "version_unplayable"


class UuidTaken(Refused):
    """This id belongs to another question already. Send yours once more; it gets an id of its own."""

    code = "uuid_taken"


class NothingToPick(Refused):
    """There are no answers to pick from yet."""

    code = "nothing_to_pick"


class PickElsewhere(Refused):
    """Only who asked a question picks its better answer. Ask it again to pick yourself."""

    code = "pick_elsewhere"


class PickedAlready(Refused):
    """The first pick stands: the names are known since. Ask again to pick again."""

    code = "picked_already"


@transaction.atomic
def play_ask(
    *,
    model: RegisteredModel,
    by: User,
    uuid: UUID,
    messages: Sequence[Message],
    versions: tuple[ModelVersion, ModelVersion],
    is_blind: bool,
    sampling: Sampling,
    chance: random.Random,
) -> tuple[Play, bool]:
    """Note a question and let the worker ask it; asked twice, it is the same one. True: it is new.

    Chance decides the sides. Locks the asker. Raises TooManyWaiting, VersionTwice, VersionUnplayable,
    UuidTaken.
    """
    asker = User.objects.select_for_update(no_key=True).get(pk=by.pk)
    before = Play.objects.filter(pk=uuid).first()
    if before:
        # Back, another text, sent again: that is another question.
        asked = (before.model_id, before.asked_by_id, before.messages)
        if asked != (model.pk, asker.pk, [dict(message) for message in messages]):
            raise UuidTaken
        return before, False
    _check_versions(versions)
    if asker.plays.filter(state=Play.State.WAITING).count() >= MOST_WAITING:
        raise TooManyWaiting
    left, right = chance.sample(versions, 2)
    play = Play.objects.create(
        uuid=uuid,
        model=model,
        asked_by=asker,
        messages=[dict(message) for message in messages],
        left_version=left,
        right_version=right,
        is_blind=is_blind,
        sampling={
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        },
    )
    jobs.defer_once(tasks.plays_answer)
    return play, True


def _check_versions(versions: tuple[ModelVersion, ModelVersion]) -> None:
    if versions[0] == versions[1]:
        raise VersionTwice
    for version in versions:
        if not version.is_verified:
            raise VersionUnplayable(
                f"{version.label} is {version.state}; only verified versions answer here. "
                "Choose another one."
            )


@transaction.atomic
def play_pick(*, play: Play, by: User, pick: str, now: datetime) -> Play:
    """Keep which answer its asker found better. Repeating it changes nothing.

    Raises PickElsewhere, NothingToPick, PickedAlready.
    """
    locked = Play.objects.select_for_update().get(pk=play.pk)
    if locked.asked_by_id != by.pk:
        raise PickElsewhere
    if not locked.is_answered:
        raise NothingToPick
    if locked.pick not in {"", pick}:
        raise PickedAlready
    if not locked.pick:
        locked.pick, locked.picked_at = Play.Pick(pick), now
        locked.save(update_fields=["pick", "picked_at"])
    return play_queries.play_of(model=play.model, uuid=play.pk)


# --- Answers -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    tokens: int
    finish_reason: str
    seconds: float


def plays_answer(*, engine: Engine, now: Callable[[], datetime]) -> None:
    """Let an engine answer every question whose versions it has, until none is left.

    Level-triggered: what it cannot answer stays as it is for the next tick. The engine is never called
    inside a transaction.
    """
    plays_expire(now=now())
    tried: set[UUID] = set()
    while batch := _answerable(engine, tried):
        tried.update(play.pk for play in batch)
        _ask(engine, batch, now=now)


def plays_expire(*, now: datetime) -> None:
    """Give up on questions that have waited for a day, or their asker could never ask again."""
    Play.objects.filter(state=Play.State.WAITING, created_at__lt=now - PATIENCE).update(
        state=Play.State.FAILED,
        failure="The engine had no answer within a day. Ask again once it runs.",
    )


def _answerable(engine: Engine, tried: set[UUID]) -> list[Play]:
    """Return some questions that an engine can answer now; those that none ever will have failed."""
    waiting = play_queries.plays_waiting(without=tried)
    if not waiting:
        return []
    try:
        names = engine.models()
    except EngineError as error:
        logger.info("%d questions wait for the engine: %s", len(waiting), error)
        return []
    found = []
    for play in waiting:
        if reason := _obstacle(play):
            _fail(play, reason)
        elif all(queries.version_is_served(version, names) for version in play.versions):
            found.append(play)
    return found[:BATCH]


def _obstacle(play: Play) -> str:
    """Say why a question will never be answered; empty while it may be, if only by another engine."""
    for version in play.versions:
        if not version.is_verified:
            return f"{version.label} is {version.state} by now. Ask another version."
        if failure := queries.canary_failure(version):
            return f"{failure}. Ask another version."
    return ""


def _ask(engine: Engine, batch: list[Play], *, now: Callable[[], datetime]) -> None:
    """Ask a batch at once; keep each question's answers as soon as both are there."""
    with ThreadPoolExecutor(max_workers=len(batch)) as pool:
        asked = {pool.submit(_both, engine, play): play for play in batch}
        for future in as_completed(asked):
            play = asked[future]
            try:
                left, right = future.result()
            except EngineUnreachable as error:
                logger.info("%s waits for the engine: %s", play, error)
            except EngineError as error:
                _try_failed(play, error)
            else:
                _answered(play, left=left, right=right, now=now())


def _both(engine: Engine, play: Play) -> tuple[_Answer, _Answer]:
    """Ask both versions side by side."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        left, right = (
            pool.submit(_one, engine, play, version.served_name) for version in play.versions
        )
        return left.result(), right.result()


def _one(engine: Engine, play: Play, name: str) -> _Answer:
    began = time.monotonic()
    sampled = engine.sample(
        model=name, messages=play.messages, sampling=Sampling(n=1, **play.sampling)
    )
    (completion,) = sampled.completions
    return _Answer(
        # PostgreSQL cannot store NUL.
        text=completion.text.replace("\x00", "\N{REPLACEMENT CHARACTER}"),
        tokens=len(completion.token_ids),
        finish_reason=completion.finish_reason,
        seconds=round(time.monotonic() - began, 2),
    )


def _answered(play: Play, *, left: _Answer, right: _Answer, now: datetime) -> None:
    Play.objects.filter(pk=play.pk, state=Play.State.WAITING).update(
        state=Play.State.ANSWERED,
        answered_at=now,
        left_text=left.text,
        right_text=right.text,
        left_tokens=left.tokens,
        right_tokens=right.tokens,
        left_finish_reason=left.finish_reason,
        right_finish_reason=right.finish_reason,
        left_seconds=left.seconds,
        right_seconds=right.seconds,
    )


def _try_failed(play: Play, error: EngineError) -> None:
    """Count one more try, or give up: at once when the engine would refuse it again."""
    logger.warning("%s was not answered: %s", play, error)
    # A version that it listed a moment ago: the engine was started again, and loads it again.
    is_final = error.permanent and not isinstance(error, EngineModelUnknown)
    if is_final or play.tries + 1 >= MOST_TRIES:
        _fail(play, f"{error} Shorten the question if it is long, and ask again.")
    else:
        Play.objects.filter(pk=play.pk).update(tries=F("tries") + 1)


def _fail(play: Play, reason: str) -> None:
    Play.objects.filter(pk=play.pk, state=Play.State.WAITING).update(
        state=Play.State.FAILED, failure=reason
    )
