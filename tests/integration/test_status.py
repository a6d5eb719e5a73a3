"""``celeriac status``, the health check and their reading of Redis."""

from __future__ import annotations

import io
import json
import os
import socket
import time
from typing import Any

import pytest
import redis
from rich.console import Console

from celeriac import errors
from celeriac.keys import beat_key, gateway_key, worker_key
from celeriac.registry.catalogue import Catalogue, ModelInfo, VersionInfo, publish
from celeriac.registry.manifest import InputSchema, OutputSchema
from celeriac.settings import BrokerSettings, Settings
from workers import healthcheck
from workers.cli.status import duration, render
from workers.healthcheck import beating, refusal
from workers.status import oldest_s, queue_names, snapshot
from workers.valkey import EmbeddedServer, free_port

NOW_S = 1_800_000_000.0


def version(number: int, device: str = "cpu") -> VersionInfo:
    return VersionInfo(
        version=number, format="echo", device=device, input=InputSchema(kind="any"),  # type: ignore[arg-type]
        output=OutputSchema(kind="any"), created_at="2026-11-22T00:00:00+00:00",
    )


def page(settings: Settings, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render(snapshot(settings, NOW_S), settings.broker_url))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_an_idle_system_says_what_to_do_next(
    settings: Settings, redis_client: redis.Redis
) -> None:
    text = page(settings)
    assert "No worker is up. `celeriac up` starts them all" in text
    assert "`celeriac models register` yours" in text
    assert "No jobs." in text
    assert "No gateway is up. `celeriac gateway` starts one" in text
    assert "No beat is up: no night begins" in text


def test_what_is_wrong_with_a_worker_or_with_beat_is_told(
    settings: Settings, redis_client: redis.Redis
) -> None:
    said = {
        "hostname": "batch.cpu@box", "role": "batch.cpu", "pid": 42, "metrics_port": None,
        "started_at": NOW_S + 3_600 - 75, "clock_ahead_s": 3_600.0, "namesake": 77,
    }
    redis_client.set(worker_key("batch.cpu@box"), json.dumps(said))
    beat = {"host": "box", "pid": 43, "started_at": NOW_S - 75}
    redis_client.set(beat_key("box:43"), json.dumps(beat))
    text = page(settings)
    assert "its clock is 3,600 s ahead of Redis's" in text
    assert "two workers have this name, pids 42 and 77" in text
    assert snapshot(settings, NOW_S).workers[0].up_s == pytest.approx(75)
    assert "No beat is up" not in text
    assert "one is enough" not in text
    redis_client.set(beat_key("box:44"), json.dumps(beat | {"pid": 44}))
    assert "Beats: one is enough" in page(settings)


def test_a_beat_that_was_started_again_after_a_kill_is_one(
    settings: Settings, redis_client: redis.Redis
) -> None:
    """The last word of the killed one is still there."""
    for pid, up_s in ((os.getpid(), 3), (2**22 + 1, 75)):  # no process has the latter
        beat = {"host": socket.gethostname(), "pid": pid, "started_at": NOW_S - up_s}
        redis_client.set(beat_key(f"{socket.gethostname()}:{pid}"), json.dumps(beat))
    assert [line.pid for line in snapshot(settings, NOW_S).beats] == [os.getpid()]


def test_workers_queues_and_models_are_shown(
    settings: Settings, redis_client: redis.Redis
) -> None:
    said = {
        "hostname": "realtime.cpu@box", "role": "realtime.cpu", "pid": 42, "concurrency": 1,
        "started_at": NOW_S - 75, "metrics_port": 9401, "serving": {"reviews": 2}, "new": True,
    }
    redis_client.set(worker_key("realtime.cpu@box"), json.dumps(said))
    gateway = {"url": "http://127.0.0.1:8000", "pid": 43, "started_at": NOW_S - 75}
    redis_client.set(gateway_key("box:43"), json.dumps(gateway))
    publish(redis_client, {
        "reviews": ModelInfo(
            name="reviews", aliases={"champion": 2}, versions={1: version(1), 2: version(2)}
        )
    })
    for age_s in (30, 20, 10):  # senders push on the left, workers take from the right
        message = {"body": "", "headers": {"sent_ms": (NOW_S - age_s) * 1000}}
        redis_client.lpush("realtime.cpu.reviews", json.dumps(message))
    redis_client.lpush("predict.cpu", json.dumps({"headers": {}}))

    shot = snapshot(settings, NOW_S)
    queues = {line.name: line for line in shot.queues}
    assert queues["realtime.cpu.reviews"].waiting == 3
    assert queues["realtime.cpu.reviews"].oldest_s == pytest.approx(30)
    assert (queues["predict.cpu"].waiting, queues["predict.cpu"].oldest_s) == (1, None)
    text = page(settings)
    for part in (
        "realtime.cpu@box", "reviews@2", ":9401", "1 min 15 s", "champion = 2", "30.0 s",
        "http://127.0.0.1:8000",
    ):  # fmt: skip
        assert part in text


def test_a_narrow_window_breaks_lists_and_no_names(
    settings: Settings, redis_client: redis.Redis
) -> None:
    serving = {f"model-{number}": number for number in range(8)}
    said = {
        "hostname": "realtime.cpu@box", "role": "realtime.cpu", "pid": 14_355, "concurrency": 1,
        "started_at": NOW_S - 2_900, "metrics_port": 9401, "serving": serving, "new": True,
    }
    redis_client.set(worker_key("realtime.cpu@box"), json.dumps(said))
    text = page(settings, width=80)
    assert "realtime.cpu@box  realtime.cpu  CPU" in text
    for name, number in serving.items():
        assert f"{name}@{number}" in text
    redis_client.set(worker_key("x" * 70), json.dumps({**said, "hostname": "x" * 70}))
    assert page(settings, width=80).count("x") >= 70  # folded, and not cut


def test_gpu_queues_are_shown_when_a_model_needs_them() -> None:
    models = {"digits": ModelInfo(name="digits", versions={1: version(1, "gpu")})}
    assert queue_names(Catalogue(models=models)) == [
        "realtime.gpu.digits", "predict.cpu", "predict.gpu", "batch.cpu", "batch.gpu",
        "maintenance",
    ]


@pytest.mark.parametrize(
    "message", [None, b"", b"no json", b"[]", b'{"headers": {"sent_ms": "x"}}']
)
def test_a_message_without_a_stamp_has_no_age(message: bytes | None) -> None:
    assert oldest_s(message, NOW_S) is None


def test_a_clock_that_is_ahead_gives_no_negative_age() -> None:
    message = json.dumps({"headers": {"sent_ms": (NOW_S + 5) * 1000}})
    assert oldest_s(message, NOW_S) == 0


def test_without_redis_the_error_says_where_it_was_looked_for() -> None:
    port = free_port()
    settings = Settings(broker=BrokerSettings(url=f"redis://ann:secret@127.0.0.1:{port}/0"))
    began = time.monotonic()
    with pytest.raises(errors.BrokerError, match=rf"127.0.0.1:{port}.*celeriac up") as caught:
        snapshot(settings, NOW_S)
    assert "secret" not in str(caught.value)
    assert time.monotonic() - began < 5


def client_calls(client: redis.Redis, command: str) -> int:
    """How often the server was sent a command since its last ``CONFIG RESETSTAT``."""
    told: Any = client.info("commandstats")
    return int(told.get(f"cmdstat_{command}", {}).get("calls", 0))


def test_the_health_check_sees_the_workers_of_its_own_host(
    settings: Settings, redis_client: redis.Redis
) -> None:
    redis_client.set(worker_key("batch.cpu@box"), "{}")
    redis_client.set(worker_key("batch.cpu@other"), "{}")
    redis_client.config_resetstat()
    assert beating(settings, "box") == ["batch.cpu@box"]
    assert beating(settings, "nowhere") == []
    assert client_calls(redis_client, "scan") == 1  # of "nowhere"
    redis_client.set(worker_key("second@nowhere"), "{}")
    assert beating(settings, "nowhere") == ["second@nowhere"]
    assert refusal(settings) == ""


def test_nobody_is_replaced_because_redis_refuses_writes(
    own_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CELERIAC_BROKER_URL", own_server.url)
    with pytest.raises(SystemExit, match="no worker of this host"):
        healthcheck.main()
    client = redis.Redis.from_url(own_server.url)
    client.config_set("maxmemory", 1)
    healthcheck.main()
    assert "redis refuses writes" in capsys.readouterr().out
    client.config_set("maxmemory", 0)
    client.replicaof("127.0.0.1", free_port())
    healthcheck.main()
    assert "read only replica" in capsys.readouterr().out
    client.close()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.9, "59.9 s"), (599, "9 min 59 s"), (3_599, "59 min"),
     (90_000, "25 h 0 min"), (200_000, "2 d 7 h")],
)
def test_a_duration_as_people_write_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text
