"""Jobs. Each body is a late import and one call; the schedule is level-triggered."""

from __future__ import annotations

import logging
import random

from django.utils import timezone
from procrastinate import JobContext
from procrastinate.contrib.django import app

from models_registry import queries as registry
from models_registry import serving
from models_registry.engine.types import Engine, EngineError
from models_registry.models import RegisteredModel
from pairloop.lib import jobs

logger = logging.getLogger(__name__)


@app.periodic(cron="* * * * * */10")
@app.task(queue="sample", queueing_lock="pairs-top-up", pass_context=False)
def pairs_top_up(timestamp: int | None = None) -> None:
    """Top up the queue of every model that an engine serves, every ten seconds."""
    with jobs.alone("pairs-top-up") as is_alone:
        for url in serving.urls() if is_alone else []:
            _top_up_from(url)


def _top_up_from(url: str) -> None:
    with serving.engine(url) as engine:
        if not engine.ready():
            return
        try:
            served = engine.models()
        except EngineError as error:
            # It went away since; the next tick asks again.
            logger.warning("top-up stopped: %s", error)
            return
        for model in registry.models_served(served):
            _top_up(model, engine)


def _top_up(model: RegisteredModel, engine: Engine) -> None:
    from annotate import actions, comparisons

    chance = random.SystemRandom()
    try:
        done = actions.pairs_top_up(model=model, engine=engine, chance=chance)
        comparisons.pairs_top_up(model=model, engine=engine, chance=chance)
    except EngineError as error:
        # The next tick tries again; a labeler sees the waiting page meanwhile.
        logger.warning("top-up of %s stopped: %s", model, error)
        return
    if done.seconds and done.tokens:
        logger.info(
            "top-up of %s: %d pairs, %d tokens, %.0f tokens/s, left out %s",
            model, done.pairs, done.tokens, done.tokens / done.seconds, dict(done.drops),
        )  # fmt: skip


@app.periodic(cron="* * * * *")
@app.task(queue="default", queueing_lock="leases-release")
def leases_release(timestamp: int | None = None) -> None:
    """Give the pairs of expired leases back, and those that were kept for one labeler, every minute."""
    from annotate import judging, weak

    for model in registry.models_ready():
        judging.leases_release(model_id=model.pk, now=timezone.now())
    weak.reservations_end(now=timezone.now())


@app.periodic(cron="* * * * *")
@app.task(queue="default", queueing_lock="weak-spots-refresh")
def weak_spots_refresh(timestamp: int | None = None) -> None:
    """Find out where each model does badly, every minute."""
    from annotate import weak

    weak.spots_refresh(now=timezone.now())


@app.task(queue="default", pass_context=True)
def import_run(context: JobContext, import_id: int) -> None:
    """Store a file's preference pairs, or what is left of them."""
    from annotate import imports

    imports.import_run(import_id=import_id, should_stop=context.should_abort)


def import_defer(import_id: int) -> None:
    """Queue an import once; a second job for it would find nothing to do."""
    jobs.defer_once(import_run.configure(queueing_lock=f"import-{import_id}"), import_id=import_id)


@app.periodic(cron="* * * * * */10")
@app.task(queue="default", queueing_lock="imports-sweep")
def imports_sweep(timestamp: int | None = None) -> None:
    """Queue the imports that a dead worker has left, every ten seconds."""
    from annotate import imports

    imports.imports_sweep()


@app.periodic(cron="* * * * * */10")
@app.task(queue="default", queueing_lock="comparisons-settle")
def comparisons_settle(timestamp: int | None = None) -> None:
    """End the comparisons that are decided or used up, every ten seconds."""
    from annotate import comparisons

    comparisons.comparisons_settle(now=timezone.now())


@app.task(queue="sample")
def answers_write(*, candidate_id: int, incumbent_id: int) -> None:
    """Have the engine write what the page about two versions lacks."""
    from annotate import comparisons

    versions = registry.versions_by_id([candidate_id, incumbent_id])
    with serving.engine(serving.url_of(versions[0].model.slug)) as engine:
        try:
            comparisons.answers_write(versions=versions, engine=engine)
        except EngineError as error:
            # What it wrote so far is kept; the page offers to go on.
            logger.warning("answers of %s stopped: %s", versions, error)
