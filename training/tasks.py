"""Jobs. Each body is a late import and one call; what is due is seen from the state, not from the clock."""

from __future__ import annotations

import socket

from django.utils import timezone
from procrastinate import JobContext
from procrastinate.contrib.django import app

from pairloop.lib import jobs


@app.task(queue="train", pass_context=True)
def round_run(context: JobContext, round_id: int) -> None:
    """Train one round, unless it has ended or somebody else is at it."""
    from training import runner

    runner.round_run(
        round_id=round_id,
        worker=f"{socket.gethostname()}:{context.job.id}",
        should_stop=context.should_abort,
    )


def round_defer(round_id: int) -> None:
    """Queue a round once; a second job for it would find nothing to do, and need not wait in line."""
    jobs.defer_once(round_run.configure(queueing_lock=f"round-{round_id}"), round_id=round_id)


@app.periodic(cron="* * * * *")
@app.task(queue="default", queueing_lock="rounds-due")
def rounds_due(timestamp: int | None = None) -> None:
    """Start the rounds for which enough triples wait, every minute."""
    from training import actions

    actions.rounds_due(now=timezone.now())


@app.periodic(cron="* * * * * */10")
@app.task(queue="default", queueing_lock="rounds-sweep")
def rounds_sweep(timestamp: int | None = None) -> None:
    """Queue the rounds that a dead worker has left, every ten seconds."""
    from training import actions

    actions.rounds_sweep()


@app.periodic(cron="* * * * * */10")
@app.task(queue="sample", queueing_lock="rounds-evaluate")
def rounds_evaluate(timestamp: int | None = None) -> None:
    """Measure the versions that are served by now, every ten seconds, and settle which version samples."""
    from training import evaluation

    evaluation.rounds_evaluate(now=timezone.now)
