"""The output folder, one chunk, and the finaliser: no server, a model of three lines."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from celeriac import errors
from celeriac.datasets.copies import Copies
from celeriac.datasets.parts import encode_table, read_parts
from celeriac.datasets.planner import plan as plan_dataset
from celeriac.datasets.records import Aggregation, Chunk
from celeriac.datasets.sources import open_source
from celeriac.jobs import extras, memory, policy
from celeriac.jobs.chunk import run_chunk
from celeriac.jobs.columns import join
from celeriac.jobs.duplicates import find_groups
from celeriac.jobs.finalize import finalize
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import DeadChunk
from celeriac.jobs.manifest import read_manifest
from celeriac.jobs.plan import ChunkRecord, JobPlan, Scoring, check_job_id, make_plan, new_job_id
from celeriac.outputs import TableAnswers

NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)


def shout(table: pa.Table) -> TableAnswers:
    """Upper case; the text ``bad`` fails."""
    texts = table["text"].to_pylist()
    bad: dict[int, errors.CeleriacError] = {
        at: errors.ModelFailed("cannot shout that") for at, text in enumerate(texts)
        if text == "bad"
    }
    text = table["text"].combine_chunks()
    upper = pc.if_else(pc.equal(text, "bad"), None, pc.utf8_upper(text))
    return TableAnswers({"prediction": upper}, bad)


def make_job(
    tmp_path: Path, lines: list[str], *, version: int = 1, chunk_rows: int = 2,
    output_format: str = "parquet", source: str = "in.csv", **options: Any,
) -> tuple[JobFolder, JobPlan, list[Chunk]]:
    path = tmp_path / source
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_text("\n".join(["id,text", *lines]) + "\n")
    dataset = plan_dataset(open_source(path), chunk_rows=chunk_rows)
    scoring = Scoring(
        model="shout", version=version, device="cpu", needs=("text",), keeps=("id", "text"),
        output_format=output_format, **options,  # type: ignore[arg-type]
    )
    plan = make_plan(dataset, scoring, source="in.csv", job_id=new_job_id(NOW), now=NOW)
    folder = JobFolder(tmp_path / "out")
    return folder, folder.create(plan, dataset.chunks), list(dataset.chunks)


def run_all(folder: JobFolder, plan: JobPlan, chunks: list[Chunk]) -> list[ChunkRecord]:
    return [run_chunk(folder, plan, chunk, shout) for chunk in chunks]


LINES = ["1,a", "2,bad", "3,c", "4", "5,e"]


def test_a_job_from_plan_to_success(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)
    records = run_all(folder, plan, chunks)
    assert [(one.rows_in, one.rows_ok, one.rows_failed) for one in records] == [
        (2, 1, 1), (2, 1, 1), (1, 1, 0),
    ]
    manifest = finalize(folder, NOW)
    assert manifest.state == "completed_with_errors"
    assert (manifest.rows_in, manifest.rows_ok, manifest.rows_failed) == (5, 3, 2)
    rows = [row for part in manifest.parts for row in pq.read_table(folder.path / part.file)
            .to_pylist()]
    assert rows == [
        {"id": 1, "text": "a", "prediction": "A"}, {"id": 3, "text": "c", "prediction": "C"},
        {"id": 5, "text": "e", "prediction": "E"},
    ]
    failed = [json.loads(line) for part in manifest.parts if part.errors
              for line in (folder.path / part.errors).read_text().splitlines()]
    assert [(row["row"], row["code"], row["message"]) for row in failed] == [
        (2, "model_failed", "cannot shout that"),
        (4, "dataset_invalid", "1 fields where the header has 2"),
    ]
    assert [list(row) for row in failed] == [
        ["source", "row", "id", "code", "message", "data"]
    ] * 2
    assert {row["source"] for row in failed} == {str(tmp_path / "in.csv")}
    assert sorted(file.name for file in folder.path.iterdir()) == [
        "_SUCCESS", "errors", "job.json", "manifest.json", "parts", "plan.jsonl", "report.html",
    ]


@pytest.mark.parametrize("is_stopped", [False, True])
def test_an_output_that_is_deleted_while_a_chunk_runs_does_not_come_back(
    tmp_path: Path, is_stopped: bool
) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)
    run_chunk(folder, plan, chunks[0], shout)

    def deleting(table: pa.Table) -> TableAnswers:
        shutil.rmtree(folder.path)
        return shout(table)

    with pytest.raises(
        errors.Cancelled if is_stopped else errors.JobNotFound,
        match=None if is_stopped else f"output of job {plan.job_id} is gone.*submit the dataset",
    ):
        run_chunk(folder, plan, chunks[1], deleting, holds_lease=lambda: not is_stopped)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.csv"]
    with pytest.raises(errors.JobNotFound, match=f"output of job {plan.job_id} is gone"):
        folder.load_of(plan.job_id)


def test_an_output_that_is_deleted_while_its_job_ends_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)
    run_all(folder, plan, chunks)
    monkeypatch.setattr(extras, "write_aggregates", lambda *_: shutil.rmtree(folder.path))
    with pytest.raises(errors.JobNotFound, match=f"output of job {plan.job_id} is gone"):
        finalize(folder, NOW)
    assert not folder.path.exists()


def test_a_folder_that_another_job_has_taken_is_not_taken_for_the_job(tmp_path: Path) -> None:
    folder, plan, _ = make_job(tmp_path, LINES)
    with pytest.raises(errors.JobFailed, match=f"holds job {plan.job_id} now, not another-one"):
        folder.load_of("another-one")


def test_a_run_of_a_job_whose_output_was_deleted_leaves_that_of_the_next_one_alone(
    tmp_path: Path
) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)

    def slow(table: pa.Table) -> TableAnswers:
        shutil.rmtree(folder.path)
        run_all(*make_job(tmp_path, LINES, version=2))
        finalize(folder, NOW)
        return TableAnswers({"prediction": table["text"].combine_chunks()})

    with pytest.raises(errors.JobFailed, match=f"holds job .* now, not {plan.job_id} any more"):
        run_chunk(folder, plan, chunks[0], slow, epoch=7)
    found = read_manifest(folder)
    assert found is not None
    part = folder.part(0, "parquet").read_bytes()
    assert hashlib.sha256(part).hexdigest() == found.parts[0].sha256
    assert not list(folder.path.rglob(".tmp-*"))


def test_a_finaliser_of_a_job_whose_output_was_deleted_does_not_end_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)
    run_all(folder, plan, chunks)
    other = msgspec.json.encode(replace(plan, job_id="the-next"))
    monkeypatch.setattr(extras, "write_aggregates", lambda *_: folder.job.write_bytes(other) and ())
    with pytest.raises(errors.JobFailed, match=f"holds job the-next now, not {plan.job_id}"):
        finalize(folder, NOW)
    assert not folder.success.exists()
    assert not folder.manifest.exists()


def test_a_finaliser_whose_job_goes_on_takes_nothing_from_its_runs(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)
    run_all(folder, plan, chunks)
    under_way = folder.path / "parts" / ".tmp-of-a-chunk"
    under_way.write_text("")
    with pytest.raises(errors.Cancelled, match="was resumed while it ended"):
        finalize(folder, NOW, is_wanted=lambda: False)
    assert under_way.exists()
    assert not folder.manifest.exists()


def test_a_file_that_was_touched_has_not_changed_if_it_is_submitted_again(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)
    first = run_chunk(folder, plan, chunks[0], shout)
    os.utime(tmp_path / "in.csv", (1, 1))
    with pytest.raises(errors.DatasetError, match="has changed since the job was submitted"):
        run_chunk(folder, plan, chunks[1], shout)
    folder, again, chunks = make_job(tmp_path, LINES)
    assert (again.job_id, again.fingerprint) == (plan.job_id, plan.fingerprint)
    assert run_all(folder, folder.load(), chunks)[0] == first
    assert finalize(folder, NOW).rows_in == 5


def test_a_finished_chunk_is_not_computed_again(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)
    first = run_all(folder, plan, chunks)
    before = {file: file.stat().st_mtime_ns for file in folder.path.rglob("*") if file.is_file()}

    def never(table: pa.Table) -> TableAnswers:
        raise AssertionError("was asked again")

    assert [run_chunk(folder, plan, chunk, never) for chunk in chunks] == first
    after = {file: file.stat().st_mtime_ns for file in folder.path.rglob("*") if file.is_file()}
    assert after == before


@pytest.mark.parametrize("output_format", ["parquet", "csv", "jsonl"])
def test_a_repeated_chunk_writes_the_same_bytes(tmp_path: Path, output_format: str) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES, output_format=output_format)
    run_all(folder, plan, chunks)
    kept = {
        file: file.read_bytes() for file in folder.path.rglob("part-*")
        if file.suffix != ".json"
    }
    assert len(kept) == 5
    for chunk in chunks:
        folder.record(chunk.number).unlink()
    run_all(folder, plan, chunks)
    assert {file: file.read_bytes() for file in kept} == kept


@pytest.mark.parametrize("damage", ["part", "record", "errors", "fingerprint"])
def test_a_damaged_chunk_is_computed_again(tmp_path: Path, damage: str) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)
    run_all(folder, plan, chunks)
    record = folder.record(0)
    if damage == "part":
        part = folder.part(0, "parquet")
        part.write_bytes(part.read_bytes()[:-1] + b"X")
    elif damage == "record":
        record.write_bytes(record.read_bytes()[:40])
    elif damage == "errors":
        folder.errors(0).unlink()
    else:
        record.write_bytes(record.read_bytes().replace(plan.fingerprint.encode(), b"other"))
    with pytest.raises(errors.JobFailed, match="part 0 of 3 is missing or damaged"):
        finalize(folder, NOW)
    assert not folder.success.exists()
    run_all(folder, plan, chunks)
    assert finalize(folder, NOW).rows_in == 5


def test_finalize_twice_changes_nothing(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(tmp_path, ["1,a"])
    run_all(folder, plan, chunks)
    (folder.path / "parts" / ".tmp-1234-part-00000.parquet").write_bytes(b"debris of a kill")
    first = finalize(folder, NOW)
    kept = folder.manifest.read_bytes()
    assert finalize(folder, datetime.now(UTC)) == first == read_manifest(folder)
    assert folder.manifest.read_bytes() == kept
    assert first.state == "completed"
    assert not list(folder.path.rglob(".tmp-*"))


def test_wrong_sums_do_not_pass(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)
    records = run_all(folder, plan, chunks)
    wrong = msgspec.structs.replace(records[0], rows_ok=2)
    folder.record(0).write_bytes(msgspec.json.encode(wrong))
    with pytest.raises(errors.JobFailed, match="part 0"):
        finalize(folder, NOW)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_part_is_on_the_disk_as_it_would_be_in_memory(
    tmp_path: Path, kind: Literal["parquet", "csv", "jsonl"]
) -> None:
    folder, plan, chunks = make_job(
        tmp_path, [f"{n},t{n}" for n in range(50)], chunk_rows=50, output_format=kind
    )
    record = run_chunk(folder, plan, chunks[0], shout)
    data = folder.part(0, kind).read_bytes()
    assert encode_table(read_parts([folder.part(0, kind)], kind), kind).to_pybytes() == data
    assert (record.bytes, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_stopped_chunk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "slice_rows", lambda *_: 2)
    folder, plan, chunks = make_job(tmp_path, [f"{n},t" for n in range(6)], chunk_rows=100)
    asked: list[int] = []

    def after_two() -> bool:
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(errors.Cancelled):
        run_chunk(folder, plan, chunks[0], shout, is_stopped=after_two)
    assert not (folder.path / "parts").exists()


def test_slices_keep_order_and_row_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "slice_rows", lambda *_: 3)
    lines = [f"{n},{'bad' if n % 4 == 0 else n}" for n in range(1, 11)]
    folder, plan, chunks = make_job(tmp_path, lines, chunk_rows=100)
    record = run_chunk(folder, plan, chunks[0], shout)
    assert (record.rows_ok, record.rows_failed) == (8, 2)
    ids = pq.read_table(folder.part(0, "parquet"))["id"].to_pylist()
    assert ids == [1, 2, 3, 5, 6, 7, 9, 10]
    numbers = [json.loads(line)["row"] for line in folder.errors(0).read_text().splitlines()]
    assert numbers == [4, 8]


def test_rows_that_fail_are_named_by_their_id(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES, chunk_rows=100, id_column="id")
    run_chunk(folder, plan, chunks[0], shout)
    failed = map(json.loads, folder.errors(0).read_text().splitlines())
    assert [(row["row"], row["id"], row["code"]) for row in failed] == [
        (2, 2, "model_failed"), (4, None, "dataset_invalid"),
    ]


class Tight:
    """A model with room for ``rows`` rows; longer texts need the room of ten."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.tried: list[int] = []

    def __call__(self, table: pa.Table) -> TableAnswers:
        self.tried.append(table.num_rows)
        needed = sum(10 if len(text) > 9 else 1 for text in table["text"].to_pylist())
        if needed > self.rows:
            raise MemoryError("no room")
        return shout(table)


def test_a_chunk_that_runs_out_of_memory_is_tried_in_smaller_slices(tmp_path: Path) -> None:
    texts = ["much too long" if n in (40, 77) else "short" for n in range(100)]
    folder, plan, chunks = make_job(
        tmp_path, [f"{n},{text}" for n, text in enumerate(texts)], chunk_rows=100, id_column="id",
        error_column=True,
    )
    record = run_chunk(folder, plan, chunks[0], Tight(8))
    assert (record.rows_in, record.rows_ok, record.rows_failed, record.attempt) == (100, 98, 2, 1)
    part = pq.read_table(folder.part(0, "parquet"))
    assert part["id"].to_pylist() == list(range(100))
    assert part["prediction"].to_pylist() == [
        None if n in (40, 77) else "SHORT" for n in range(100)
    ]
    failed = [json.loads(line) for line in folder.errors(0).read_text().splitlines()]
    assert [(row["row"], row["id"], row["code"]) for row in failed] == [
        (41, 40, "resource_exhausted"), (78, 77, "resource_exhausted"),
    ]


def test_without_any_memory_the_attempt_fails_and_no_row_is_blamed(tmp_path: Path) -> None:
    lines = [f"{n},t" for n in range(100)]
    folder, plan, chunks = make_job(tmp_path, lines, chunk_rows=100)
    with pytest.raises(MemoryError):
        run_chunk(folder, plan, chunks[0], Tight(0))

    def every_row_alone(table: pa.Table) -> TableAnswers:
        """As a loaded model says it, which takes a batch apart by itself."""
        none = pa.nulls(table.num_rows, pa.string())
        exhausted = errors.ResourceExhausted("no room")
        return TableAnswers({"prediction": none}, dict.fromkeys(range(table.num_rows), exhausted))

    with pytest.raises(errors.WorkerError, match="for any of 100 rows") as caught:
        run_chunk(folder, plan, chunks[0], every_row_alone)
    assert not policy.ends_job(caught.value, 3, 3)
    assert not list(folder.path.glob("parts/*"))


def test_without_any_memory_no_row_of_a_small_piece_is_blamed(tmp_path: Path) -> None:
    rows = {"id": range(200), "text": [f"{n:05}" * 1_000 for n in range(200)]}
    pq.write_table(pa.table(rows), tmp_path / "in.parquet")
    folder, plan, chunks = make_job(tmp_path, [], chunk_rows=200, source="in.parquet")
    model = Tight(0)
    with pytest.raises(MemoryError):
        run_chunk(folder, plan, chunks[0], model, short=2)
    assert max(model.tried) < 50, "it is read in small pieces"
    assert not list(folder.path.glob("parts/*"))


def test_after_attempts_that_lacked_memory_slices_are_smaller(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(tmp_path, [f"{n},t" for n in range(5_000)], chunk_rows=5_000)
    model = Tight(10_000)
    for short in (0, 1, 2, 9):
        model.tried.clear()
        run_chunk(folder, plan, chunks[0], model, attempt=9, short=short)
        folder.record(0).unlink()
        assert (sum(model.tried), max(model.tried)) == (
            5_000, {0: 5_000, 1: 4_096, 2: 512, 9: 32}[short],
        )


def test_a_slice_takes_a_small_rest_with_it() -> None:
    assert policy.slice_rows(0, 204) == 19_607
    assert policy.slice_rows(0, 204, 20_000) == 20_000
    assert policy.slice_rows(0, 204, 30_000) == 19_607
    assert policy.slice_rows(1, 204, 20_000) == 19_607 // 8


def test_the_kernel_tells_how_often_it_has_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = memory.kernel_mark()
    assert not memory.has_killed(before, before)
    monkeypatch.setattr(memory, "VMSTAT", tmp_path / "vmstat")
    assert (memory.kernel_mark(), memory.has_killed(before, "")) == ("", False)
    (tmp_path / "vmstat").write_text("pgfault 7\noom_kill 3\n")
    first = memory.kernel_mark()
    (tmp_path / "vmstat").write_text("pgfault 9\noom_kill 4\n")
    assert memory.has_killed(first, memory.kernel_mark())
    assert not memory.has_killed(first, f"another-start {memory.kernel_mark().split()[1]}")


@pytest.mark.parametrize("options", [{}, {"error_column": True, "model_column": True}])
def test_equal_rows_are_predicted_once_and_nothing_else_changes(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    lines = [f"{n},{('a', 'bad', 'c')[n % 3]}" for n in range(100)]
    parts = []
    for dedupe in (False, True):
        asked: list[str] = []

        def predict(table: pa.Table, asked: list[str] = asked) -> TableAnswers:
            asked += table["text"].to_pylist()
            return shout(table)

        job = make_job(tmp_path / str(dedupe), lines, chunk_rows=100, dedupe=dedupe, **options)
        folder, plan, chunks = job
        run_chunk(folder, plan, chunks[0], predict)
        assert len(asked) == (3 if dedupe else 100)
        failed = folder.errors(0).read_text().replace(str(tmp_path / str(dedupe)), "")
        parts.append((folder.part(0, "parquet").read_bytes(), failed))
    assert parts[0] == parts[1]


def test_rows_are_equal_bit_by_bit() -> None:
    table = pa.table({
        "x": [0.0, -0.0, 1.0, float("nan"), None, 1.0, 0.0, None, float("nan")],
        "y": ["a"] * 9,
    })
    groups = find_groups(table)
    assert groups.first.tolist() == [0, 1, 2, 3, 4]
    assert groups.group_of.tolist() == [0, 1, 2, 3, 4, 2, 0, 4, 3]
    lists = find_groups(pa.table({"x": [[1], [1]]}))
    assert lists.group_of.tolist() == [0, 1]
    assert find_groups(table.slice(0, 0)).first.tolist() == []


def test_a_chunk_without_a_good_row_is_a_part(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(tmp_path, ["1,a", "2,b", "x", "y"])
    run_all(folder, plan, chunks)
    manifest = finalize(folder, NOW)
    assert [part.rows for part in manifest.parts] == [2, 0]
    empty = pq.read_table(folder.path / manifest.parts[1].file)
    assert empty.column_names == ["id", "text", "prediction"]


def test_an_input_column_named_like_an_answer_is_renamed(tmp_path: Path) -> None:
    table = pa.table({"prediction": ["old"], "input_prediction": ["older"]})
    answers = TableAnswers({"prediction": pa.array(["new"])})
    joined, _ = join(table, answers, ("prediction", "input_prediction"))
    assert joined.to_pylist() == [
        {"input_input_prediction": "old", "input_prediction": "older", "prediction": "new"}
    ]


def test_csv_parts_hold_a_header_each(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(tmp_path, ["1,a", '2,"b,""c"', "3,d"], output_format="csv")
    run_all(folder, plan, chunks)
    found = [arrow_csv.read_csv(folder.part(n, "csv")).to_pylist() for n in range(2)]
    assert found == [
        [{"id": 1, "text": "a", "prediction": "A"},
         {"id": 2, "text": 'b,"c', "prediction": 'B,"C'}],
        [{"id": 3, "text": "d", "prediction": "D"}],
    ]


def test_the_same_job_may_come_again_and_another_may_not(tmp_path: Path) -> None:
    folder, plan, _ = make_job(tmp_path, LINES)
    _, again, _ = make_job(tmp_path, LINES)
    assert again == plan
    with pytest.raises(errors.OutputConflict, match=r"holds job .* by shout@1.*shout@2"):
        make_job(tmp_path, LINES, version=2)
    with pytest.raises(errors.OutputConflict, match="data, model version or options"):
        make_job(tmp_path, LINES, chunk_rows=3)
    assert folder.load() == plan


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(errors.OutputConflict, match=r"not empty and holds no job \(thesis.txt"):
        make_job(tmp_path, LINES)
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.OutputConflict, match="is a file"):
        JobFolder(tmp_path / "file").check_free()


def test_a_damaged_plan_is_noticed(tmp_path: Path) -> None:
    folder, plan, _ = make_job(tmp_path, LINES)
    folder.plan.write_bytes(folder.plan.read_bytes().splitlines()[0])
    with pytest.raises(errors.JobFailed, match="does not fit"):
        folder.chunks(plan)
    folder.job.write_text("{")
    with pytest.raises(errors.JobNotFound, match="is damaged"):
        folder.load()
    with pytest.raises(errors.JobNotFound, match="is not the output of a job"):
        JobFolder(tmp_path / "nowhere").load()


def test_a_full_disk_or_a_registry_that_is_away_costs_no_chunk_but_ends_the_job() -> None:
    full = errors.StorageError("out/parts/part-00000.parquet: No space left on device")
    away = errors.RegistryError("the registry is gone; is its disk mounted?")
    for error in (full, away):
        ends = [policy.ends_job(error, attempt, 3) for attempt in (1, 2, 3)]
        assert ends == [False, False, True]


def test_a_record_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("celeriac.jobs.staged.create_file", full)
    with pytest.raises(errors.StorageError, match="cannot be written: No space") as caught:
        run_chunk(folder, plan, chunks[0], shout)
    assert str(folder.record(0)) in caught.value.message
    assert not list(folder.path.glob("parts/.*"))


def test_what_can_heal_is_tried_again() -> None:
    assert [policy.retry_delay_s(attempt) for attempt in (1, 2, 9)] == [2, 4, 60]
    assert not policy.ends_job(OSError("disk"), 3, 3)
    assert not policy.ends_job(MemoryError(), 3, 3)
    assert not policy.ends_job(errors.UnreadableFile("damaged, or the server is away"), 3, 3)
    assert policy.ends_job(errors.DatasetError("changed"), 1, 3)
    assert policy.ends_job(errors.ModelCorrupt("x"), 1, 3)
    assert policy.ends_job(errors.VersionNotFound("deleted"), 1, 3)
    assert "attempt 3 of 3: OSError('disk')" in policy.reason(OSError("disk"), 7, 3, 3)


@pytest.mark.parametrize("job_id", ["", "a b", "../x", "x" * 65, "-a"])
def test_job_ids_are_checked(job_id: str) -> None:
    with pytest.raises(errors.RequestError):
        check_job_id(job_id)
    assert check_job_id(new_job_id(NOW)).startswith("20261122-030000-")


@pytest.mark.parametrize("output_format", ["parquet", "csv", "jsonl"])
def test_the_merged_file_holds_all_rows_in_order_and_always_the_same_bytes(
    tmp_path: Path, output_format: str
) -> None:
    lines = [*LINES, "6,bad", "7,bad", '8,"h\ni"', "9,j"]
    folder, plan, chunks = make_job(tmp_path, lines, output_format=output_format, merge=True)
    run_all(folder, plan, chunks)
    manifest = finalize(folder, NOW)
    assert manifest.merged is not None
    assert (manifest.merged.file, manifest.merged.rows) == (f"predictions.{output_format}", 5)
    path = folder.path / manifest.merged.file
    kept = path.read_bytes()
    assert len(kept) == manifest.merged.bytes
    rows = read_parts([path], plan.scoring.output_format).select(["id", "prediction"]).to_pylist()
    assert rows == [
        {"id": 1, "prediction": "A"}, {"id": 3, "prediction": "C"}, {"id": 5, "prediction": "E"},
        {"id": 8, "prediction": "H\nI"}, {"id": 9, "prediction": "J"},
    ]
    for file in (folder.success, folder.manifest, path):
        file.unlink()
    again = finalize(folder, NOW)
    assert (again.merged, again.parts) == (manifest.merged, manifest.parts)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("output_format", ["parquet", "csv", "jsonl"])
def test_aggregates_are_files_of_the_job(tmp_path: Path, output_format: str) -> None:
    wanted = Aggregation.of({"by": "text", "mean": "id", "share": {"prediction": "A"}})
    folder, plan, chunks = make_job(
        tmp_path, ["1,a", "2,b", "4,a", "5", "7,bad", "6,b"], output_format=output_format,
        aggregate=wanted, error_column=True,
    )
    run_all(folder, plan, chunks)
    manifest = finalize(folder, NOW)
    assert [(one.file, one.rows) for one in manifest.aggregates] == [
        ("aggregates.parquet", 2), ("aggregates.csv", 2),
    ]
    assert pq.read_table(folder.path / "aggregates.parquet").to_pylist() == [
        {"text": "a", "count": 2, "id_mean": 2.5, "prediction_share_A": 1.0},
        {"text": "b", "count": 2, "id_mean": 4.0, "prediction_share_A": 0.0},
    ]
    assert (folder.path / "aggregates.csv").read_text().splitlines()[1] == '"a",2,2.5,1'


@pytest.mark.parametrize("output_format", ["parquet", "csv", "jsonl"])
def test_aggregates_are_the_same_in_every_format(tmp_path: Path, output_format: str) -> None:
    _, plan, _ = make_job(tmp_path, ["1,a"], output_format=output_format)
    wanted = Aggregation.of({"by": "text", "mean": ["is_new", "price", "score"]})
    source = pa.table({
        "id": [1, 2, 3], "text": ["a", "a", "b"], "is_new": [True, False, None],
        "price": pa.array([Decimal("1.10"), None, Decimal("2.00")], pa.decimal128(5, 2)),
        "score": [math.nan, 3.0, 1e300],
    })
    pq.write_table(source, tmp_path / "typed.parquet")
    dataset = plan_dataset(open_source(tmp_path / "typed.parquet"), chunk_rows=1)
    scoring = replace(plan.scoring, keeps=tuple(source.column_names), aggregate=wanted)
    ours = make_plan(dataset, scoring, source="", job_id=new_job_id(NOW), now=NOW)
    folder = JobFolder(tmp_path / "typed")
    run_all(folder, folder.create(ours, dataset.chunks), list(dataset.chunks))
    finalize(folder, NOW)
    found = pq.read_table(folder.aggregates("parquet")).to_pylist()
    assert found == [
        {"text": "a", "count": 2, "is_new_mean": 0.5, "price_mean": 1.1, "score_mean": 3.0},
        {"text": "b", "count": 1, "is_new_mean": None, "price_mean": 2.0, "score_mean": 1e300},
    ]


@pytest.mark.parametrize("output_format", ["parquet", "csv", "jsonl"])
def test_groups_of_what_is_measured_are_not_rounded(tmp_path: Path, output_format: str) -> None:
    wanted = Aggregation.of({"by": "id", "mean": "id"})
    lines = [f"{2**53},a", f"{2**53 + 1},b"]
    folder, plan, chunks = make_job(
        tmp_path, lines, output_format=output_format, aggregate=wanted,
    )
    run_all(folder, plan, chunks)
    finalize(folder, NOW)
    groups = pq.read_table(folder.aggregates("parquet"))
    assert [int(one) for one in groups["id"].to_pylist()] == [2**53, 2**53 + 1]
    assert groups["id_mean"].to_pylist() == [2.0**53] * 2


@pytest.mark.parametrize("output_format", ["parquet", "csv", "jsonl"])
def test_groups_shares_and_periods_are_the_same_in_every_format(
    tmp_path: Path, output_format: str
) -> None:
    """Whatever is null, and wherever: a whole part may be."""
    source = pa.table({
        "text": [None, "", "007", "7", None, None], "at": [1735689600, 0, 86400, None, None, None],
        "size": [1.5, None, 2.5, None, None, None],
    })
    pq.write_table(source, tmp_path / "in.parquet")
    wanted = [
        {"by": "text", "share": {"size": "1.5"}},
        {"by": ["at", "text"], "period": {"at": "month"}, "mean": "size"},
    ]
    found = []
    for number, one in enumerate(wanted):
        dataset = plan_dataset(open_source(tmp_path / "in.parquet"), chunk_rows=2)
        scoring = Scoring(
            model="twice", version=1, device="cpu", needs=("size",), keeps=("text", "at", "size"),
            output_format=output_format,  # type: ignore[arg-type]
            error_column=True, aggregate=Aggregation.of(one),
        )
        plan = make_plan(dataset, scoring, source="", job_id=new_job_id(NOW), now=NOW)
        folder = JobFolder(tmp_path / f"out{number}")
        folder.create(plan, dataset.chunks)
        for chunk in dataset.chunks:
            run_chunk(folder, plan, chunk, lambda table: TableAnswers(
                {"prediction": pc.multiply(table["size"], 2).combine_chunks()}
            ))
        manifest = finalize(folder, NOW)
        found.append(pq.read_table(folder.aggregates("parquet")).to_pylist())
        rows = read_parts([folder.path / one.file for one in manifest.parts], output_format)  # type: ignore[arg-type]
        assert rows["text"].to_pylist() == source["text"].to_pylist()
        assert rows["prediction"].to_pylist() == [3.0, None, 5.0, None, None, None]
    months = [datetime(1970, 1, 1).date(), datetime(2025, 1, 1).date()]  # noqa: DTZ001
    assert found[0] == [
        {"text": "", "count": 1, "size_share_1.5": None},
        {"text": "007", "count": 1, "size_share_1.5": 0.0},
        {"text": "7", "count": 1, "size_share_1.5": None},
        {"text": None, "count": 3, "size_share_1.5": 1.0},
    ]
    assert found[1] == [
        {"at": months[0], "text": "", "count": 1, "size_mean": None},
        {"at": months[0], "text": "007", "count": 1, "size_mean": 2.5},
        {"at": months[1], "text": None, "count": 1, "size_mean": 1.5},
        {"at": None, "text": "7", "count": 1, "size_mean": None},
        {"at": None, "text": None, "count": 2, "size_mean": None},
    ]


@pytest.mark.parametrize("output_format", ["parquet", "csv", "jsonl"])
def test_a_job_of_which_every_row_failed_has_aggregates_of_nothing(
    tmp_path: Path, output_format: str
) -> None:
    wanted = Aggregation.of({"by": "text", "mean": "id", "quantiles": {"id": [0.5]}, "std": "id"})
    folder, plan, chunks = make_job(
        tmp_path, ["1,bad", "2,bad"], output_format=output_format, aggregate=wanted
    )
    run_all(folder, plan, chunks)
    manifest = finalize(folder, NOW)
    assert (manifest.state, manifest.rows_failed) == ("completed_with_errors", 2)
    assert [one.rows for one in manifest.aggregates] == [0, 0]


@pytest.mark.parametrize("is_summed_up", [True, False])
def test_a_summary_of_reviews_goes_with_its_job(tmp_path: Path, is_summed_up: bool) -> None:
    """Of a job that aggregates nothing, a file of that name is somebody else's."""
    aggregate = Aggregation.of({"by": "text"}) if is_summed_up else None
    folder, plan, chunks = make_job(tmp_path, LINES, aggregate=aggregate)
    run_all(folder, plan, chunks)
    for ends in (lambda: folder.reopen([]), folder.purge):
        finalize(folder, NOW)
        pages = [folder.summary("json"), folder.summary("html")]
        for page in pages:
            page.write_text("stale")
        ends()
        assert [page.exists() for page in pages] == [not is_summed_up] * 2
    assert folder.path.exists() is not is_summed_up


@pytest.mark.parametrize("chunk_rows", [1, 2, 100])
def test_with_an_error_column_every_row_stays_in_its_place(
    tmp_path: Path, chunk_rows: int
) -> None:
    folder, plan, chunks = make_job(
        tmp_path, LINES, chunk_rows=chunk_rows, error_column=True, model_column=True
    )
    records = run_all(folder, plan, chunks)
    assert sum(record.rows_ok for record in records) == 3
    manifest = finalize(folder, NOW)
    assert sum(part.rows for part in manifest.parts) == 5
    table = pa.concat_tables(
        [pq.read_table(folder.path / part.file) for part in manifest.parts],
        promote_options="permissive",
    )
    assert table.column_names == ["id", "text", "prediction", "model", "error"]
    assert table.select(["id", "error"]).to_pylist() == [
        {"id": 1, "error": None}, {"id": 2, "error": "model_failed: cannot shout that"},
        {"id": 3, "error": None},
        {"id": None, "error": "dataset_invalid: 1 fields where the header has 2"},
        {"id": 5, "error": None},
    ]
    assert table["model"][0].as_py() == "shout@1"
    failed = [json.loads(line)["row"] for chunk in chunks
              if folder.errors(chunk.number).exists()
              for line in folder.errors(chunk.number).read_text().splitlines()]
    assert failed == [2, 4]


def test_a_failed_prediction_is_null_beside_its_error(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(tmp_path, ["1,bad"], error_column=True)
    run_all(folder, plan, chunks)
    row = pq.read_table(folder.part(0, "parquet")).to_pylist()[0]
    assert (row["prediction"], row["error"]) == (None, "model_failed: cannot shout that")


def test_what_a_job_copied_of_its_source_goes_when_it_is_complete(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "out")
    dataset = plan_dataset(
        open_source(pa.table({"id": [1, 2], "text": ["a", "b"]})), copies=Copies(folder.copies)
    )
    folder.check_free()  # a copy alone is no other job
    scoring = Scoring(model="shout", version=1, device="cpu", needs=("text",), keeps=("id",))
    plan = folder.create(
        make_plan(dataset, scoring, source="a frame", job_id="one", now=NOW), dataset.chunks
    )
    run_all(folder, plan, list(dataset.chunks))
    assert folder.copies.exists()
    shutil.copytree(folder.copies, tmp_path / "copies")
    finalize(folder, NOW)
    assert not folder.copies.exists()
    shutil.copytree(tmp_path / "copies", folder.copies)  # the finaliser was killed before
    finalize(folder, NOW)
    assert not folder.copies.exists()


FULL = """
import resource, sys
from pathlib import Path
import pyarrow as pa
from celeriac import errors
from celeriac.datasets.parts import write_part
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
table = pa.table({"id": range(100_000)})
for kind in ("parquet", "csv", "jsonl"):
    try:
        write_part(Path(sys.argv[1]) / f"part.{kind}", table, kind)
    except errors.StorageError as error:
        print(error.message)
"""


def test_a_disk_that_takes_no_more_leaves_no_part(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True,
        timeout=60,
    )
    told = done.stdout.splitlines()
    assert told == [
        f"{tmp_path}/part.{kind}: cannot be written: File too large"
        for kind in ("parquet", "csv", "jsonl")
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_lost_its_lease_writes_nothing(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)
    with pytest.raises(errors.Cancelled, match="is another's now"):
        run_chunk(folder, plan, chunks[0], shout, holds_lease=lambda: False, epoch=7)
    assert [file for file in folder.path.rglob("*part*") if file.is_file()] == []


def test_a_run_that_was_overtaken_changes_nothing(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)

    def overtaken() -> bool:  # between the check of the lease and the record
        run_chunk(folder, plan, chunks[0], shout, epoch=8)
        return True

    def whisper(table: pa.Table) -> TableAnswers:  # a model that does not answer alike twice
        return TableAnswers({"prediction": table["text"].combine_chunks()})

    record = run_chunk(folder, plan, chunks[0], whisper, holds_lease=overtaken, epoch=7)
    assert record.epoch == 8
    assert pq.read_table(folder.part(0, "parquet"))["prediction"].to_pylist() == ["A"]
    assert folder.valid_record(plan, chunks[0]) == record
    assert not list(folder.path.rglob(".tmp-*"))


def test_a_kill_after_the_record_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("celeriac.jobs.staged.StagedFiles.settle", killed)
        with pytest.raises(SystemExit):
            run_chunk(folder, plan, chunks[0], shout, epoch=7)
    assert not folder.part(0, "parquet").exists()
    (folder.path / "errors" / ".tmp-e7-part-00000.jsonl").rename(folder.errors(0))  # half of it
    record = folder.valid_record(plan, chunks[0])
    assert record is not None
    assert record.epoch == 7
    assert pq.read_table(folder.part(0, "parquet"))["prediction"].to_pylist() == ["A"]


def test_a_disk_that_takes_no_names_is_told_of_only_if_something_lacks_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also to whoever only reads there. It ended chunks one by one instead of their job."""
    folder, plan, chunks = make_job(tmp_path, LINES)
    done = run_chunk(folder, plan, chunks[2], shout)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "replace", read_only)
    with pytest.raises(errors.StorageError, match=r"part-00000\.parquet: cannot be written"):
        run_chunk(folder, plan, chunks[0], shout, epoch=7)
    monkeypatch.setattr(Path, "unlink", read_only)
    assert folder.valid_record(plan, chunks[2]) == done


def test_a_dead_chunk_is_in_the_manifest_with_its_rows(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(tmp_path, LINES)
    run_chunk(folder, plan, chunks[0], shout)
    run_chunk(folder, plan, chunks[2], shout)
    dead = DeadChunk(1, 3, "no luck", "w", 0, dropped=False)
    manifest = finalize(folder, NOW, [dead])
    assert (manifest.state, manifest.rows_in, manifest.rows_ok, manifest.rows_dead) == (
        "completed_with_errors", 5, 2, 2,
    )
    assert [(one.first_row, one.rows, one.reason) for one in manifest.dead] == [(3, 2, "no luck")]
    (folder.path / "predictions.csv").write_text("somebody's own")
    folder.reopen([1])
    assert read_manifest(folder) is None
    assert (folder.path / "predictions.csv").exists()
    run_chunk(folder, plan, chunks[1], shout)  # a record counts, whatever the ledger says
    assert finalize(folder, NOW, [dead]).dead == ()


def test_what_is_made_of_the_parts_lacks_dead_chunks_until_they_are_scored(tmp_path: Path) -> None:
    folder, plan, chunks = make_job(
        tmp_path, LINES, error_column=True, merge=True, aggregate=Aggregation.of({"by": "text"})
    )
    run_chunk(folder, plan, chunks[0], shout)
    run_chunk(folder, plan, chunks[2], shout)
    dead = [DeadChunk(1, 3, "no luck", "w", 0, dropped=False)]
    manifest = finalize(folder, NOW, dead)
    assert (manifest.rows_in, manifest.rows_ok, manifest.rows_failed, manifest.rows_dead) == (
        5, 2, 3, 2,
    )
    assert [part.rows for part in manifest.parts] == [2, 1]  # with the row that failed
    assert manifest.merged is not None
    assert manifest.merged.rows == 3
    assert [one.rows for one in manifest.aggregates] == [2, 2]
    folder.reopen([1])
    assert not {"predictions.parquet", "aggregates.csv"} & {at.name for at in folder.path.iterdir()}
    run_chunk(folder, plan, chunks[1], shout)
    manifest = finalize(folder, NOW)
    assert (manifest.rows_ok, manifest.rows_failed, manifest.rows_dead) == (3, 2, 0)
    merged = pq.read_table(folder.merged("parquet"))
    assert merged["id"].to_pylist() == [1, 2, 3, None, 5]
    assert pq.read_table(folder.aggregates("parquet"))["text"].to_pylist() == ["a", "c", "e"]


def test_what_a_job_copied_of_its_source_stays_while_chunks_can_be_tried_again(
    tmp_path: Path,
) -> None:
    folder = JobFolder(tmp_path / "out")
    dataset = plan_dataset(
        open_source(pa.table({"id": range(4), "text": list("abcd")})), chunk_rows=2,
        copies=Copies(folder.copies),
    )
    scoring = Scoring(model="shout", version=1, device="cpu", needs=("text",), keeps=("id",))
    plan = folder.create(
        make_plan(dataset, scoring, source="a frame", job_id="one", now=NOW), dataset.chunks
    )
    run_chunk(folder, plan, dataset.chunks[0], shout)
    finalize(folder, NOW, [DeadChunk(1, 3, "no luck", "w", 0, dropped=False)])
    folder.reopen([1])
    run_chunk(folder, plan, dataset.chunks[1], shout)
    assert finalize(folder, NOW).state == "completed"
    assert not folder.copies.exists()


def test_a_job_without_a_single_part_has_failed(tmp_path: Path) -> None:
    folder, _, chunks = make_job(tmp_path, LINES)
    dead = [DeadChunk(one.number, 3, "no luck", "w", 0, dropped=False) for one in chunks]
    with pytest.raises(errors.JobFailed, match="no chunk could be scored; no luck"):
        finalize(folder, NOW, dead)
