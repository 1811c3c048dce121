"""Jobs. Each body is a late import and one call; the schedule is level-triggered."""

from __future__ import annotations

from django.utils import timezone
from procrastinate.contrib.django import app

from models_registry import serving
from pairloop.lib import jobs


@app.periodic(cron="* * * * * */10")
@app.task(queue="default", queueing_lock="engine-reconcile", pass_context=False)
def engine_reconcile(timestamp: int | None = None) -> None:
    """Bring what is wanted into the engines and check it, every ten seconds."""
    from models_registry import actions

    with jobs.alone("engine-reconcile") as is_alone:
        for url in serving.urls() if is_alone else []:
            with serving.engine(url) as engine:
                actions.engine_reconcile(engine=engine, engine_url=url, now=timezone.now())


@app.periodic(cron="* * * * * */10")
@app.task(queue="default", queueing_lock="plays-answer", pass_context=False)
def plays_answer(timestamp: int | None = None) -> None:
    """Let the engines answer what was asked in the playground: when it is asked, and every ten seconds."""
    from models_registry import plays

    with jobs.alone("plays-answer") as is_alone:
        for url in serving.urls() if is_alone else []:
            with serving.engine(url) as engine:
                plays.plays_answer(engine=engine, now=timezone.now)
