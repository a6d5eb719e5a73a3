"""Compute threads of real workers: each process has its share of the cores, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from celery.utils.sysinfo import cpu_budget

from celeriac import release
from celeriac.registry import catalogue
from celeriac.registry.store import Registry
from celeriac.settings import (
    BrokerSettings,
    ModelsSettings,
    RealtimeSettings,
    Settings,
    StackSettings,
)
from producer import Client
from tests.integration.own_modules import own_module
from workers.valkey import EmbeddedServer

pytestmark = pytest.mark.uncounted

CORES = cpu_budget().count
SLACK = 0.4
"""Of a core: the worker's own threads."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    registry = Registry(tmp_path_factory.mktemp("registry"))
    with own_module(
        "thread_models", "CELERIAC_MODELS_ARCHITECTURES", "thread_models"
    ) as thread_models:
        network = thread_models.Threads()
        examples = np.zeros((2, 1), dtype=np.float32)
        release.register("threads", network, examples=examples, registry=registry)
        registry.aliases("threads").promote(1, expected=None, who="test", why="")
        yield registry


@pytest.fixture
def settings(server: EmbeddedServer, registry: Registry, tmp_path: Path) -> Settings:
    return Settings(
        broker=BrokerSettings(url=server.url),
        stack=StackSettings(state_dir=tmp_path / "state", metrics_port=0),
        models=ModelsSettings(root=registry.root, architectures=("thread_models",)),
        realtime=RealtimeSettings(timeout_s=30),
    )


def check(seen: list[float], threads: int) -> None:
    in_torch, elsewhere, busy = seen
    assert in_torch == threads
    assert elsewhere <= threads
    assert busy <= threads + SLACK


def test_a_real_time_worker_has_one_thread(
    settings: Settings, registry: Registry, redis_client: redis.Redis,
    start_worker: Callable[..., Any],
) -> None:  # fmt: skip
    catalogue.publish(redis_client, registry.infos())
    start_worker("realtime.cpu")
    with Client(settings=settings) as client:
        check(client.predict("threads", [1.0]).value, 1)


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_processes_of_a_batch_worker_share_the_cores(
    processes: int, settings: Settings, registry: Registry, redis_client: redis.Redis,
    start_worker: Callable[..., Any], tmp_path: Path,
) -> None:  # fmt: skip
    catalogue.publish(redis_client, registry.infos())
    start_worker("batch.cpu", "-c", str(processes))
    start_worker("maintenance")
    source = tmp_path / "rows.csv"
    source.write_text("x0\n" + "1.0\n" * 4)
    with Client(settings=settings) as client:
        job = client.submit_dataset(source, "threads", tmp_path / "out", chunk_rows=1)
        assert job.wait(timeout_s=60).state == "completed"
        rows = job.results().to_pylist()
    for row in rows:
        check([row[f"prediction_{n}"] for n in range(3)], max(1, CORES // processes))
