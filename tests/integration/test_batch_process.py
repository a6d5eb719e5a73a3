"""What happens inside a batch process: threads, niceness, memory, and the end of a slow pass."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis

from celeriac import release
from celeriac.registry.catalogue import publish
from celeriac.registry.store import Registry
from celeriac.settings import (
    BrokerSettings,
    ModelsSettings,
    Settings,
    StackSettings,
    get_settings,
)
from producer.broker import Broker
from producer.datasets import submit_dataset
from producer.jobs import JobHandle
from tests.conftest import Worker
from workers.valkey import EmbeddedServer

pytestmark = pytest.mark.uncounted

ROOT = Path(__file__).parents[2]
MODULES = Path(__file__).parent
BLAS, TORCH, NICE, ROWS, SLEEP, MEMORY, KILL, ALLOCATOR = range(8)


@pytest.fixture(scope="module")
def broker(
    server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    """Two batch processes with the model ``telling``, and a maintenance worker."""
    folder = tmp_path_factory.mktemp("process")
    client = redis.Redis.from_url(server.url)
    client.flushall()
    settings = Settings(
        broker=BrokerSettings(url=server.url),
        models=ModelsSettings(root=folder / "models", trusted_types=("batch_models.Telling",)),
        stack=StackSettings(state_dir=folder / "state", metrics_port=0),
    )
    registry = Registry(settings.models.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELERIAC_MODELS_TRUSTED_TYPES", "batch_models.Telling")
        patch.setenv("PYTHONPATH", f"{MODULES}{os.pathsep}{ROOT}")
        patch.setenv("KERNEL_COUNTS", str(folder / "vmstat"))
        (folder / "vmstat").write_text("oom_kill 0\n")
        patch.syspath_prepend(str(MODULES))
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
                         "ARROW_DEFAULT_MEMORY_POOL"):
            patch.delenv(variable, raising=False)
        get_settings.cache_clear()
        rows = np.array([[ROWS, 1.0], [SLEEP, 0.0]])
        model = importlib.import_module("batch_models").Telling().fit(rows, rows[:, 1])
        release.register("telling", model, examples=rows, registry=registry)
        registry.aliases("telling").promote(1, expected=None, who="test", why="")
        publish(client, registry.infos())
        workers = [
            Worker(settings, "batch.cpu", folder / "batch.log", "-c", "2", "-I", "kernel_counts"),
            Worker(settings, "maintenance", folder / "maintenance.log", "-c", "1"),
        ]
        try:
            for worker in workers:
                worker.wait_ready(60)
            broker = Broker(settings)
            yield broker
            broker.close()
        finally:
            for worker in workers:
                worker.stop()
            client.close()
            del sys.modules["batch_models"]
    get_settings.cache_clear()


def run(broker: Broker, output: Path, rows: Any, **options: Any) -> JobHandle:
    x = np.array(rows, dtype=float)
    frame = pa.table({"x0": x[:, 0], "x1": x[:, 1]})
    return submit_dataset(broker, frame, "telling@1", output, **options)


def test_a_process_has_one_compute_thread_and_yields_to_real_time(
    broker: Broker, tmp_path: Path
) -> None:
    handle = run(broker, tmp_path / "out", [[BLAS, 0], [TORCH, 0], [NICE, 0]])
    assert handle.wait(60).state == "completed"
    niceness = min(os.nice(0) + 10, 19)  # beyond that of these tests, up to the most there is
    assert handle.results()["prediction"].to_pylist() == [1, 1, niceness]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Arrow chooses")
def test_arrow_has_the_allocator_whose_memory_can_be_given_back(
    broker: Broker, tmp_path: Path
) -> None:
    handle = run(broker, tmp_path / "out", [[ALLOCATOR, 0]])
    assert handle.wait(60).state == "completed"
    assert handle.results()["prediction"].to_pylist() == [1]


def test_a_chunk_short_of_memory_is_scored_in_smaller_slices(
    broker: Broker, tmp_path: Path
) -> None:
    """One row does not fit even alone; the part is one."""
    rows = [[ROWS, 0]] * 500 + [[MEMORY, 0]] + [[ROWS, 0]] * 500
    handle = run(broker, tmp_path / "out", rows, chunk_rows=2_000)
    status = handle.wait(60)
    assert (status.state, status.rows_ok, status.rows_failed) == ("completed_with_errors", 1_000, 1)
    assert "resource_exhausted" in (tmp_path / "out/errors/part-00000.jsonl").read_text()
    assert len(handle.parts()) == 1


def test_after_a_kill_by_the_kernel_slices_are_smaller(broker: Broker, tmp_path: Path) -> None:
    """A pass of more than 600 rows is killed; the third attempt takes 512 at once."""
    rows = [[ROWS, 0]] * 1_000 + [[KILL, 600]] + [[ROWS, 0]] * 500
    handle = run(broker, tmp_path / "out", rows, chunk_rows=2_000)
    status = handle.wait(60)
    assert (status.state, status.chunks_total) == ("completed", 1)
    assert max(handle.results()["prediction"].to_pylist()) == 512


def test_a_cancelled_job_stops_within_seconds_whatever_its_model_does(
    broker: Broker, tmp_path: Path
) -> None:
    """Each of two processes is in a pass of a minute; the next job finds them ready."""
    handle = run(broker, tmp_path / "out", [[SLEEP, 60]] * 8, chunk_rows=2)
    deadline = time.monotonic() + 20
    while handle.status().chunks_running < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started = time.monotonic()
    handle.cancel()
    status = handle.wait(20)
    assert (status.state, status.chunks_running, status.chunks_queued) == ("cancelled", 0, 4)
    assert time.monotonic() - started < 8  # 3 s on an idle machine
    after = run(broker, tmp_path / "after", [[ROWS, 0]])
    assert after.wait(30).state == "completed"
    assert handle.status().state == "cancelled"


SUBMITTER = """
import sys
from producer import Client
with Client(sys.argv[1]) as client:
    handle = client.submit_dataset("in.csv", "telling", "out", planned_by="worker")
    status = handle.wait(60)
    print(status.state, status.rows_ok, [part.name for part in handle.parts()])
print([name for name in ("numpy", "pyarrow", "celery", "kombu") if name in sys.modules])
"""


def test_who_has_a_worker_plan_loads_nothing_for_it(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f"x0,x1\n{ROWS},0\n{ROWS},1\n")
    done = subprocess.run(
        [sys.executable, "-c", SUBMITTER, broker.url], cwd=tmp_path, capture_output=True,
        text=True, timeout=90, check=False,
    )
    assert (done.returncode, done.stdout.splitlines()) == (
        0, ["completed 2 ['part-00000.parquet']", "[]"]
    ), done.stderr


def test_a_large_job_does_not_starve_a_small_one(broker: Broker, tmp_path: Path) -> None:
    large = run(broker, tmp_path / "large", [[SLEEP, 0.15]] * 80, chunk_rows=1)
    small = run(broker, tmp_path / "small", [[ROWS, 0]] * 4, chunk_rows=2)
    assert small.wait(60).state == "completed"
    ahead = large.status()
    assert (ahead.state, ahead.chunks_done < 50) == ("in_progress", True)
    assert large.wait(60).state == "completed"
