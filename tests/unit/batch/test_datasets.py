"""Planning and reading: columns, types, bad rows, bad files."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from celeriac import errors
from celeriac.datasets import parquet, reader
from celeriac.datasets.parquet import Group, cut_groups
from celeriac.datasets.parts import encode_into, encode_table, repeating
from celeriac.datasets.planner import plan
from celeriac.datasets.reader import read_chunk, read_pieces
from celeriac.datasets.records import DatasetPlan, RowError
from celeriac.datasets.sources import open_source
from celeriac.jobs.folder import JobFolder


def read_all(planned: DatasetPlan) -> tuple[list[dict[str, Any]], list[int], list[RowError]]:
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    bad: list[RowError] = []
    names = [column.name for column in planned.columns]
    for chunk in planned.chunks:
        found = read_chunk(planned.format, planned.files, chunk, planned.columns, names)
        assert found.table.num_rows + len(found.errors) == chunk.rows
        rows += found.table.to_pylist()
        numbers += found.numbers.tolist()
        bad += found.errors
    return rows, numbers, bad


def test_types_come_from_the_head_and_hold_in_every_chunk(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = ["id,zip,price,flag,note,empty", *(f"{n},00{n},{n}.5,true,2026-11-0{n},"
             for n in range(1, 6))]
    path.write_text("\n".join(lines))
    source = open_source(path)
    types = {column.name: column.dtype for column in source.columns}
    assert types == {
        "id": "int", "zip": "text", "price": "float", "flag": "bool", "note": "text",
        "empty": "text",
    }
    rows, numbers, bad = read_all(plan(source, chunk_rows=2))
    assert numbers == [1, 2, 3, 4, 5]
    assert bad == []
    assert rows[0] == {
        "id": 1, "zip": "001", "price": 1.5, "flag": True, "note": "2026-11-01", "empty": "",
    }


def test_long_numbers_stay_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id\n12345678901234567890\n1\n")
    rows, _, _ = read_all(plan(open_source(path)))
    assert rows == [{"id": "12345678901234567890"}, {"id": "1"}]


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 100])
def test_bad_rows_are_errors_and_their_neighbours_are_read(
    tmp_path: Path, chunk_rows: int
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        b'\xef\xbb\xbfid,text,x\r\n1,"a\nb ""q""",1.5\r\n2,b\r\n\r\n3,5" pipe,\r\n'
        b"4,\xff,3\r\n5,e,abc\r\n6,f,7"
    )
    planned = plan(open_source(path), chunk_rows=chunk_rows, dtypes={"x": "float"})
    rows, numbers, bad = read_all(planned)
    assert planned.rows == 6
    assert rows == [
        {"id": 1, "text": 'a\nb "q"', "x": 1.5},
        {"id": 3, "text": '5" pipe', "x": None},
        {"id": 6, "text": "f", "x": 7.0},
    ]
    assert numbers == [1, 3, 6]
    assert [(error.row, error.message) for error in bad] == [
        (2, "2 fields where the header has 3"),
        (4, "not valid UTF-8 (invalid start byte)"),
        (5, "column 'x': 'abc' is not a number"),
    ]
    assert bad[0].data == "2,b"
    assert "abc" in bad[2].data


def test_a_late_misfit_in_a_column_of_the_model_is_a_row_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    head = "".join(f"{n}\n" for n in range(800_000))
    path.write_text(f"id\n{head}x7\n{5}\n")
    planned = plan(open_source(path), chunk_rows=500_000, dtypes={"id": "int"})
    chunk = planned.chunks[-1]
    found = read_chunk("csv", planned.files, chunk, planned.columns, ["id"])
    assert found.table.schema.field("id").type == pa.int64()
    assert [(bad.row, bad.message) for bad in found.errors] == [
        (800_001, "column 'id': 'x7' is not a whole number")
    ]


def test_nothing_in_a_csv_is_null_where_the_model_takes_null(tmp_path: Path) -> None:
    """Beside it an empty text stays one, as in every other dataset."""
    path = tmp_path / "a.csv"
    path.write_text('id,city,plan\n1,,\n2,"",pro\n3,Oslo,free\n')
    dataset = plan(
        open_source(path), dtypes={"city": "text", "plan": "text"}, nullable=["city", "x"]
    )
    (chunk,) = dataset.chunks
    found = read_chunk("csv", dataset.files, chunk, dataset.columns, ["city", "plan"]).table
    assert found.to_pydict() == {"city": [None, None, "Oslo"], "plan": ["", "pro", "free"]}


def test_a_huge_row_error_is_clipped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n" + "é" * 10_000 + "\n")
    _, _, bad = read_all(plan(open_source(path)))
    assert len(bad[0].data.encode()) <= 4_000


def test_small_datasets_are_cut_for_parallel_work(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n" + "1\n" * 40_000)
    assert len(plan(open_source(path)).chunks) == 10
    path.write_text("a\n" + "1\n" * 900)
    assert len(plan(open_source(path)).chunks) == 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"\n\n", "holds no header"),
        ("a.csv", b"a,b\n", "has columns but no rows"),
        ("a.csv", b"a,b,a\n1,2,3\n", "names a column twice: a"),
        ("a.csv", b"a," + b"b" * 200_000 + b"\n1,2\n", "the header cannot be read"),
        ("a.csv", b"\xff\xfea\x00\n\x00", "header is not valid UTF-8"),
        ("a.csv", b'a,b\n1,2\n3,"4\n5,6\n', "row 2 opens a quote that is never closed"),
        ("a.parquet", b"", "the file is empty"),
        ("a.parquet", b"PAR1 and then nothing", "cannot be read as Parquet"),
        ("a.xlsx", b"x", "a dataset is made of .csv"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(errors.DatasetError) as caught:
        plan(open_source(path))
    assert says in caught.value.message
    assert str(path) in caught.value.message


def test_a_parquet_file_that_names_a_column_twice_or_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = [pa.array(["x"]), pa.array(["y"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["a", "a"]), path)
    with pytest.raises(errors.DatasetError, match="names a column twice: a"):
        open_source(path)
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), path)
    source = open_source(path)
    with pytest.raises(errors.DatasetError, match="has columns but no rows"):
        plan(source)


def test_a_truncated_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": list(range(1_000))}), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(errors.DatasetError, match="cut short"):
        open_source(path)


def odd_texts() -> pa.Array:
    """Three texts; the second is not UTF-8."""
    odd = pa.array([b"ok", b"\xff", b"fine"], pa.binary())
    return pa.StringArray.from_buffers(3, odd.buffers()[1], odd.buffers()[2])


@pytest.mark.parametrize("nested", [
    pa.ListArray.from_arrays([0, 1, 2, 3], odd_texts()),
    pa.StructArray.from_arrays([pa.ListArray.from_arrays([0, 1, 2, 3], odd_texts())], ["b"]),
    pa.MapArray.from_arrays([0, 1, 2, 3], pa.array(["a", "b", "c"]), odd_texts()),
], ids=["list", "struct", "map"])
def test_odd_texts_in_lists_are_bad_rows(tmp_path: Path, nested: pa.Array) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1, 2, 3], "tags": nested}), path)
    rows, numbers, bad = read_all(plan(open_source(path)))
    assert ([row["id"] for row in rows], numbers) == ([1, 3], [1, 3])
    assert [(error.row, error.message) for error in bad] == [
        (2, "column 'tags' is not valid UTF-8 (invalid start byte)")
    ]


def test_a_home_folder_is_meant_as_by_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.csv").write_text("a\n1\n")
    for source in ("~/a.csv", "~/*.csv"):
        assert open_source(source).files[0].at.path == tmp_path / "a.csv"
    assert JobFolder("~/out").path == tmp_path / "out"
    for opened in (open_source, JobFolder):
        with pytest.raises(errors.DatasetError, match="nobody here has such a home"):
            opened("~nobody-of-this-name/a.csv")


def test_missing_files_folders_and_patterns(tmp_path: Path) -> None:
    for source, says in [
        (tmp_path / "no.csv", "no such file"),
        (tmp_path, "holds no .csv"),
        (tmp_path / "*.csv", "no file matches"),
    ]:
        with pytest.raises(errors.DatasetError, match=says):
            open_source(source)


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("a\n3.5\n")
    (tmp_path / "a.csv").write_text("a\n1\n2\n")
    (tmp_path / ".hidden.csv").write_text("z\n")
    rows, numbers, _ = read_all(plan(open_source(tmp_path)))
    assert [row["a"] for row in rows] == [1.0, 2.0, 3.5]
    assert numbers == [1, 2, 3]  # two small files share a chunk
    assert read_all(plan(open_source(tmp_path / "[ab].csv")))[0] == rows


def test_files_of_one_dataset_have_the_same_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "b.csv").write_text("a,c\n1,2\n")
    with pytest.raises(errors.DatasetError, match=r"b\.csv: differs from a\.csv in: b, c"):
        open_source(tmp_path)


@pytest.mark.parametrize("size", [3, 60_000])
def test_types_of_parquet_files_need_only_have_something_in_common(
    tmp_path: Path, size: int
) -> None:
    """As writers leave them that look at one file at a time; small files, and large ones."""
    when = pa.timestamp("us", "UTC")
    empty = [None] * size
    for name, columns in {
        "a": [pa.nulls(size), pa.array(range(size)), pa.array(["x"] * size), pa.nulls(size)],
        "b": [pa.array(["x"] * size), pa.array([0.5] * size), pa.array(empty, pa.large_string()),
              pa.array(range(size), when)],
        "c": [pa.nulls(size), pa.array(range(size), pa.int8() if size < 9 else pa.int32()),
              pa.nulls(size), pa.nulls(size)],
    }.items():
        table = pa.table(columns, ["text", "n", "large", "at"])
        pq.write_table(table, tmp_path / f"{name}.parquet")
    dataset = plan(open_source(tmp_path), chunk_rows=40_000)
    assert [column.dtype for column in dataset.columns] == [
        "string", "double", "string", "timestamp[us, tz=UTC]",
    ]
    rows, _, bad = read_all(dataset)
    assert not bad
    assert {type(row["n"]) for row in rows} == {float}
    assert [row["text"] for row in rows] == [*empty, *["x"] * size, *empty]
    types = {
        read_chunk("parquet", dataset.files, chunk, dataset.columns, ["text", "n", "at"]).table
        .schema for chunk in dataset.chunks
    }
    assert len(types) == 1


def test_types_of_parquet_files_without_anything_in_common_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"a": [None], "b": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(errors.DatasetError, match=r"a\.parquet in: b \(string instead of int64\)"):
        open_source(tmp_path)
    pq.write_table(pa.table({"a": [0.5], "b": [1]}), tmp_path / "b.parquet")


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1])
def test_whole_numbers_that_the_fractions_of_other_files_would_round(
    tmp_path: Path, number: int
) -> None:
    """Refused before the job where statistics tell, in its chunk where there are none."""
    table = pa.table({"id": pa.array([1, number, None]), "b": [1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    pq.write_table(pa.table({"id": [0.5], "b": [1]}), tmp_path / "b.parquet")
    source = open_source(tmp_path)
    with pytest.raises(errors.DatasetError, match=r"a\.parquet: column 'id' holds whole numbers"):
        plan(source, reads=["id"])
    assert plan(source, reads=["b"]).rows == 4
    pq.write_table(table, tmp_path / "a.parquet", write_statistics=False)
    with pytest.raises(errors.UnreadableFile, match=r"a\.parquet: column 'id' is of type int64"):
        read_all(plan(open_source(tmp_path)))


def test_times_as_spark_writes_them(tmp_path: Path) -> None:
    """In 96 bits. In nanoseconds 9999-12-31, which stands for no end, was a day of 1816."""
    times = [datetime(9999, 12, 31, 23, 59, 59), datetime(1, 1, 1), None]  # noqa: DTZ001
    lists = pa.array([times, None, []], pa.list_(pa.timestamp("us")))
    table = pa.table({"at": pa.array(times, pa.timestamp("us")), "all": lists})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, use_deprecated_int96_timestamps=True, store_schema=False)
    assert pq.read_schema(path).field("at").type == pa.timestamp("ns")
    dataset = plan(open_source(path))
    assert dataset.columns[0].dtype == "timestamp[us]"
    rows, _, _ = read_all(dataset)
    assert rows == table.to_pylist()


def test_a_changed_or_vanished_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a\n1\n2\n")
    planned = plan(open_source(path))
    os.utime(path, (1, 1))
    with pytest.raises(errors.DatasetError, match="has changed since"):
        read_all(planned)
    path.unlink()
    with pytest.raises(errors.DatasetError, match="no such file"):
        read_all(planned)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{kind}"
    table = pa.table({"a": [1, 2]})
    path.write_bytes(encode_table(table, kind))  # type: ignore[arg-type]
    planned = plan(open_source(path))
    module, name = (parquet, "_readable") if kind == "parquet" else (reader, "read_range")
    read = getattr(module, name)

    def slowly(*args: Any) -> Any:
        found = read(*args)
        os.utime(path, (1, 1))
        return found

    monkeypatch.setattr(module, name, slowly)
    with pytest.raises(errors.DatasetError, match="has changed since"):
        read_all(planned)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_part_is_written_as_it_is_encoded(kind: Literal["csv", "jsonl"]) -> None:
    """So no process holds a second copy of its texts."""
    table = pa.table({"id": range(50_000), "text": ["x" * 200] * 50_000})
    writes: list[int] = []

    class Sink(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            writes.append(len(data))
            return len(data)

    encode_into(table, kind, Sink())
    assert sum(writes) == len(encode_table(table, kind))
    assert max(writes) <= sum(writes) / 4


GROUPS = st.lists(st.builds(Group, st.integers(0, 30), st.integers(0, 300)), max_size=10)


@settings(max_examples=200)
@given(groups=GROUPS, chunk_rows=st.integers(1, 40), chunk_bytes=st.integers(1, 400))
def test_row_groups_are_covered_once(
    groups: list[Group], chunk_rows: int, chunk_bytes: int
) -> None:
    spans = list(cut_groups(groups, chunk_rows, chunk_bytes))
    starts = [sum(group.rows for group in groups[:number]) for number in range(len(groups))]
    seen = 0
    for span in spans:
        assert span.first_row == seen == starts[span.group] + span.skip
        assert span.rows > 0
        covered = sum(group.rows for group in groups[span.group : span.group + span.groups])
        assert span.skip + span.rows <= covered
        assert span.groups == 1 or span.rows <= chunk_rows
        seen += span.rows
    assert seen == sum(group.rows for group in groups)


@pytest.mark.parametrize("group_rows", [7, 30, 100, 1_000])
@pytest.mark.parametrize("at_once", [1, 10, 64, 5_000])
def test_the_pieces_of_a_chunk_are_the_chunk(
    tmp_path: Path, group_rows: int, at_once: int
) -> None:
    path = tmp_path / "a.parquet"
    rows = 1_000
    texts = [b"\xff" if n % 91 == 0 else b"t%d" % n for n in range(rows)]
    table = pa.table({
        "id": range(rows), "text": pa.array(texts, pa.binary()).view(pa.string()),
    })
    pq.write_table(table, path, row_group_size=group_rows)
    planned = plan(open_source(path), chunk_rows=300)
    for chunk in planned.chunks:
        what = (planned.format, planned.files, chunk, planned.columns, ["text", "id"])
        whole = read_chunk(*what, "id")
        pieces = list(read_pieces(*what, lambda _: at_once, "id"))
        sizes = [one.table.num_rows + len(one.errors) for one in pieces]
        assert max(sizes) < at_once + min(group_rows, 2 * at_once + 1)
        assert pa.concat_tables([one.table for one in pieces]).equals(whole.table)
        assert np.concatenate([one.numbers for one in pieces]).tolist() == whole.numbers.tolist()
        assert [bad for one in pieces for bad in one.errors] == whole.errors
        assert whole.numbers.tolist() == [one + 1 for one in whole.table["id"].to_pylist()]


def test_a_dictionary_is_for_values_that_come_again() -> None:
    rows = 5_000
    table = pa.table({
        "id": range(rows), "name": [f"n{n}" for n in range(rows)], "label": ["yes", "no"] * 2_500,
        "probability": np.linspace(0, 1, rows), "flag": [True, False] * 2_500,
        "none": pa.nulls(rows), "many": [[n] for n in range(rows)],
    })
    assert repeating(table) == ["label", "flag", "none", "many"]
    assert repeating(table.slice(0, 0)) == table.column_names
    data = encode_table(table, "parquet")
    assert data.to_pybytes() == encode_table(table, "parquet").to_pybytes()
    found = pq.read_table(pa.BufferReader(data))
    assert found.equals(table)
    group = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0)
    assert [group.column(at).has_dictionary_page for at in (0, 1, 2, 3)] == [
        False, False, True, False,
    ]


@pytest.mark.parametrize("dtype", [pa.binary(), pa.large_binary(), pa.binary(2)])
def test_bytes_come_out_of_csv_as_of_json_lines(dtype: Any) -> None:
    table = pa.table({"id": [1, 2], "key": pa.array([b"\xff\x00", None], dtype)})
    assert encode_table(table, "csv").to_pybytes() == b'"id","key"\n1,"/wA="\n2,\n'
    first, _ = encode_table(table, "jsonl").to_pybytes().splitlines()
    assert json.loads(first) == {"id": 1, "key": "/wA="}


def test_json_lines_keep_nanoseconds() -> None:
    at, zone = 1735689600123456000, "Europe/Berlin"
    table = pa.table({
        "whole": pa.array([at, None], pa.timestamp("ns")),
        "odd": pa.array([at + 7, None], pa.timestamp("ns")),
        "zone": pa.array([at, None], pa.timestamp("ns", zone)),
        "odd_zone": pa.array([at + 7, None], pa.timestamp("ns", zone)),
        "time": pa.array([1_000, None], pa.time64("ns")),
        "odd_time": pa.array([1, None], pa.time64("ns")),
    })
    first, second = encode_table(table, "jsonl").to_pybytes().splitlines()
    assert json.loads(first) == {
        "whole": "2025-01-01T00:00:00.123456", "odd": "2025-01-01T00:00:00.123456007",
        "zone": "2025-01-01T01:00:00.123456+01:00",
        "odd_zone": "2025-01-01T01:00:00.123456007+01:00",
        "time": "00:00:00.000001", "odd_time": "00:00:00.000000001",
    }
    assert set(json.loads(second).values()) == {None}


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_a_time_in_json_lines_does_not_hang_on_the_others_of_its_chunk(zone: str | None) -> None:
    for kind in (pa.timestamp("ns", zone), pa.time64("ns")):
        times = pa.table({"at": pa.array([0, 1_000, 10**9, 10**9 + 5_000, 7], kind)})
        alone = encode_table(times.slice(0, 4), "jsonl").to_pybytes()
        assert encode_table(times, "jsonl").to_pybytes().startswith(alone)


def test_what_is_before_a_chunk_in_its_row_group_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows, text = 50_000, "t" * 400
    pq.write_table(pa.table({"text": [text] * rows}), path, row_group_size=rows)
    planned = plan(open_source(path), chunk_rows=10_000)
    last = planned.chunks[-1]
    before = pa.total_allocated_bytes()
    pieces = read_pieces(
        planned.format, planned.files, last, planned.columns, ["text"], lambda _: 1_000
    )
    piece = next(pieces)
    assert piece.numbers[0] == 40_001
    assert pa.total_allocated_bytes() - before < 40_000 * len(text) / 4


READING = """
import sys
import pyarrow as pa
from celeriac.datasets.planner import plan
from celeriac.datasets.reader import read_pieces
from celeriac.datasets.sources import open_source

planned = plan(open_source(sys.argv[1]))
names = [column.name for column in planned.columns]
what = (planned.format, planned.files, planned.chunks[0], planned.columns, names)
size = 0
for piece in read_pieces(*what, lambda _: 10_000):
    size = max(size, piece.table.nbytes)
    del piece
print(size, pa.default_memory_pool().max_memory())
"""


@pytest.mark.parametrize(("group_rows", "times"), [(5_000, 2), (100_000, 5)])
def test_reading_holds_little_more_than_a_piece(
    tmp_path: Path, group_rows: int, times: int
) -> None:
    """Arrow keeps what it reads as it is in the file, and what it made of it, until a call ends."""
    path = tmp_path / "a.parquet"
    values = np.random.default_rng(7).standard_normal((50, 100_000), dtype=np.float32)
    table = pa.table({f"x{n}": one for n, one in enumerate(values)})
    pq.write_table(table, path, row_group_size=group_rows, use_dictionary=False,
                   data_page_size=32_768)
    found = subprocess.run([sys.executable, "-c", READING, path], capture_output=True, text=True,
                           check=True, timeout=60)
    piece, most = map(int, found.stdout.split())
    assert most < times * piece


@pytest.mark.parametrize(("group_rows", "chunk_rows"), [(10, 25), (100, 30), (7, 7), (1_000, 100)])
def test_parquet_rows_come_in_order(tmp_path: Path, group_rows: int, chunk_rows: int) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({
        "n": list(range(500)),
        "kind": pa.array(["x", "y"] * 250).dictionary_encode(),
        "many": [[n, n] for n in range(500)],
    })
    pq.write_table(table, path, row_group_size=group_rows)
    planned = plan(open_source(path), chunk_rows=chunk_rows)
    rows, numbers, bad = read_all(planned)
    assert rows == table.to_pylist()
    assert numbers == list(range(1, 501))
    assert bad == []
    assert len(planned.chunks) > 1
