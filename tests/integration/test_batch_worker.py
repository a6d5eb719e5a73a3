"""A job on real worker processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from celeriac.jobs.folder import JobFolder
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import Settings
from producer.broker import Broker
from producer.datasets import submit_dataset


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
    start_worker("batch.cpu", "-c", "2")
    start_worker("maintenance", "-c", "1")
    status = handle.wait(60)
    in_the_way.unlink()
    assert stuck.wait(30).state == "completed"
    record = JobFolder(stuck.output).read_record(0)
    assert record is not None
    assert record.attempt > 1
    assert (status.state, status.chunks_done, status.rows_done) == ("completed", 20, 10_000)
    assert handle.results().select(["id", "text"]) == table
    broker.close()


@pytest.mark.slow
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
    status = handle.wait(110)
    assert (status.state, status.rows_done, status.rows_failed) == ("completed", 400_000, 0)
    assert handle.results().select(["id", "text"]) == table
    broker.close()
