"""Promotion and rollback under load: nobody notices, and each answer says who computed it."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celeriac.jobs.ledger import JobState
from celeriac.release.pins import pinned
from producer.broker import Broker
from producer.datasets import submit_dataset
from producer.serving import wait_served
from tests.conftest import Worker
from tests.integration.models.conftest import Callers, Life, register_telling
from tests.waiting import wait_until

pytestmark = [pytest.mark.uncounted, pytest.mark.timeout(240)]

EFFECTIVE_S = 20.0
THREADS = 6


def model_version(worker: Worker, name: str) -> float:
    """The gauge ``model_version`` of a worker, its children's included."""
    url = f"http://127.0.0.1:{worker.describe()['metrics_port']}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    (value,) = [line.split()[1] for line in lines
                if line.startswith(f'model_version{{model="{name}"}}')]
    return float(value)


def test_no_request_fails_and_each_answer_names_its_version(life: Life, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        register_telling(life.registry, "swapped", number)
    life.registry.aliases("swapped").promote(1, expected=None, who="test", why="")
    life.publish()
    assert wait_served(life.redis, "swapped", 1, "cpu", 20).is_complete

    with Callers(life.settings, "swapped", THREADS) as callers:
        wait_until(lambda: len(callers.versions) > 50)
        job = _job(life, tmp_path)
        assert pinned(life.redis, life.settings)["swapped"] == {1}  # no collection takes it
        for version in (2, 3):
            life.client.promote(f"swapped@{version}", why="test")
            _served(life, version)
            assert version == 3 or not job.status().state.is_final  # it has run through it
        life.client.rollback("swapped", why="test")
        _served(life, 2)
        seen = len(callers.versions)
        wait_until(lambda: len(callers.versions) > seen + 30)
    assert callers.wrong == []
    assert {1, 2, 3} == set(callers.versions)
    assert set(callers.versions[seen + THREADS :]) == {2}

    realtime = [worker for worker in life.workers if worker.role == "realtime.cpu"]
    assert [model_version(worker, "swapped") for worker in realtime] == [2.0, 2.0]
    status = job.wait(timeout_s=120)
    assert status.state is JobState.COMPLETED
    assert (status.version, status.rows_failed) == (1, 0)
    assert {round(value, 6) for value in job.results()["prediction"].to_pylist()} == {1.0}
    (batch,) = [worker for worker in life.workers if worker.role == "batch.cpu"]
    assert model_version(batch, "swapped") == 1.0  # a prefork child's


def _job(life: Life, folder: Path):  # type: ignore[no-untyped-def]
    """A job of many chunks that is running."""
    rows = 260_000
    pq.write_table(
        pa.table({"x0": [0.5] * rows, "x1": [0.5] * rows}), folder / "rows.parquet",
        row_group_size=200,
    )
    job = submit_dataset(
        Broker(life.settings), folder / "rows.parquet", "swapped", folder / "out", chunk_rows=200
    )
    wait_until(lambda: job.status().rows_done > 0)
    return job


def _served(life: Life, version: int) -> None:
    spread = wait_served(life.redis, "swapped", version, "cpu", EFFECTIVE_S)
    assert spread.is_complete, spread.told()
    assert len(spread.workers) == 2
