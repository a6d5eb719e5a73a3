"""Tasks of batch jobs that run in the process of a test, which is their worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

import tasks.batch
import tasks.broker
from celeriac import host
from celeriac.messages import (
    BATCH_CHUNK,
    BATCH_FINALIZE,
    BATCH_PLAN,
    BATCH_PLAN_DATASET,
    MAINTENANCE_QUEUE,
    batch_queue,
)
from celeriac.settings import Settings

QUEUE = batch_queue("cpu")
_TASKS = {
    BATCH_PLAN_DATASET: tasks.batch.plan_dataset,
    BATCH_PLAN: tasks.batch.plan, BATCH_CHUNK: tasks.batch.chunk,
    BATCH_FINALIZE: tasks.batch.finalize,
}


@contextmanager
def run_here(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tasks use a test's settings, and models of its registry."""
    for module in (tasks.batch, tasks.broker):
        monkeypatch.setattr(module, "get_settings", lambda: settings)
    tasks.broker.kept_broker.cache_clear()
    host.set_host(host.make_host(settings))
    yield
    tasks.broker.kept_broker().close()
    tasks.broker.kept_broker.cache_clear()
    host.set_host(None)


def run_message(message: dict[str, Any]) -> None:
    """Run the task of a message as a worker would, here."""
    _, kwargs, _ = json.loads(message["body"])
    queue = message["properties"]["delivery_info"]["routing_key"]
    _TASKS[message["headers"]["task"]].apply(kwargs=kwargs, routing_key=queue)


def work(client: redis.Redis, *, chunks: int | None = None, twice: bool = False) -> int:
    """Run what is queued: some chunks, or all of them and the finalisers; how many messages."""
    done = 0
    while chunks is None or done < chunks:
        raw = client.rpop(QUEUE) or (client.rpop(MAINTENANCE_QUEUE) if chunks is None else None)
        if raw is None:
            break
        for _ in range(2 if twice else 1):
            run_message(json.loads(raw))
        done += 1
    return done
