"""Housekeeping of the queue itself."""

from __future__ import annotations

from procrastinate import JobContext
from procrastinate.contrib.django import app
from procrastinate.jobs import Status

#: Seconds without a heartbeat after which a job's worker counts as gone.
SILENT_S = 60


@app.periodic(cron="* * * * *")
@app.task(queue="default", queueing_lock="jobs-tidy", pass_context=True)
async def jobs_tidy(context: JobContext, timestamp: int | None = None) -> None:
    """Forget the jobs whose worker was killed, every minute.

    They are not run again: what the queues do looks at what is missing, and the next tick does it; a round
    is queued anew once its lease has ended.
    """
    manager = context.app.job_manager
    for queue in ("default", "sample", "train"):
        for job in await manager.get_stalled_jobs(queue=queue, seconds_since_heartbeat=SILENT_S):
            await manager.finish_job(job, status=Status.FAILED, delete_job=True)
