"""Messages that call workers to what the ledger of submissions holds; they carry no item."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import redis

from celeriac.keys import submission_line
from celeriac.messages import CONTRACT, MAINTENANCE_QUEUE, PREDICT_SUBMITTED, WEBHOOKS_DELIVER
from producer import wire

LINE_HEADER = "line"
DELIVERIES_EXPIRE_S = 60
"""The reconciler calls again: a maintenance role that was away finds no heap of calls."""


def call_to_line(queue: str, model: str) -> bytes:
    """A message that has one batch of a line predicted."""
    return wire.task_message(
        PREDICT_SUBMITTED, wire.new_id(), queue,
        {"model": model, "queue": queue, "v": CONTRACT}, shown={"model": model},
        ignore_result=True, extra={LINE_HEADER: submission_line(queue, model)},
    )


def publish_calls(client: redis.Redis, queue: str, model: str, count: int) -> None:
    """Call for ``count`` batches. Raises redis.RedisError."""
    if count > 0:
        client.lpush(queue, *(call_to_line(queue, model) for _ in range(count)))


def publish_deliveries(client: redis.Redis, hosts: Iterable[str]) -> None:
    """Have the webhooks to these hosts sent. Raises redis.RedisError."""
    for host in hosts:
        client.lpush(MAINTENANCE_QUEUE, wire.task_message(
            WEBHOOKS_DELIVER, wire.new_id(), MAINTENANCE_QUEUE, {"host": host, "v": CONTRACT},
            shown={"host": host}, ignore_result=True,
            expires_at=datetime.now(UTC) + timedelta(seconds=DELIVERIES_EXPIRE_S),
        ))  # fmt: skip
