"""A folder of small files through real workers: one is damaged in the middle, processes are killed,
Redis forgets, and the output is that of a run of which nothing was killed."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import redis

from celeriac.datasets import sharing
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.manifest import read_manifest
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import Column, InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import BatchSettings, Settings
from producer.broker import Broker
from producer.datasets import submit_dataset
from producer.jobs import JobHandle
from tests.conftest import Worker
from tests.waiting import wait_until

pytestmark = pytest.mark.uncounted

CRASHES = Path(__file__).parent / "crashes"
FILES, ROWS = 240, 5
DAMAGED, BROKEN = 130, 70
"""A file that cannot be unpacked when its chunk runs, and one with a row of too many fields."""


@pytest.fixture
def broker(settings: Settings, redis_client: redis.Redis) -> Broker:
    registry = Registry(settings.models.root)
    schema = InputSchema(kind="table", columns=(Column(name="x"),))
    draft = ModelDraft(format="echo", input=schema, output=OutputSchema(kind="any"))
    registry.add("echo", lambda folder: draft)
    publish(redis_client, registry.infos())
    batch = BatchSettings(lease_s=2, max_attempts=3, wave_chunks=4)
    return Broker(settings.model_copy(update={"batch": batch}))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(FILES):
        rows = [f"{number * ROWS + at},{at}.5" for at in range(ROWS)]
        if number == BROKEN:
            rows[3] += ",1"
        data = "\n".join(["id,x", *rows]).encode()
        if number == DAMAGED:
            (folder / f"{number:04d}.csv.gz").write_bytes(gzip.compress(data))
        else:
            (folder / f"{number:04d}.csv").write_bytes(data)
    return folder


def damage(path: Path) -> None:
    state = path.stat()
    path.write_bytes(b"?" * state.st_size)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def output(folder: Path) -> dict[str, bytes]:
    """Parts and errors, of which no byte may depend on what was killed."""
    files = [*folder.glob("parts/*.parquet"), *folder.glob("errors/*")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(files)}


@pytest.mark.timeout(240)
def test_small_files_share_chunks_whatever_happens(
    broker: Broker, source: Path, tmp_path: Path, redis_client: redis.Redis,
    start_worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch,
) -> None:
    crashes = tmp_path / "crashes"
    crashes.mkdir()
    paths = [str(CRASHES), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("CRASH_POINTS", str(crashes))
    monkeypatch.setattr(sharing, "MOST_FILES", 25)  # here, where jobs are planned: ten chunks
    killed = submit_dataset(broker, source, "echo@1", tmp_path / "killed", id_column="id")
    assert killed.status().chunks_total == 10
    for name in ("clean", "changed"):
        shutil.copytree(killed.output, tmp_path / name)
    damage(source / f"{DAMAGED:04d}.csv.gz")

    (crashes / "staged").write_text("process")
    (crashes / "recorded").write_text("worker")
    workers = [
        start_worker("batch.cpu", "-c", "2", "-I", "crash_points"), start_worker("maintenance"),
    ]

    def logs() -> str:
        return "\n".join(one.log.read_text()[-3_000:] for one in workers)

    wait_until(lambda: workers[0].process.poll() is not None, logs)  # all of it was killed
    assert (crashes / "staged.done").exists()
    assert read_manifest(JobFolder(tmp_path / "killed")) is None

    workers.append(start_worker("batch.cpu", "-c", "2"))
    for name in ("killed", "clean"):
        handle = resume(broker, redis_client, tmp_path / name)
        assert handle.wait(60).state == "completed_with_errors", logs()
        the_output_is_right(handle, source)
    assert output(tmp_path / "killed") == output(tmp_path / "clean")

    (source / "0200.csv").write_bytes(b"id,x\n1,2\n")
    failed = resume(broker, redis_client, tmp_path / "changed").wait(60)
    assert failed.state == "failed"
    assert f"{source}/0200.csv: has changed since the job was submitted" in failed.error


def resume(broker: Broker, client: redis.Redis, folder: Path) -> JobHandle:
    """From the output folder alone: Redis has forgotten everything."""
    client.flushall()
    handle = JobHandle.from_output(broker, folder)
    handle.resume()
    return handle


def the_output_is_right(handle: JobHandle, source: Path) -> None:
    manifest = read_manifest(JobFolder(handle.output))
    assert manifest is not None
    assert (manifest.rows_in, manifest.dead) == (FILES * ROWS, ())
    assert manifest.failures == {"file_unreadable": ROWS, "dataset_invalid": 1}
    ids = [
        one for part in manifest.parts
        for one in pq.read_table(Path(str(handle.output)) / part.file)["id"].to_pylist()
    ]
    lost = {BROKEN * ROWS + 3, *range(DAMAGED * ROWS, (DAMAGED + 1) * ROWS)}
    assert ids == [number for number in range(FILES * ROWS) if number not in lost]
    told = [
        json.loads(line) for file in sorted(Path(str(handle.output)).glob("errors/*"))
        for line in file.read_text().splitlines()
    ]
    assert [(row["source"], row["row"]) for row in told] == [
        (f"{source}/{BROKEN:04d}.csv", 4),
        *((f"{source}/{DAMAGED:04d}.csv.gz", row) for row in range(1, ROWS + 1)),
    ]
    assert f"{DAMAGED:04d}.csv.gz: cannot be read as gzip" in told[1]["message"]
