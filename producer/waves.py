"""The messages of a job: waves of chunks, each a Celery group, and the finaliser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from celeriac.jobs.ledger import Change, JobEntry, Sweep
from celeriac.jobs.plan import JobPlan
from celeriac.messages import (
    BATCH_CHUNK,
    BATCH_FINALIZE,
    BATCH_PLAN,
    CONTRACT,
    MAINTENANCE_QUEUE,
    batch_queue,
)
from producer import wire
from producer.broker import Broker

GROUP_CHUNKS = 500
"""Chunks of one Celery group, at most."""
KILL_AFTER_S = 30
"""A chunk ends its own process when its time is over; after this, Celery does."""


@dataclass(frozen=True)
class Job:
    """What a message says of its job."""

    id: str
    output: str
    device: str
    model: str
    """As ``reviews@3``."""

    @classmethod
    def of_plan(cls, plan: JobPlan, output: str) -> Job:
        return cls(plan.job_id, output, plan.scoring.device, plan.scoring.ref)

    @classmethod
    def of_entry(cls, entry: JobEntry) -> Job:
        return cls(entry.job_id, entry.output, entry.device, f"{entry.model}@{entry.version}")

    @property
    def queue(self) -> str:
        return batch_queue(self.device)


def publish(broker: Broker, job: Job, change: Change | Sweep) -> None:
    """Publish what a change of the ledger asks for. Raises redis.RedisError."""
    publish_chunks(broker, job, change.wave)
    if change.completes:
        publish_finalizer(broker.redis, job.id, job.output)


def publish_chunks(
    broker: Broker, job: Job, chunks: Sequence[int], *, delay_s: float = 0
) -> None:
    """Queue chunks, to begin after ``delay_s``: each group is one exchange with Redis.

    A message carries references, never rows. Raises redis.RedisError; the reconciler publishes
    again what was lost.
    """
    limit_s = broker.settings.batch.chunk_timeout_s + KILL_AFTER_S
    eta = (datetime.now(UTC) + timedelta(seconds=delay_s)).isoformat() if delay_s else None
    for start in range(0, len(chunks), GROUP_CHUNKS):
        group = wire.new_id()
        messages = [
            _chunk_message(job, chunk, group, index, limit_s, eta)
            for index, chunk in enumerate(chunks[start : start + GROUP_CHUNKS])
        ]
        broker.redis.lpush(job.queue, *messages)


def publish_plan(client: redis.Redis, job_id: str, device: str) -> None:
    """Have an ordered job planned by the next batch process that is free: its message goes to the
    head of the queue. One too many changes nothing. Raises redis.RedisError.
    """
    kwargs, queue = {"v": CONTRACT, "job_id": job_id}, batch_queue(device)
    client.rpush(
        queue,
        wire.task_message(
            BATCH_PLAN, wire.new_id(), queue, kwargs, shown={"job_id": job_id},
            ignore_result=True, extra={"job_id": job_id},
        ),
    )


def publish_finalizer(client: redis.Redis, job_id: str, output: str) -> None:
    """Queue the finaliser of a job. One too many changes nothing. Raises redis.RedisError."""
    kwargs = {"v": CONTRACT, "job_id": job_id, "output": output}
    client.lpush(
        MAINTENANCE_QUEUE,
        wire.task_message(
            BATCH_FINALIZE, wire.new_id(), MAINTENANCE_QUEUE, kwargs, shown={"job_id": job_id},
            ignore_result=True, extra={"job_id": job_id},
        ),
    )


def _chunk_message(  # noqa: PLR0913, PLR0917 - what one message says
    job: Job, chunk: int, group: str, index: int, limit_s: int, eta: str | None
) -> bytes:
    kwargs = {"v": CONTRACT, "job_id": job.id, "chunk_no": chunk, "output": job.output}
    extra: dict[str, Any] = {
        "job_id": job.id, "chunk_no": chunk, "group": group, "group_index": index, "eta": eta,
        "timelimit": (limit_s, None),
    }
    return wire.task_message(
        BATCH_CHUNK, wire.new_id(), job.queue, kwargs,
        shown={"job_id": job.id, "chunk_no": chunk, "model": job.model},
        ignore_result=True, extra=extra,
    )
