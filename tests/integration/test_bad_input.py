"""What is wrong with a dataset or its output, end to end: a clear error, and the rest goes on.

Real workers, shared by all tests of this file.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from celeriac import errors
from celeriac.keys import JOBS_KEY
from celeriac.messages import batch_queue
from celeriac.registry.catalogue import publish
from celeriac.registry.manifest import Column, InputSchema, ModelDraft, OutputSchema
from celeriac.registry.store import Registry
from celeriac.settings import (
    BatchSettings,
    BrokerSettings,
    ModelsSettings,
    Settings,
    StackSettings,
)
from producer.broker import Broker
from producer.datasets import submit_dataset
from producer.jobs import JobHandle, JobStatus
from tests.conftest import Worker
from tests.frozen import freeze_group
from workers.valkey import EmbeddedServer

MODEL = "sums@1"
"""Reads the columns ``x``, a number, and ``n``, a whole number."""
HUGE = "y" * 10_000_000


@dataclass
class Desk:
    """A broker, a model, and the workers."""

    broker: Broker
    workers: list[Worker]

    def submit(self, source: Any, output: Path, **options: Any) -> JobHandle:
        return submit_dataset(self.broker, source, MODEL, output, **options)

    def run(self, source: Any, output: Path, **options: Any) -> tuple[JobHandle, JobStatus]:
        handle = self.submit(source, output, **options)
        return handle, handle.wait(60)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing of a job runs in this block."""
        groups = [worker.process.pid for worker in self.workers]
        for group in groups:
            freeze_group(group)
        try:
            yield
        finally:
            for group in groups:
                os.killpg(group, signal.SIGCONT)


@pytest.fixture(scope="module")
def desk(
    server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    client = redis.Redis.from_url(server.url)
    client.flushall()
    settings = Settings(
        broker=BrokerSettings(url=server.url), batch=BatchSettings(max_attempts=2),
        models=ModelsSettings(root=folder / "models"),
        stack=StackSettings(state_dir=folder / "state", metrics_port=0),
    )
    columns = (Column(name="x"), Column(name="n", dtype="int"))
    draft = ModelDraft(
        format="echo", input=InputSchema(kind="table", columns=columns),
        output=OutputSchema(kind="any"),
    )
    registry = Registry(settings.models.root)
    registry.add("sums", lambda _: draft)
    publish(client, registry.infos())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELERIAC_BATCH_MAX_ATTEMPTS", "2")
        workers = [
            Worker(settings, role, folder / f"{role}.log", "-c", "1")
            for role in ("batch.cpu", "maintenance")
        ]
    broker = Broker(settings)
    try:
        for worker in workers:
            worker.wait_ready()
        yield Desk(broker, workers)
    finally:
        for worker in workers:
            worker.stop()
        broker.close()
        client.close()


def is_finished(output: Path) -> bool:
    """True if somebody could take it for a whole output."""
    return (output / "_SUCCESS").exists() or (output / "manifest.json").exists()


def debris(output: Path) -> list[Path]:
    return list(output.rglob(".tmp-*"))


def failed_rows(output: Path) -> list[dict[str, Any]]:
    lines = [
        line for file in sorted((output / "errors").glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    return [json.loads(line) for line in lines]


# --- files that are made wrong -------------------------------------------------------------------


def parquet(rows: int = 10, **columns: Any) -> pa.Table:
    return pa.table({"x": np.arange(rows) / 2, "n": np.arange(rows), **columns})


def csv_lines(*rows: str, header: str = "id,x,n") -> bytes:
    return "\n".join([header, *rows, ""]).encode()


def good(count: int) -> list[str]:
    return [f"{n},{n}.5,{n}" for n in range(count)]


def write_parquet(path: Path, table: pa.Table, **options: Any) -> Path:
    pq.write_table(table, path, **options)
    return path


def write(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def truncated(folder: Path) -> Path:
    path = write_parquet(folder / "cut.parquet", parquet(1_000))
    path.write_bytes(path.read_bytes()[:-100])
    return path


def three_files(folder: Path) -> Path:
    for name in ("a", "b", "c"):
        write_parquet(folder / f"{name}.parquet", parquet())
    return folder / "*.parquet"


def a_damaged_one_in_the_middle(folder: Path) -> Path:
    pattern = three_files(folder)
    (folder / "b.parquet").write_bytes(b"PAR1, and no more of it")
    return pattern


def one_that_is_gone_in_the_middle(folder: Path) -> Path:
    pattern = three_files(folder)
    (folder / "b.parquet").unlink()
    (folder / "b.parquet").symlink_to(folder / "nowhere")
    return pattern


def one_with_another_column(folder: Path) -> Path:
    pattern = three_files(folder)
    write_parquet(folder / "b.parquet", parquet(z=["?"] * 10))
    return pattern


def csv_with_another_column(folder: Path) -> Path:
    write("a.csv", csv_lines(*good(3)))(folder)
    write("b.csv", csv_lines("1,2,3,4", header="id,x,n,z"))(folder)
    return folder / "*.csv"


def many_without_a_column(folder: Path) -> Path:
    for name in ("a.csv", "b.csv"):
        write(name, b"id,x\n1,2\n")(folder)
    return folder / "*.csv"


@dataclass(frozen=True)
class Refused:
    """A dataset of which nothing is queued."""

    make: Callable[[Path], Path]
    says: str
    file: str


REFUSED = {
    "empty csv": Refused(write("a.csv", b""), "the file is empty", "a.csv"),
    "empty jsonl": Refused(write("a.jsonl", b""), "the file is empty", "a.jsonl"),
    "empty parquet": Refused(write("a.parquet", b""), "the file is empty", "a.parquet"),
    "empty folder": Refused(lambda folder: folder, "the folder holds no", ""),
    "no rows csv": Refused(write("a.csv", b"id,x,n\n"), "no rows", "a.csv"),
    "no rows jsonl": Refused(write("a.jsonl", b"\n\n"), "no object", "a.jsonl"),
    "no rows parquet": Refused(
        lambda folder: write_parquet(folder / "a.parquet", parquet(0)), "no rows", "a.parquet"
    ),
    "missing column csv": Refused(write("a.csv", b"id,x\n1,2\n"), "a.csv lacks 'n'", "a.csv"),
    "missing column jsonl": Refused(
        write("a.jsonl", b'{"id": 1, "x": 2}\n'), "a.jsonl lacks 'n'", "a.jsonl"
    ),
    "missing column parquet": Refused(
        lambda folder: write_parquet(folder / "a.parquet", parquet().drop_columns("n")),
        "a.parquet lacks 'n'", "a.parquet",
    ),
    "missing column in many files": Refused(
        many_without_a_column, "a.csv (the first of 2 files) lacks 'n'", "a.csv"
    ),
    "wrong type csv": Refused(
        write("a.csv", csv_lines(*(f"{n},much,{n}" for n in range(30)))),
        "row 1: column 'x': 'much' is not a number", "a.csv",
    ),
    "wrong type jsonl": Refused(
        write("a.jsonl", b'{"x": "much", "n": 1}\n' * 30),
        "row 1: column 'x': \"much\" is not a number", "a.jsonl",
    ),
    "wrong type parquet": Refused(
        lambda folder: write_parquet(folder / "a.parquet", pa.table({"x": ["much"], "n": [1]})),
        "column 'x' of the dataset is of type string; the model takes numbers", "",
    ),
    "extra column in one parquet file": Refused(
        one_with_another_column, "differs from a.parquet in: z", "b.parquet"
    ),
    "extra column in one csv file": Refused(
        csv_with_another_column, "differs from a.csv in: z", "b.csv"
    ),
    "header not utf-8": Refused(write("a.csv", b"id,x,n\xff\n1,2,3\n"), "not valid UTF-8", "a.csv"),
    "open quote": Refused(
        write("a.csv", csv_lines(*good(5), '6,"7,8')), "row 6 opens a quote", "a.csv"
    ),
    "truncated parquet": Refused(truncated, "damaged, or cut short", "cut.parquet"),
    "truncated gzip": Refused(
        lambda folder: _cut_gzip(folder / "a.csv.gz"), "damaged, or cut short", "a.csv.gz"
    ),
    "damaged file among many": Refused(
        a_damaged_one_in_the_middle, "damaged, or cut short", "b.parquet"
    ),
    "file among many that is gone": Refused(
        one_that_is_gone_in_the_middle, "No such file", "b.parquet"
    ),
}


def _cut_gzip(path: Path) -> Path:
    import gzip

    path.write_bytes(gzip.compress(csv_lines(*good(10_000)))[:-200])
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_queued_of_a_dataset_that_cannot_be_scored(
    desk: Desk, tmp_path: Path, name: str
) -> None:
    case = REFUSED[name]
    known = desk.broker.redis.zcard(JOBS_KEY)
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    with pytest.raises(errors.DatasetError) as caught:
        desk.submit(case.make(folder), output)
    assert case.says in caught.value.message
    assert case.file in caught.value.message
    assert not is_finished(output)
    assert not debris(tmp_path)
    assert not (output / "job.json").exists()
    assert desk.broker.redis.zcard(JOBS_KEY) == known
    waiting: Any = desk.broker.redis.lrange(batch_queue("cpu"), 0, -1)  # others' may be there
    assert not [message for message in waiting if str(output).encode() in message]


# --- rows that are wrong --------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """A dataset of which some rows fail, or none."""

    make: Callable[[Path], Path]
    rows: int
    failed: list[tuple[int, str, str]] = field(default_factory=list)
    """Row, code, and what the message holds."""


def extension_types(folder: Path) -> Path:
    ids = pa.array([bytes([n]) * 16 for n in range(10)], pa.binary(16))
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(20.0).reshape(10, 2))
    table = parquet(uuid=pa.ExtensionArray.from_storage(pa.uuid(), ids), tensor=tensors)
    return write_parquet(folder / "a.parquet", table)


def infinite(folder: Path) -> Path:
    x = [0.5, float("inf"), None, 2.5]
    return write_parquet(folder / "a.parquet", pa.table({"x": x, "n": [1, 2, 3, None]}))


SCORED = {
    "extra column": Scored(write("a.csv", csv_lines("1,2,3,?", header="id,x,n,z")), 1),
    "mixed types csv": Scored(
        write("a.csv", csv_lines(*good(50), "50,much,50", "51,1,1.5", "52,", *good(5))), 58,
        [(51, "dataset_invalid", "'much' is not a number"),
         (52, "dataset_invalid", "'1.5' is not a whole number"),
         (53, "dataset_invalid", "2 fields where the header has 3")],
    ),
    "mixed types jsonl": Scored(
        write("a.jsonl", b'{"x": 1, "n": 2}\n' * 30 + b'{"x": [1], "n": 2}\n7\n{"x": 1\n'), 33,
        [(31, "dataset_invalid", "column 'x': [1] is not a number"),
         (32, "dataset_invalid", "not a JSON object"), (33, "dataset_invalid", "not valid JSON")],
    ),
    "what the model does not take": Scored(
        infinite, 4, [(2, "item_invalid", "column 'x'"), (4, "item_invalid", "column 'n'")]
    ),
    "invalid utf-8 csv": Scored(
        write("a.csv", b"id,x,n\n1,1,1\n\xff\xfe,2,2\n3,3,3\n"), 3,
        [(2, "dataset_invalid", "not valid UTF-8")],
    ),
    "invalid utf-8 jsonl": Scored(
        write("a.jsonl", b'{"id": "a", "x": 1, "n": 1}\n{"id": "\xff", "x": 1, "n": 1}\n'), 2,
        [(2, "dataset_invalid", "not valid UTF-8")],
    ),
    "a line of 10 mb csv": Scored(
        write("a.csv", csv_lines("a,1,1", f"{HUGE},2,2", f"{HUGE},much", "d,4,4")), 4,
        [(3, "dataset_invalid", "2 fields where the header has 3")],
    ),
    "a line of 10 mb jsonl": Scored(
        write("a.jsonl", f'{{"id": "{HUGE}", "x": 1, "n": 1}}\n{{"id": "{HUGE}", "x": "?"}}\n'
              .encode()), 2,
        [(2, "dataset_invalid", "column 'x': \"?\" is not a number")],
    ),
    "extension types": Scored(extension_types, 10),
}


@pytest.mark.parametrize("name", SCORED)
def test_rows_that_are_wrong_are_named_and_the_others_are_scored(
    desk: Desk, tmp_path: Path, name: str
) -> None:
    case = SCORED[name]
    output = tmp_path / "out"
    source = case.make(tmp_path)
    handle, status = desk.run(source, output)
    ends = "completed_with_errors" if case.failed else "completed"
    assert (status.state, status.error) == (ends, "")
    assert (status.rows_done, status.rows_failed) == (case.rows, len(case.failed))
    found = failed_rows(output)
    assert [(row["row"], row["code"]) for row in found] == [case_[:2] for case_ in case.failed]
    for row, (_, _, says) in zip(found, case.failed, strict=True):
        assert says in row["message"]
        assert row["source"] == str(source)
        assert 0 < len(row["data"].encode()) <= 4_000
    assert handle.results().num_rows == case.rows - len(case.failed)
    assert not debris(output)


# --- what goes wrong later ------------------------------------------------------------------------


def test_a_source_that_changes_between_plan_and_run_ends_its_job(
    desk: Desk, tmp_path: Path
) -> None:
    source = write("a.csv", csv_lines(*good(100)))(tmp_path)
    with desk.paused():
        handle = desk.submit(source, tmp_path / "out", chunk_rows=10)
        source.write_bytes(csv_lines(*good(101)))
    status = handle.wait(30)
    assert status.state == "failed"
    assert f"{source}: has changed since the job was submitted" in status.error
    assert not is_finished(tmp_path / "out")
    with pytest.raises(errors.JobFailed, match="not complete"):
        handle.results()
    source.unlink()
    with pytest.raises(errors.DatasetError, match="no such file"):
        desk.submit(source, tmp_path / "other")


def test_damage_inside_one_of_many_files_costs_its_own_chunks(desk: Desk, tmp_path: Path) -> None:
    """Its footer is whole, so nobody can tell before its rows are read."""
    for name in ("a", "b", "c"):
        write_parquet(tmp_path / f"{name}.parquet", parquet(5_000), row_group_size=1_000,
                      compression="zstd")
    damaged = tmp_path / "b.parquet"
    start = pq.ParquetFile(damaged).metadata.row_group(2).column(0).data_page_offset
    content = bytearray(damaged.read_bytes())
    content[start : start + 400] = bytes(400)
    damaged.write_bytes(content)
    handle, status = desk.run(tmp_path / "*.parquet", tmp_path / "out", chunk_rows=1_000)
    assert (status.state, status.chunks_done, status.chunks_dead) == (
        "completed_with_errors", 14, 1,
    )
    assert (status.rows_done, status.rows_failed) == (15_000, 1_000)
    dead = handle.dead()[0]
    assert f"{damaged}: cannot be read as Parquet" in dead.reason
    assert dead.attempts == 2
    planned = handle.planned(dead.chunk)
    assert (planned.source, planned.first_row, planned.rows) == (str(damaged), 2_001, 1_000)
    assert handle.results().num_rows == 14_000


def test_a_job_of_bad_rows_stops_early(desk: Desk, tmp_path: Path) -> None:
    bad = [f"{n},much,{n}" for n in range(200)]
    source = write("a.csv", csv_lines(*good(1_000), *(bad * 200)))(tmp_path)
    handle, status = desk.run(
        source, tmp_path / "out", chunk_rows=1_000, max_error_share=0.5, id_column="id"
    )
    assert status.state == "failed"
    assert "beyond 50 % the job stops (max_error_share)" in status.error
    assert status.rows_done < status.rows_total
    assert failed_rows(tmp_path / "out")[0]["id"] == 0
    assert not is_finished(tmp_path / "out")
    handle.resume(max_error_share=1)
    assert handle.wait(60).state == "completed_with_errors"


def test_the_output_of_another_job_is_left_alone(desk: Desk, tmp_path: Path) -> None:
    source = write("a.csv", csv_lines(*good(10)))(tmp_path)
    output = tmp_path / "out"
    desk.run(source, output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    other = write("b.csv", csv_lines(*good(11)))(tmp_path)
    with pytest.raises(errors.OutputConflict) as caught:
        desk.submit(other, output)
    assert str(output) in caught.value.message
    assert str(source) in caught.value.message
    assert "choose another output folder" in caught.value.message
    for place, says in [(source, "is a file"), (tmp_path, "is not empty and holds no job")]:
        with pytest.raises(errors.OutputConflict, match=says):
            desk.submit(other, place)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk needs the rights to mount one")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)  # what failed may still be open


def random_rows(folder: Path, rows: int) -> Path:
    x = np.random.default_rng(1).random(rows)
    return write_parquet(folder / "in.parquet", pa.table({"x": x, "n": np.arange(rows)}))


def test_a_disk_that_takes_no_part_leaves_nothing_that_looks_finished(
    desk: Desk, tmp_path: Path, small_disk: Path
) -> None:
    output = small_disk / "out"
    _, status = desk.run(random_rows(tmp_path, 40_000), output, chunk_rows=40_000)
    assert status.state == "failed"
    assert str(output / "parts") in status.error
    assert "cannot be written: No space left on device" in status.error
    assert not is_finished(output)
    assert not debris(output)
    assert not list(output.glob("parts/*"))


def test_a_disk_that_takes_only_some_parts_fails_the_job_and_resume_finishes_it(
    desk: Desk, tmp_path: Path, small_disk: Path
) -> None:
    """Chunks that found no room are not given up: the output would look finished without them."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes(230_000))
    output = small_disk / "out"
    source = random_rows(tmp_path, 3_000)
    handle, status = desk.run(source, output, chunk_rows=1_000, keep_columns=["n"])
    assert (status.state, status.chunks_dead) == ("failed", 0)
    assert re.search(rf"{output}/parts/part-\d+\.parquet: .* No space left", status.error)
    assert not is_finished(output)
    filler.unlink()
    handle.resume()
    after = handle.wait(60)
    assert (after.state, after.error) == ("completed", "")
    assert handle.results().num_rows == 3_000


def test_a_disk_that_fills_up_in_the_middle_keeps_what_is_whole(
    desk: Desk, tmp_path: Path, small_disk: Path
) -> None:
    """The finaliser fails as well: there is room for the merged file, and none for the manifest.

    The merged file takes no room from the next finaliser, which writes it anew.
    """
    filler = small_disk / "filler"
    filler.write_bytes(bytes(200_000))
    output = small_disk / "out"
    handle, status = desk.run(
        random_rows(tmp_path, 2_000), output, chunk_rows=1_000, merge=True, keep_columns=["n"]
    )
    assert status.state == "failed"
    assert f"{output}/manifest.json: cannot be written: No space left on device" in status.error
    assert not (output / "predictions.parquet").exists()
    assert not is_finished(output)
    assert not debris(output)
    filler.unlink()
    handle.resume()
    assert handle.wait(60).state == "completed"
    assert (handle.results().num_rows, is_finished(output)) == (2_000, True)


def test_a_disk_without_room_for_a_copy_of_the_source_takes_no_job(
    desk: Desk, tmp_path: Path, small_disk: Path
) -> None:
    source = tmp_path / "in.csv.gz"
    x = np.random.default_rng(1).random(60_000)
    source.write_bytes(gzip.compress(b"x,n\n" + b"".join(b"%.17f,1\n" % one for one in x), 1))
    with pytest.raises(errors.StorageError, match="No space left on device") as caught:
        desk.submit(source, small_disk / "out", chunk_rows=1_000)
    assert caught.value.message.startswith(f"{small_disk}/out/input: cannot be written")
    assert list((small_disk / "out").iterdir()) == []


def test_a_disk_without_room_for_a_plan_takes_no_job(
    desk: Desk, tmp_path: Path, small_disk: Path
) -> None:
    with (small_disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 300 * 1_024 - 4_096)
    known = desk.broker.redis.zcard(JOBS_KEY)
    with pytest.raises(errors.CeleriacError, match="No space left on device") as caught:
        desk.submit(random_rows(tmp_path, 10), small_disk / "out")
    assert str(small_disk / "out") in caught.value.message
    assert not (small_disk / "out" / "job.json").exists()
    assert desk.broker.redis.zcard(JOBS_KEY) == known
