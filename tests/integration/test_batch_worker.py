"""A job on real worker processes."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import Ledger
from celeriac.messages import BATCH_CHUNK
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from producer.broker import Broker
from producer.datasets import submit_dataset
from producer.reconciler import reconcile

pytestmark = pytest.mark.uncounted


@pytest.fixture
def broker(settings: Settings, redis_client: redis.Redis) -> Broker:
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )
    registry = Registry(settings.models.root)
    registry.add("echo", lambda folder: draft)
    publish(redis_client, registry.infos())
    return Broker(settings)


def write_rows(path: Path, rows: int) -> pa.Table:
    table = pa.table({"id": range(rows), "text": [f"text {n}" for n in range(rows)]})
    pq.write_table(table, path, row_group_size=500)
    return table


def samples(worker: Any) -> dict[str, float]:
    """What ``/metrics`` of a worker says."""
    url = f"http://127.0.0.1:{worker.describe()['metrics_port']}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        found = re.findall(r"^([a-z_]+\{.*\}) (\S+)$", answer.read().decode(), re.MULTILINE)
    return {name: float(value) for name, value in found}


def wait_for(worker: Any, said: str) -> None:
    """Until a worker's log holds ``said``."""
    deadline = time.monotonic() + 40
    while said not in worker.log.read_text():
        assert time.monotonic() < deadline, worker.log.read_text()[-3000:]
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_real_workers_finish_a_job(
    broker: Broker, start_worker: Callable[..., Any], tmp_path: Path
) -> None:
    table = write_rows(tmp_path / "in.parquet", 10_000)
    write_rows(tmp_path / "few.parquet", 10)
    stuck = submit_dataset(broker, tmp_path / "few.parquet", "echo@1", tmp_path / "stuck")
    in_the_way = stuck.output / "parts"
    in_the_way.write_text("no folder")
    handle = submit_dataset(
        broker, tmp_path / "in.parquet", "echo@1", tmp_path / "out", chunk_rows=500
    )
    worker = start_worker("batch.cpu", "-c", "2")
    start_worker("maintenance", "-c", "1")
    wait_for(worker, "chunk failed")
    in_the_way.unlink()
    status = handle.wait(60)
    assert stuck.wait(30).state == "completed"
    record = JobFolder(stuck.output).read_record(0)
    assert record is not None
    assert record.attempt > 1
    assert (status.state, status.chunks_done, status.rows_done) == ("completed", 20, 10_000)
    assert handle.results().select(["id", "text"]) == table
    for child in children(worker.process.pid):
        os.kill(child, signal.SIGKILL)
    counted = samples(worker)  # of both processes, dead or alive
    assert counted['batch_inference_seconds_count{model="echo"}'] == 21
    assert counted['inference_requests_total{kind="batch",model="echo"}'] == 10_010
    assert counted['model_version{model="echo"}'] == 1
    broker.close()


def test_a_spawned_process_loads_counts_and_logs_as_a_forked_one(
    broker: Broker, settings: Settings, start_worker: Callable[..., Any], tmp_path: Path,
    stand_in_gpus: Callable[..., None],
) -> None:
    stand_in_gpus("GPU-1")
    draft = ModelDraft(
        format="echo", device="gpu", input=InputSchema(kind="any"), output=OutputSchema(kind="any")
    )
    registry = Registry(settings.models.root)
    registry.add("large", lambda folder: draft)
    registry.aliases("large").promote(1, expected=None, who="test", why="")
    worker = start_worker("batch.gpu")
    kwargs = {"job_id": "unknown", "chunk_no": 0, "output": str(tmp_path / "out")}
    broker.celery.send_task(BATCH_CHUNK, kwargs=kwargs, queue="batch.gpu")
    wait_for(worker, "succeeded in")
    assert re.search(r"Z \[info +\] model serves +model=large", worker.log.read_text())
    assert re.search(r"Z \[info +\] chunk skipped", worker.log.read_text())
    assert samples(worker)['celeriac_batch_chunks_total{outcome="skipped"}'] == 1
    broker.close()


@pytest.mark.slow
@pytest.mark.timeout(300)  # the workers give way, and a busy machine leaves them little
def test_a_killed_worker_loses_nothing(
    broker: Broker, start_worker: Callable[..., Any], tmp_path: Path
) -> None:
    table = write_rows(tmp_path / "in.parquet", 400_000)
    worker = start_worker("batch.cpu", "-c", "2")
    start_worker("maintenance", "-c", "1")
    handle = submit_dataset(
        broker, tmp_path / "in.parquet", "echo@1", tmp_path / "out", chunk_rows=10_000
    )
    while handle.status().chunks_done < 4:
        time.sleep(0.02)
    worker.kill()
    assert handle.status().state == "in_progress"
    start_worker("batch.cpu", "-c", "2")
    ledger, deadline = Ledger(broker.redis, 600), time.monotonic() + 150
    while not (status := handle.status()).state.is_final:
        assert time.monotonic() < deadline, status
        reconcile(broker, ledger)  # as beat has it done: what ran may have had no message left
        time.sleep(0.5)
    assert (status.state, status.rows_done, status.rows_failed) == ("completed", 400_000, 0)
    assert handle.results().select(["id", "text"]) == table
    broker.close()
