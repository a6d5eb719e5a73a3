"""Which rows of a job are sampled, and what is kept of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from celeriac import errors
from celeriac.datasets.planner import plan as plan_dataset
from celeriac.datasets.records import Chunk, DatasetColumn, SourceFile
from celeriac.datasets.sources import open_source
from celeriac.jobs import sample
from celeriac.jobs.chunk import run_chunk
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.plan import JobPlan, Scoring, make_plan
from celeriac.jobs.sample import JobSample, picks, read_samples, sample_rows
from celeriac.outputs import TableAnswers

NOW = datetime(2026, 11, 22, 3, tzinfo=UTC)


def planned(file_rows: list[int], wanted: int, columns: int = 1) -> JobPlan:
    names = tuple(f"c{n}" for n in range(columns))
    return JobPlan(
        contract=1, job_id="j", fingerprint="f", source="s", format="parquet", chunks=1,
        files=tuple(
            SourceFile(path="p", size=1, mtime_ns=1, sha256="", rows=rows) for rows in file_rows
        ),
        columns=tuple(DatasetColumn(name=name, dtype="text") for name in names),
        scoring=Scoring(model="m", version=1, device="cpu", needs=names, keeps=()),
        rows=sum(file_rows), created_at="", sample_rows=wanted,
    )


def cut(file_rows: list[int], chunk_rows: int) -> list[Chunk]:
    found: list[Chunk] = []
    for file, rows in enumerate(file_rows):
        for first in range(0, rows, chunk_rows):
            found.append(Chunk(
                number=len(found), file=file, first_row=first, rows=min(chunk_rows, rows - first)
            ))
    return found


def places(plan: JobPlan, chunks: list[Chunk]) -> list[int]:
    """Rows of the whole dataset that are sampled."""
    starts = np.concatenate([[0], np.cumsum([file.rows for file in plan.files])])
    return [
        int(starts[chunk.file]) + chunk.first_row + int(at)
        for chunk in chunks for at in picks(plan, chunk)
    ]


@given(
    file_rows=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    chunk_rows=st.integers(1, 200), other=st.integers(1, 200), wanted=st.integers(0, 300),
)
def test_as_many_rows_as_wanted_however_the_dataset_is_cut(
    file_rows: list[int], chunk_rows: int, other: int, wanted: int
) -> None:
    plan = planned(file_rows, wanted)
    found = places(plan, cut(file_rows, chunk_rows))
    assert len(found) == len(set(found)) == min(wanted, plan.rows)
    assert found == sorted(found)
    assert found == places(plan, cut(file_rows, other))


def test_the_sample_is_spread_and_does_not_fall_into_step() -> None:
    plan = planned([5_000_000_000], 100_000)
    found = np.array(places(plan, [Chunk(number=0, file=0, first_row=0, rows=plan.rows)]))
    assert np.abs(found - np.linspace(0, plan.rows, 100_000)).max() <= 2 * 50_000
    assert np.bincount(found % 10, minlength=10).min() > 9_500


def test_many_columns_give_fewer_rows() -> None:
    assert sample_rows(planned([200_000], 100_000, columns=1)) == 100_000
    assert sample_rows(planned([200_000], 100_000, columns=100)) == 1_666


def score(table: pa.Table) -> TableAnswers:
    ids = table["id"].to_pylist()
    bad: dict[int, errors.CeleriacError] = {
        at: errors.InvalidItem("column 'id': too bad") for at, n in enumerate(ids) if n % 7 == 0
    }
    answers = [None if at in bad else n * 10 for at, n in enumerate(ids)]
    return TableAnswers({"prediction": pa.array(answers, pa.int64())}, bad)


def job(tmp_path: Path, wanted: int, **options: Any) -> tuple[JobFolder, JobPlan, list[Chunk]]:
    path = tmp_path / "in.parquet"
    pq.write_table(
        pa.table({"id": range(100), "text": [f"{n} " * 50 for n in range(100)]}), path,
        row_group_size=10,
    )
    dataset = plan_dataset(open_source(path), chunk_rows=10)
    scoring = Scoring(model="m", version=1, device="cpu", needs=("id",), keeps=("text",), **options)
    plan = make_plan(dataset, scoring, source="in", job_id="j", now=NOW, sample_rows=wanted)
    folder = JobFolder(tmp_path / "out")
    return folder, folder.create(plan, dataset.chunks), list(dataset.chunks)


def read(found: JobSample) -> list[dict[str, Any]]:
    return [row for table in found.tables for row in table.to_pylist()]


@pytest.mark.parametrize("error_column", [False, True])
@pytest.mark.parametrize("wanted", [40, 100])
def test_each_row_has_its_answer(tmp_path: Path, wanted: int, error_column: bool) -> None:
    folder, plan, chunks = job(tmp_path, wanted, error_column=error_column, model_column=True)
    records = [run_chunk(folder, plan, chunk, score) for chunk in chunks]
    found = read_samples(folder, plan, chunks)
    assert (found.rows, found.missing) == (wanted, [])
    for row in read(found):
        number = row["input.id"]
        assert row == {
            "input.text": {"text": (f"{number} " * 50)[:60], "chars": len(f"{number} ") * 50},
            "input.id": number, "answer.prediction": None if number % 7 == 0 else number * 10,
        }
    assert sum(record.bad_columns["id"] for record in records) == 15
    assert sum(record.failures[errors.InvalidItem.code] for record in records) == 15
    assert all(record.sample_seconds > 0 for record in records)


def test_a_lost_sample_is_missed_and_the_same_again(tmp_path: Path) -> None:
    folder, plan, chunks = job(tmp_path, 50)
    for chunk in chunks:
        run_chunk(folder, plan, chunk, score)
    before = folder.sample(3).read_bytes()
    folder.sample(2).unlink()
    folder.sample(3).write_bytes(before[:100])
    folder.sample(4).write_bytes(b"")
    assert read_samples(folder, plan, chunks).missing == [2, 3, 4]
    folder.record(3).unlink()
    run_chunk(folder, plan, chunks[3], score)
    assert folder.sample(3).read_bytes() == before
    assert not list((folder.path / "samples").glob(".tmp*"))


def test_no_sample_no_folder(tmp_path: Path) -> None:
    folder, plan, chunks = job(tmp_path, 0)
    run_chunk(folder, plan, chunks[0], score)
    assert not (folder.path / "samples").exists()
    assert read_samples(folder, plan, chunks).missing == []


def test_a_sample_that_fails_costs_no_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, chunks = job(tmp_path, 50)

    def fail(table: pa.Table) -> pa.Table:
        raise MemoryError

    monkeypatch.setattr(sample, "condense", fail)
    assert run_chunk(folder, plan, chunks[0], score).rows_in == 10
    assert read_samples(folder, plan, chunks[:1]).missing == [0]
