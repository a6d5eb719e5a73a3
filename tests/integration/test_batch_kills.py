"""Processes that are killed in the middle of a job: the output is that of a clean run."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from celeriac.jobs.folder import JobFolder
from celeriac.jobs.manifest import SampleSummary, read_manifest
from celeriac.jobs.plan import ChunkRecord
from celeriac.messages import BATCH_RECONCILE, MAINTENANCE_QUEUE, batch_queue
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import Column, InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import BatchSettings, Settings
from producer import wire
from producer.broker import Broker
from producer.datasets import submit_dataset
from producer.jobs import JobHandle, JobStatus
from tests.waiting import wait_until
from workers.valkey import EmbeddedServer

pytestmark = pytest.mark.uncounted

CRASHES = Path(__file__).parent / "crashes"
CHUNK_POINTS = (
    "claimed", "scored", "part-staged", "staged", "recorded", "settled", "written", "committed",
)
FINALIZER_POINTS = ("merging", "merged", "aggregated", "reported", "checked", "manifest")
CHUNKS = 16
ROWS = 4_000


class Bench:
    """Workers that can be killed, a dataset, and the files of a clean run."""

    def __init__(self, folder: Path, broker: Broker, start_worker: Callable[..., Any]) -> None:
        self.folder, self.broker = folder, broker
        self.crashes = folder / "crashes"
        self.crashes.mkdir()
        self.source = folder / "in.parquet"
        texts = [f"text {n}" if n % 97 else None for n in range(ROWS)]
        pq.write_table(pa.table({"id": range(ROWS), "text": texts}), self.source,
                       row_group_size=50)
        self.start = lambda role, *options: start_worker(role, *options, "-I", "crash_points")
        self.workers = [self.start("batch.cpu", "-c", "2"), self.start("maintenance", "-c", "1")]

    def wish(self, point: str, kind: str = "process") -> None:
        (self.crashes / point).write_text(kind)

    def has_happened(self, *points: str) -> bool:
        return all((self.crashes / f"{point}.done").exists() for point in points)

    def submit(self, name: str, **options: Any) -> JobHandle:
        return submit_dataset(
            self.broker, self.source, "echo@1", self.folder / name,
            **{
                "chunk_rows": ROWS // CHUNKS, "merge": True, "id_column": "id",
                "aggregate": {"by": "text", "mean": "id"}, **options,
            },
        )

    def finish(self, handle: JobHandle, timeout_s: float = 60) -> JobStatus:
        """Wait for the end, and let the reconciler run as beat would."""
        deadline = time.monotonic() + timeout_s
        while not (status := handle.status()).state.is_final:
            assert time.monotonic() < deadline, f"{status}\n{self.logs()}"
            self.reconcile()
            time.sleep(0.3)
        return status

    def logs(self) -> str:
        return "\n".join(f"{one.role}:\n{one.log.read_text()[-4_000:]}" for one in self.workers)

    def reconcile(self, eta: str | None = None) -> None:
        message = wire.task_message(
            BATCH_RECONCILE, wire.new_id(), MAINTENANCE_QUEUE, {}, shown={}, ignore_result=True,
            extra={"eta": eta},
        )
        self.broker.redis.lpush(MAINTENANCE_QUEUE, message)

    def clean(self) -> dict[str, bytes]:
        handle = JobHandle.from_output(self.broker, self.folder / "clean")
        return output(handle)


def output(handle: JobHandle) -> dict[str, bytes]:
    """Every file of an output folder, without what may differ from run to run."""
    found = {}
    for file in sorted(handle.output.rglob("*")):
        if file.is_file() and file.name not in ("job.json", "plan.jsonl"):
            found[str(file.relative_to(handle.output))] = _lasting(file)
    return found


def _lasting(file: Path) -> bytes:
    if file.suffix == ".html":  # its times differ; its figures are the manifest's
        return b""
    if file.suffix != ".json":
        return file.read_bytes()
    fields = json.loads(file.read_bytes())
    for name in ("attempt", "epoch", "worker", "seconds", "finished_at", "created_at", "job_id",
                 "model_seconds", "sample_seconds", "timing"):
        fields.pop(name, None)
    return json.dumps(fields, sort_keys=True).encode()


@pytest.fixture
def server(own_server: EmbeddedServer) -> EmbeddedServer:
    """A server of this file's own, which can be killed, too."""
    return own_server


@pytest.fixture
def settings(settings: Settings) -> Settings:
    batch = BatchSettings(lease_s=2, max_attempts=50, wave_chunks=4, chunk_timeout_s=4)
    return settings.model_copy(update={"batch": batch})


@pytest.fixture
def bench(
    settings: Settings, redis_client: redis.Redis, tmp_path: Path,
    start_worker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(CRASHES), os.environ["PYTHONPATH"]])
                       if "PYTHONPATH" in os.environ else str(CRASHES))
    monkeypatch.setenv("CRASH_POINTS", str(tmp_path / "crashes"))
    texts = InputSchema(kind="text", columns=(Column(name="text", dtype="text"),))
    draft = ModelDraft(format="echo", input=texts, output=OutputSchema(kind="any"))
    registry = Registry(settings.models.root)
    registry.add("echo", lambda folder: draft)
    publish(redis_client, registry.infos())
    broker = Broker(settings)
    bench = Bench(tmp_path, broker, start_worker)
    assert bench.finish(bench.submit("clean")).state == "completed_with_errors"
    yield bench
    broker.close()


@pytest.mark.timeout(300)
def test_whatever_is_killed_no_byte_changes(bench: Bench, redis_client: redis.Redis) -> None:
    assert {"predictions.parquet", "aggregates.parquet", "errors/part-00000.jsonl"} <= set(
        bench.clean()
    )
    every_crash_point(bench)
    a_run_that_sleeps_through_its_lease(bench)
    a_power_cut(bench)
    a_cancelled_job(bench)
    a_run_that_hangs(bench)
    a_redis_that_forgets_and_messages_that_vanish(bench, redis_client)


def every_crash_point(bench: Bench) -> None:
    for point in (*CHUNK_POINTS, *FINALIZER_POINTS):
        bench.wish(point)
    handle = bench.submit("killed")
    status = bench.finish(handle)
    wait_until(lambda: bench.has_happened(*CHUNK_POINTS, *FINALIZER_POINTS))
    assert (status.state, status.rows_done, status.chunks_done) == (
        "completed_with_errors", ROWS, CHUNKS,
    )
    records = [JobFolder(handle.output).read_record(n) for n in range(CHUNKS)]
    assert max(record.attempt for record in records if record) > 1
    assert output(handle) == bench.clean()
    the_report_counts_right(handle, [record for record in records if record])


def the_report_counts_right(handle: JobHandle, records: list[ChunkRecord]) -> None:
    manifest = read_manifest(JobFolder(handle.output))
    assert manifest is not None
    failed = 1 + (ROWS - 1) // 97
    assert manifest.failures == {"item_invalid": failed}
    assert manifest.sample == SampleSummary(rows=ROWS, chunks_missing=0)
    found = {one.name: (one.kind, one.rows, one.nulls) for one in manifest.columns}
    assert found == {"id": ("number", ROWS, 0), "text": ("text", ROWS, failed)}
    assert [one.nulls for one in manifest.answers] == [failed]
    timing = manifest.timing
    assert timing is not None
    assert timing.attempts == sum(record.attempt for record in records)
    assert timing.retried_chunks == sum(record.attempt > 1 for record in records)
    page = handle.report().read_text()
    assert f"{failed} of 4,000" in page
    assert f"{timing.retried_chunks} chunk" in page


def a_run_that_sleeps_through_its_lease(bench: Bench) -> None:
    """It wakes up with its part in hand when another has done the chunk."""
    (bench.crashes / "staged.done").unlink()
    bench.wish("staged", "pause")
    handle = bench.submit("fenced")
    bench.finish(handle)
    assert output(handle) == bench.clean()
    os.kill(int((bench.crashes / "staged.paused").read_text()), signal.SIGCONT)
    wait_until(lambda: "chunk does not count" in bench.workers[0].log.read_text())
    assert output(handle) == bench.clean()


def a_power_cut(bench: Bench) -> None:
    """Every process of the batch worker ends at once."""
    (bench.crashes / "recorded.done").unlink()
    bench.wish("recorded", "worker")
    handle = bench.submit("power-cut")
    wait_until(lambda: bench.workers[0].process.poll() is not None)
    bench.workers[0].kill()
    bench.workers.append(bench.start("batch.cpu", "-c", "2"))
    bench.finish(handle)
    assert output(handle) == bench.clean()


def a_cancelled_job(bench: Bench) -> None:
    """One of its two processes hangs, so that the other cannot end it before."""
    bench.wish("scored", "hang")
    handle = bench.submit("cancelled")
    wait_until(lambda: handle.status().chunks_done >= 2)
    handle.cancel()
    stopped = handle.wait(15)
    assert (stopped.state, stopped.chunks_running) == ("cancelled", 0)
    assert stopped.chunks_done + stopped.chunks_queued == CHUNKS
    handle.resume()
    bench.finish(handle)
    assert output(handle) == bench.clean()


def a_run_that_hangs(bench: Bench) -> None:
    """Its own thread ends the process, and says why."""
    (bench.crashes / "scored.done").unlink()
    bench.wish("scored", "hang")
    handle = bench.submit("hung")
    bench.finish(handle)
    records = [JobFolder(handle.output).read_record(n) for n in range(CHUNKS)]
    assert sorted(record.attempt for record in records if record)[-2:] == [1, 2]
    assert "its process ends" in "".join(one.log.read_text() for one in bench.workers)
    assert output(handle) == bench.clean()


@pytest.mark.timeout(300)
def test_a_redis_that_is_killed(
    bench: Bench, server: EmbeddedServer, redis_client: redis.Redis
) -> None:
    """It comes back with what it had written down, and the workers are those that there were."""
    with_chunks_under_way(bench, server)
    with_messages_in_hand(bench, server, redis_client)
    assert [one.process.poll() for one in bench.workers] == [None, None]


def with_chunks_under_way(bench: Bench, server: EmbeddedServer) -> None:
    handle = bench.submit("redis-killed", chunk_rows=ROWS // CHUNKS)
    wait_until(lambda: handle.status().chunks_done >= 2)
    server.kill()
    time.sleep(1.5)
    server.start()
    status = bench.finish(handle)
    assert (status.state, status.rows_done) == ("completed_with_errors", ROWS)
    assert output(handle) == bench.clean()


def with_messages_in_hand(
    bench: Bench, server: EmbeddedServer, redis_client: redis.Redis
) -> None:
    """Those that no process has begun are given back at once, long before their lease ends."""
    later = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    bench.reconcile(eta=later)
    wait_until(lambda: held(redis_client) == [False])
    server.kill()
    server.start()
    wait_until(lambda: held(redis_client) == [True], timeout_s=15)


def held(client: redis.Redis) -> list[bool]:
    """Of each message in the hands of the maintenance worker: was it delivered before?"""
    try:
        messages: Any = client.hvals(f"unacked.{MAINTENANCE_QUEUE}")
    except redis.RedisError:
        return []
    return [json.loads(raw)[0]["headers"].get("redelivered", False) for raw in messages]


def a_redis_that_forgets_and_messages_that_vanish(
    bench: Bench, redis_client: redis.Redis
) -> None:
    handle = bench.submit("forgotten", chunk_rows=20)
    wait_until(lambda: handle.status().chunks_done >= 5)
    redis_client.flushall()
    time.sleep(1)  # what ran comes to its end
    parts = {file: file.stat().st_mtime_ns for file in handle.output.glob("parts/part-*")}
    assert 10 <= len(parts) < 2 * ROWS // 20
    handle.resume()
    redis_client.delete(batch_queue("cpu"))  # the wave is lost as well
    status = bench.finish(handle)
    assert (status.state, status.rows_done) == ("completed_with_errors", ROWS)
    assert {file: file.stat().st_mtime_ns for file in parts} == parts  # only the rest was done
