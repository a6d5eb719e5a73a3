"""What a worker says of a Redis that refuses writes: once, and once that it is over."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import structlog

from celeriac.refused_writes import is_refused_write
from producer.broker import broker_error
from workers.exporter import STALE_S, health
from workers.heartbeat import Heartbeat
from workers.refusals import AGAIN_S, Refusals
from workers.roles import role_for

FULL = redis.exceptions.OutOfMemoryError(
    "Command # 1 (SET key {...}) of pipeline caused error: command not allowed"
)


def test_it_is_told_once_and_asked_again_after_a_while() -> None:
    now_s = [100.0]
    refusals = Refusals(lambda: now_s[0])
    assert (refusals.now, refusals.ago_s) == (False, math.inf)
    with structlog.testing.capture_logs() as said:
        refusals.note(FULL)
        assert refusals.now
        assert not refusals.is_due
        now_s[0] += AGAIN_S
        assert refusals.is_due
        refusals.note(FULL)
        assert not refusals.is_due
        now_s[0] += 1
        refusals.over()
        refusals.over()
    assert [one["log_level"] for one in said] == ["error", "warning"]
    assert said[0]["reason"] == "command not allowed"
    assert said[1]["refused_s"] == AGAIN_S + 1
    assert (refusals.now, refusals.ago_s) == (False, 1)


def test_any_other_error_is_raised() -> None:
    refusals = Refusals()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        refusals.note(redis.ResponseError("WRONGTYPE Operation against a key"))
    assert not refusals.now


@pytest.mark.parametrize("error", [
    FULL, redis.exceptions.ReadOnlyError("You can't write against a read only replica."),
    redis.ResponseError("MISCONF Errors writing to the AOF file"),
    redis.ResponseError("NOREPLICAS Not enough good replicas to write."),
])  # fmt: skip
def test_a_refused_write_is_no_missing_server(error: redis.RedisError) -> None:
    assert is_refused_write(error)
    assert "Is it running" not in broker_error(error, "redis://h/0").message
    assert not is_refused_write(redis.ConnectionError("MISCONF "))


def test_a_beat_that_is_refused_does_not_make_a_worker_look_dead() -> None:
    def refuse(**_: Any) -> None:
        raise FULL

    full: Any = SimpleNamespace(pipeline=refuse)
    worker = SimpleNamespace(celeriac_role=role_for(["maintenance"]), hostname="h", concurrency=1)
    heartbeat = worker.celeriac_heartbeat = Heartbeat(worker, full, None)
    heartbeat.last_beat -= STALE_S
    assert not health(worker, time.monotonic())[0]
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        heartbeat.beat()
    assert health(worker, time.monotonic())[0]
