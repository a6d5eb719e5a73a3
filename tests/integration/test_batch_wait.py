"""Waiting for a job while its Redis comes and goes. A server of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac import errors
from celeriac.jobs.ledger import JobState, Ledger
from celeriac.settings import BrokerSettings, ModelsSettings, Settings, StackSettings
from producer.broker import Broker
from producer.jobs import JobHandle, JobStatus
from workers.valkey import EmbeddedServer, free_port

AWAY_S = 0.3
"""The waiter looks each 10 ms or so at first."""


@pytest.fixture
def restarting(tmp_path: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "valkey", free_port())
    yield server
    server.stop()


@pytest.fixture
def broker(restarting: EmbeddedServer, tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(Settings(
        broker=BrokerSettings(url=restarting.url),
        stack=StackSettings(state_dir=tmp_path / "state"),
        models=ModelsSettings(root=tmp_path / "models"),
    ))
    yield broker
    broker.close()


def test_a_wait_outlasts_a_redis_that_restarts(
    restarting: EmbeddedServer, broker: Broker, tmp_path: Path
) -> None:
    restarting.start()
    ledger = Ledger(broker.redis, 600)
    ledger.announce("job-1", model="m", version=1, source="in.csv", output=str(tmp_path / "out"))
    handle = JobHandle(broker, "job-1", tmp_path / "out")
    looked, ended = threading.Event(), list[JobStatus]()
    waiter = threading.Thread(
        target=lambda: ended.append(handle.wait(60, lambda _: looked.set())), daemon=True
    )
    waiter.start()
    assert looked.wait(20)
    restarting.stop()
    time.sleep(AWAY_S)
    restarting.start()
    ledger.fail("job-1", "says the test")
    waiter.join(30)
    assert [(one.state, one.error) for one in ended] == [(JobState.FAILED, "says the test")]


def test_a_redis_that_was_never_there_is_told_at_once(broker: Broker, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(errors.BrokerError, match="Is it running"):
        JobHandle(broker, "job-1", tmp_path / "out").wait(600)
    assert time.monotonic() - began < 60
