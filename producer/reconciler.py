"""Puts right what was lost of batch jobs: leases that lapsed, messages, planners, finalisers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from celeriac.jobs.ledger import Ledger
from producer import waves
from producer.broker import Broker
from producer.queues import headers_in
from producer.waves import Job

QUEUED_S = 10.0
"""A chunk that has been queued for so long is looked for in its queue."""
FINALIZER_S = 30.0
"""A finaliser that has not been heard of for so long is sent again."""
PLAN = -1
"""Stands for a job's plan where the others are its chunks."""
MOST_CHUNKS = 500
"""Chunks of one job that one run sends again, at most."""


def reconcile(broker: Broker, ledger: Ledger, *, queued_s: float = QUEUED_S) -> dict[str, int]:
    """One look at every job that has not ended; what was sent again, by its kind.

    Costs one exchange if there is none. Raises redis.RedisError; the next run goes on.
    """
    counts: Counter[str] = Counter()
    present: dict[str, set[tuple[str, int]] | None] = {}
    for job_id in ledger.active():
        sweep = ledger.sweep(
            job_id, most=MOST_CHUNKS, queued_s=queued_s, finalizer_s=FINALIZER_S
        )
        entry = ledger.entry(job_id)
        if entry is None:
            continue
        job = Job.of_entry(entry)
        waves.publish(broker, job, sweep)
        counts["chunks"] += len(sweep.wave)
        counts["finalizers"] += int(sweep.completes)
        if (sweep.suspects or sweep.plans) and job.queue not in present:
            present[job.queue] = messages_of(broker, job.queue)
        if sweep.plans and _lost(job_id, [PLAN], present[job.queue]):
            waves.publish_plan(broker.redis, job_id, job.device)
            counts["plans"] += 1
        if sweep.suspects:
            lost = _lost(job_id, sweep.suspects, present[job.queue])
            again = ledger.requeue_vanished(job_id, lost, queued_s) if lost else ()
            waves.publish_chunks(broker, job, again)
            counts["messages"] += len(again)
    return {what: count for what, count in counts.items() if count}


def messages_of(broker: Broker, queue: str) -> set[tuple[str, int]] | None:
    """Job and chunk (or PLAN) of each message that waits in a queue or is in a worker's hands.

    None if there are too many to look through.
    """
    headers = headers_in(broker, queue, queue)
    if headers is None:
        return None
    return {
        (str(one["job_id"]), int(one.get("chunk_no", PLAN))) for one in headers if "job_id" in one
    }


def _lost(
    job_id: str, suspects: Sequence[int], present: set[tuple[str, int]] | None
) -> list[int]:
    if present is None:
        return []
    return [chunk for chunk in suspects if (job_id, chunk) not in present]
