"""CPU and GPU workers keep to their own queues, but for what the policy gives to the CPU."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from celery import Celery

from celeriac import errors
from celeriac.keys import reply_key, seen_key
from celeriac.messages import CONTRACT, Envelope, Reply, realtime_queue
from celeriac.registry.catalogue import fetch
from celeriac.registry.store import Registry
from celeriac.settings import Settings, get_settings
from producer import Client
from producer.wire import envelope_message, new_id, now_ms
from tasks.models import publish_registry
from tests.conftest import Ran
from tests.integration.gpu.conftest import Launcher, add_echo, publish
from tests.waiting import wait_until
from workers.child_settings import environment

pytestmark = pytest.mark.uncounted


@pytest.fixture
def registry(settings: Settings, redis_client: redis.Redis) -> Registry:
    """``plain`` for the CPU, ``large`` for the GPU, ``mixed`` with a version for each."""
    registry = Registry(settings.models.root)
    add_echo(registry, "plain", "cpu")
    add_echo(registry, "large", "gpu")
    add_echo(registry, "mixed", "cpu", "gpu")
    publish(redis_client, registry)
    return registry


def send(client: redis.Redis, model: str, device: str, item: Any) -> Reply | None:
    """One envelope on the queue of ``device``, wherever it belongs; its reply within 3 s."""
    envelope = Envelope(
        v=CONTRACT, id=new_id(), model=model, items=[item], reply_to=new_id(),
        deadline_ms=now_ms() + 10_000,
    )
    queue = realtime_queue(device, model.partition("@")[0])
    client.lpush(queue, envelope_message(envelope, queue))
    popped: Any = client.blpop([reply_key(envelope.reply_to)], timeout=3)
    return msgspec.json.decode(popped[1], type=Reply) if popped else None


def test_each_takes_its_own(
    settings: Settings, registry: Registry, redis_client: redis.Redis,
    launch: Callable[..., Launcher], start_worker: Callable[..., Any],
) -> None:
    launcher = launch("realtime.gpu", "GPU-1111")
    cpu = start_worker("realtime.cpu")
    gpu = launcher.wait_ready(1)["0"]
    # A champion for the GPU is not loaded by the CPU's worker, though the model has a CPU version.
    assert cpu.describe()["serving"] == {"plain": 1}
    assert gpu["serving"] == {"large": 1, "mixed": 2}

    with Client(settings=settings, timeout_s=20) as client:
        assert client.predict("plain", 1).version == 1
        assert client.predict("large", 2).version == 1
        assert client.predict("mixed", 3).version == 2
        assert client.predict("mixed@1", 4).version == 1
    assert {*cpu.describe()["loaded"]} <= {"plain", "mixed"}
    assert wait_until(lambda: cpu.describe()["loaded"].get("mixed")) == [1]
    assert launcher.workers()["0"]["loaded"] == {"large": [1], "mixed": [2]}

    # On the wrong queue: nobody takes it, or it is moved to where it belongs.
    assert send(redis_client, "large", "cpu", 5) is None
    assert redis_client.llen("realtime.cpu.large") == 1
    assert send(redis_client, "plain", "gpu", 5) is None
    assert redis_client.llen("realtime.gpu.plain") == 1
    for wrong, version in (("cpu", 2), ("gpu", 1)):
        reply = send(redis_client, f"mixed@{version}", wrong, 6)
        assert reply is not None
        assert reply.answers is not None
        assert (reply.answers[0]["version"], reply.answers[0]["value"]) == (version, 6)
    assert cpu.describe()["loaded"]["mixed"] == [1]
    assert launcher.workers()["0"]["loaded"]["mixed"] == [2]

    app = Celery(broker=settings.broker_url, backend=settings.broker_url, set_as_current=False)
    for model, wrong, right in (("large", "cpu", "gpu"), ("plain", "gpu", "cpu")):
        result = app.send_task(
            "celeriac.predict", kwargs={"model": model, "items": [1]}, queue=f"predict.{wrong}"
        )
        with pytest.raises(Exception, match=rf"is for the {right.upper()}: send it to predict"):
            result.get(timeout=20)
    app.close()


def test_what_nobody_serves_fails_soon_or_waits_in_sight(
    settings: Settings, registry: Registry, redis_client: redis.Redis,
    celeriac: Callable[..., Ran], tmp_path: Path,
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": str(n)}) + "\n" for n in range(3)))
    with Client(settings=settings, timeout_s=5) as client:
        began_s = time.monotonic()
        with pytest.raises(errors.NotServed, match=r"no worker serves realtime\.gpu: start one"):
            client.predict("large", 1)
        assert time.monotonic() - began_s < 4.5  # before its time is over
        wait_until(lambda: redis_client.llen("realtime.gpu.large") == 0)  # taken back
        job = client.submit_dataset(str(source), "large", str(tmp_path / "out"))
        assert job.status().waits_for == "batch.gpu"
    shown = celeriac("batch", "status", job.id, env=environment(settings)).stdout
    assert "it waits: no worker serves batch.gpu (`celeriac worker batch.gpu` starts one)" in shown
    variables = environment(settings) | {"COLUMNS": "200"}
    shown = celeriac("status", env=variables).stdout
    assert "in progress, no worker serves batch.gpu" in " ".join(shown.split())
    (line,) = [line for line in shown.splitlines() if line.split()[:1] == ["batch.gpu"]]
    assert "none serves it" in line
    # A worker of the role was there a moment ago: that is a restart, and the call waits for it.
    redis_client.set(seen_key("realtime.gpu"), "a worker", ex=60)
    with Client(settings=settings) as client, pytest.raises(errors.DeadlineExceeded):
        client.predict("large", 1, timeout_s=2)


def test_the_cpu_stands_in_while_no_gpu_worker_is_there(
    settings: Settings, registry: Registry, redis_client: redis.Redis,
    launch: Callable[..., Launcher], start_worker: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CELERIAC_GPU_FALLBACK", "when_absent")
    get_settings.cache_clear()
    publish_registry(redis_client)
    large = fetch(redis_client).models["large"].versions[1]
    assert (large.device, large.batch_device, large.asks_for) == ("cpu", "cpu", "gpu")
    cpu = start_worker("realtime.cpu")
    wait_until(lambda: cpu.describe()["serving"] == {"large": 1, "mixed": 2, "plain": 1})
    with Client(settings=settings, timeout_s=20) as client:
        assert client.predict("large", 1).value == 1

    launcher = launch("realtime.gpu", "GPU-1111")
    launcher.wait_ready(1)
    publish_registry(redis_client)  # as the maintenance role does every 30 s
    found = fetch(redis_client)
    assert found.fallen_back == ("batch",)
    assert found.models["large"].versions[1].device == "gpu"
    with Client(settings=settings, timeout_s=20) as client:
        assert client.predict("large", 2).value == 2
    # What was sent to the CPU just before is still answered there.
    reply = send(redis_client, "large", "cpu", 3)
    assert reply is not None
    assert reply.answers is not None
    assert reply.answers[0]["value"] == 3
    get_settings.cache_clear()
