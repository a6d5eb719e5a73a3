"""A worker beats while a version is loaded, and never after its farewell."""

from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from celeriac.host import ModelHost
from celeriac.keys import lanes_key, worker_key
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.settings import Settings
from tests.waiting import WAIT_S, wait_until
from workers import heartbeat
from workers.roles import ROLES


class SlowHost(ModelHost):
    """It refreshes for as long as it is told to."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry, LoadOptions())
        self.is_loading, self.may_end, self.has_ended = (threading.Event() for _ in range(3))

    def refresh(self, *, adopts: bool | None = None) -> None:
        self.is_loading.set()
        assert self.may_end.wait(2 * WAIT_S)

    def tidy(self) -> None:
        self.has_ended.set()


def test_a_long_load_neither_stops_the_beats_nor_revives_a_worker_that_has_left(
    settings: Settings, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = SlowHost(Registry(settings.models.root))
    for name, value in (
        ("BEAT_S", 0.05), ("FOLLOW_S", 0.05), ("get_host", lambda: host),
        ("get_settings", lambda: settings),
    ):  # fmt: skip
        monkeypatch.setattr(heartbeat, name, value)
    worker: Any = SimpleNamespace(
        celeriac_role=ROLES[0], celeriac_predicts=True, hostname="slow@host", concurrency=1
    )
    parent = SimpleNamespace(controller=worker)
    step = heartbeat.HeartbeatStep(parent)
    step.start(parent)
    assert host.is_loading.wait(20)
    for _ in range(2):  # a beat at the start alone would not do
        redis_client.delete(worker_key("slow@host"))
        wait_until(lambda: bool(redis_client.exists(worker_key("slow@host"))))
    step.shutdown(parent)
    assert not redis_client.exists(worker_key("slow@host"))
    host.may_end.set()
    assert host.has_ended.wait(20)  # after what follows the load
    assert not redis_client.exists(worker_key("slow@host"))


def wrong_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """By how many seconds the clock of heartbeats is ahead."""
    ahead_s = [0.0]
    clock = SimpleNamespace(time=lambda: time.time() + ahead_s[0], monotonic=time.monotonic)
    monkeypatch.setattr(heartbeat, "time", clock)
    return ahead_s


def beating(hostname: str, client: redis.Redis) -> heartbeat.Heartbeat:
    worker: Any = SimpleNamespace(celeriac_role=ROLES[0], hostname=hostname, concurrency=1)
    return heartbeat.Heartbeat(worker, client, None)


def test_a_worker_with_a_wrong_clock_is_one_lane_among_the_others(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead_s = wrong_clock(monkeypatch)
    lane = SimpleNamespace(workers=0)
    for number, ahead_s[0] in enumerate((0.0, -3_600.0, 3_600.0, 0.0), start=1):
        one = beating(f"lane-{number}@host", redis_client)
        one._worker.celeriac_lane = lane
        one.beat()
        assert lane.workers == number
    scores = [score for _, score in redis_client.zrange(lanes_key("cpu"), 0, -1, withscores=True)]
    assert max(scores) - min(scores) < 60  # who is killed is forgotten as soon as any other


def said(hostname: str, client: redis.Redis) -> dict[str, Any]:
    text: Any = client.get(worker_key(hostname))
    return dict(json.loads(text))


def test_a_worker_says_that_its_clock_is_not_that_of_redis(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead_s = wrong_clock(monkeypatch)
    one = beating("ahead@host", redis_client)
    with capture_logs() as lines:
        for ahead_s[0] in (0.0, 3_600.0, -3_600.0, 0.0):
            one.beat()  # measures
            one.beat()  # says it
            told_s = said("ahead@host", redis_client)["clock_ahead_s"]
            assert told_s == pytest.approx(ahead_s[0], abs=30)
    assert len(lines) == 1
    assert "clocks of this worker and of Redis differ" in lines[0]["event"]


def test_a_second_worker_of_a_name_is_noticed_and_one_that_was_killed_before_is_not(
    redis_client: redis.Redis
) -> None:
    killed = beating("twin@host", redis_client)
    killed.beat()
    one = beating("twin@host", redis_client)  # of the same pid here: told by when it was started
    for _ in range(3):
        one.beat()
    assert said("twin@host", redis_client)["namesake"] is None
    other = beating("twin@host", redis_client)
    for _ in range(2):
        other.beat()
        one.beat()
    one.beat()
    assert said("twin@host", redis_client)["namesake"] is not None
    for _ in range(2):
        one.beat()
    assert said("twin@host", redis_client)["namesake"] is None
