"""A process that has lost its GPU: it ends, another answers, and the item at fault gets an error.

The network runs on the CPU and raises what CUDA's broken context raises; all else is as on a GPU.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from celery import Celery

from celeriac import errors, release
from celeriac.keys import worker_key
from celeriac.registry.store import Registry
from celeriac.settings import (
    BrokerSettings,
    ModelsSettings,
    Settings,
    StackSettings,
    get_settings,
)
from producer import Client
from tests.conftest import ROOT
from tests.integration.gpu.conftest import add_echo, publish
from tests.waiting import wait_until
from workers.child_settings import environment
from workers.commands import worker_command
from workers.device_loss import EXIT_CODE
from workers.supervisor import Backoff, ChildSpec, Supervisor
from workers.valkey import EmbeddedServer

pytestmark = pytest.mark.uncounted

MODULES = Path(__file__).parent
BREAKS, SLOW = 13.0, 7.0
"""What the network does with these: see gpu_models."""


@pytest.fixture
def settings(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """A registry with two versions of ``fragile``, a network that breaks its context, of which the
    first is the champion, and an echo model."""
    monkeypatch.setenv("PYTHONPATH", f"{MODULES}{os.pathsep}{ROOT}")
    monkeypatch.syspath_prepend(str(MODULES))
    monkeypatch.setenv("CELERIAC_MODELS_ARCHITECTURES", "gpu_models")
    get_settings.cache_clear()
    registry = Registry(tmp_path / "models")
    network = importlib.import_module("gpu_models").Fragile()
    for _ in range(2):
        release.register(
            "fragile", network, examples=np.array([[1.0], [2.0]], dtype=np.float32),
            registry=registry,
        )
    registry.aliases("fragile").promote(1, expected=None, who="test", why="")
    add_echo(registry, "echo", "cpu")
    del sys.modules["gpu_models"]
    yield Settings(
        broker=BrokerSettings(url=server.url),
        stack=StackSettings(state_dir=tmp_path / "state", metrics_port=0),
        models=ModelsSettings(root=registry.root, architectures=("gpu_models",)),
    )
    get_settings.cache_clear()


@pytest.fixture
def supervised(
    settings: Settings, redis_client: redis.Redis, tmp_path: Path
) -> Iterator[tuple[Supervisor, Path]]:
    """One real-time worker that is started again when it ends, and its log."""
    publish(redis_client, Registry(settings.models.root))
    supervisor, log = Supervisor(lambda line: None), tmp_path / "worker.log"
    supervisor.launch(ChildSpec(
        name="worker", argv=worker_command("realtime.cpu", name="fragile-worker"), log=log,
        cwd=ROOT, backoff=Backoff(first_s=0.1), env=os.environ | environment(settings),
    ))
    wait_until(lambda: redis_client.keys(worker_key("fragile-worker@*")))
    yield supervisor, log
    supervisor.hurry()
    supervisor.stop()


def outcomes(calls: list[Callable[[], Any]]) -> list[Any]:
    """Of calls made at the same time: each answer's value, or the code of its error."""
    def one(call: Callable[[], Any]) -> Any:
        try:
            return call().value
        except errors.CeleriacError as error:
            return error.code

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


def test_the_item_at_fault_gets_an_error_and_all_others_their_answers(
    settings: Settings, supervised: tuple[Supervisor, Path]
) -> None:
    supervisor, log = supervised
    with Client(settings=settings, timeout_s=90) as client:
        def ask(model: str, item: Any, wait_s: float = 0.1) -> Any:
            time.sleep(wait_s)
            return client.predict(model, item)

        assert client.predict("fragile", [1.0]).value == 1.0
        # The first one holds the lane while the rest gather, from several callers.
        calls = [partial(ask, "fragile", [SLOW], 0.0), partial(ask, "echo", 9)]
        calls += [partial(ask, "fragile", [row]) for row in (3.0, BREAKS, 4.0, 5.0)]
        assert outcomes(calls) == [SLOW, 9, 3.0, "model_failed", 4.0, 5.0]
        wait_until(lambda: supervisor.status()["worker"].deaths >= 2)
        status = supervisor.status()["worker"]
        assert status.deaths == 2
        assert status.last_exit == f"ended with exit code {EXIT_CODE}"

        # One message, with the item at fault in its middle.
        rows = [[1.0], [BREAKS], [2.0], [3.0]]
        found = client.predict_many("fragile", rows, return_errors=True)
        assert [getattr(one, "value", None) for one in found] == [1.0, None, 2.0, 3.0]
        assert isinstance(found[1], errors.ModelFailed)
    wait_until(lambda: supervisor.status()["worker"].deaths >= 4)  # an answer comes before a death
    assert supervisor.status()["worker"].deaths == 4
    text = log.read_text()
    assert text.count("GPU lost; the process ends") == 4
    assert "device-side assert triggered" in text


def test_a_task_that_was_delivered_before_fails_and_is_not_delivered_again(
    settings: Settings, supervised: tuple[Supervisor, Path], redis_client: redis.Redis
) -> None:
    supervisor, _ = supervised
    app = Celery(broker=settings.broker_url, backend=settings.broker_url, set_as_current=False)
    send = app.send_task
    # Each process has to load this version first, and the task goes back to its queue meanwhile.
    kwargs = {"model": "fragile@2", "items": [[13.0]]}
    result = send("celeriac.predict", kwargs=kwargs, queue="predict.cpu")
    with pytest.raises(Exception, match="it was not the first time"):
        result.get(timeout=60)
    wait_until(lambda: supervisor.status()["worker"].deaths == 2)
    assert redis_client.hlen("unacked.realtime.cpu") == 0
    kwargs = {"model": "fragile", "items": [[2.0]]}
    assert send("celeriac.predict", kwargs=kwargs, queue="predict.cpu").get(timeout=40) == [
        {"model": "fragile", "version": 1, "value": 2.0}
    ]
    app.close()
    assert supervisor.status()["worker"].deaths == 2
