"""Workers that are killed while they analyse: no reading is lost, none is analysed twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.settings import BrokerSettings, SensorSettings, Settings, StackSettings
from producer.applications.sensors import Answer, Sensors
from producer.client import Client
from tests.conftest import Worker
from workers.valkey import EmbeddedServer, free_port

pytestmark = pytest.mark.uncounted

SENSORS, READINGS, BATCH = 20, 95, 10
SLOW = Path(__file__).parent / "slow"
T0 = 1_700_000_000.0


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Settings]:
    server = EmbeddedServer(tmp_path / "valkey", free_port())
    server.start()
    yield Settings(
        broker=BrokerSettings(url=server.url),
        stack=StackSettings(state_dir=tmp_path / "state", metrics_port=0),
        sensors=SensorSettings(
            batch_readings=BATCH, batch_s=2, lease_s=2, max_attempts=20, kept_analyses=1_000
        ),
    )
    server.stop()


@pytest.mark.timeout(180)
def test_killed_in_the_middle_of_an_analysis(
    stack: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batch workers whose analyses take a while; one is killed again and again. The sweep,
    which beat would send, is called here."""
    monkeypatch.setenv("PYTHONPATH", str(SLOW))
    for module in ("tasks.sensors", "tasks.broker"):
        monkeypatch.setattr(f"{module}.get_settings", lambda: stack)
    from tasks import sensors as tasks
    from tasks.broker import kept_broker

    kept_broker.cache_clear()
    workers = [start(stack, tmp_path) for _ in range(2)]
    kills = 0
    try:
        for worker in workers:
            worker.wait_ready()
        with Client(settings=stack) as client:
            sensors = Sensors(client)
            send(sensors)
            while missing := READINGS * SENSORS - analysed(sensors):
                tasks.sweep()
                if kills < 4 and is_under_way(client):
                    workers[kills % 2].kill()
                    workers[kills % 2] = start(stack, tmp_path)
                    kills += 1
                time.sleep(0.3)
                assert missing > 0, "some were analysed twice"
            check(sensors)
            assert client.broker.redis.zcard("celeriac:sensors:ready") == 0
            assert not client.broker.redis.keys("celeriac:sensors:batch:*")
        assert kills == 4
    finally:
        for worker in workers:
            worker.kill()
        kept_broker().close()
        kept_broker.cache_clear()


def start(settings: Settings, folder: Path) -> Worker:
    log = folder / f"batch-{time.monotonic_ns()}.log"
    return Worker(settings, "batch.cpu", log, "-c", "1", "-I", "slow_analyses")


def send(sensors: Sensors) -> None:
    for at in range(0, READINGS, 5):
        answers = sensors.ingest([
            {"sensor": f"s{sensor}", "at": T0 + at + step, "value": float(step)}
            for sensor in range(SENSORS) for step in range(5)
        ])  # fmt: skip
        assert all(isinstance(one, Answer) for one in answers)


def is_under_way(client: Client) -> bool:
    """True if a batch is leased: its score lies ahead."""
    ahead_ms = (time.time() + 0.5) * 1_000
    return bool(client.broker.redis.zcount("celeriac:sensors:ready", ahead_ms, "+inf"))


def every(sensors: Sensors, look: Callable[[dict[str, Any]], int]) -> int:
    return sum(
        look(one) for sensor in range(SENSORS) for one in sensors.analyses(f"s{sensor}", 1_000)
    )


def analysed(sensors: Sensors) -> int:
    return every(sensors, lambda one: int(one["readings"]))


def check(sensors: Sensors) -> None:
    """Each sensor's batches follow each other without a hole, and none comes twice."""
    for sensor in range(SENSORS):
        batches = sorted(sensors.analyses(f"s{sensor}", 1_000), key=lambda one: one["number"])
        assert not any("error" in one for one in batches)
        assert [one["number"] for one in batches] == list(range(1, len(batches) + 1))
        first = 1
        for one in batches:
            assert one["first"] == first
            first += one["readings"]
        assert first == READINGS + 1
