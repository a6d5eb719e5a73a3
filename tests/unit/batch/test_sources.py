"""JSON lines, compressed files, frames, folders of images: planned, cut and read back."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from celeriac import errors
from celeriac.datasets import images, planner, scan as scanning
from celeriac.datasets.copies import Copies, remove_copies
from celeriac.datasets.pandas_periods import periods_as_text
from celeriac.datasets.places import Listed, S3Path
from celeriac.datasets.planner import plan
from celeriac.datasets.reader import read_chunk
from celeriac.datasets.records import DatasetPlan, RowError
from celeriac.datasets.recut import Recut
from celeriac.datasets.sources import open_source
from celeriac.datasets.streams import HEAD_BYTES, read_head

Rows = list[dict[str, Any]]


def read_all(planned: DatasetPlan) -> tuple[Rows, list[int], list[RowError]]:
    rows: Rows = []
    numbers: list[int] = []
    bad: list[RowError] = []
    names = [column.name for column in planned.columns]
    for chunk in planned.chunks:
        named = "id" if "id" in names else None
        found = read_chunk(planned.format, planned.files, chunk, planned.columns, names, named)
        assert found.table.num_rows + len(found.errors) == chunk.rows
        rows += found.table.to_pylist()
        numbers += found.numbers.tolist()
        bad += found.errors
    return rows, numbers, bad


def planned(source: Any, folder: Path, **options: Any) -> DatasetPlan:
    return plan(open_source(source), copies=Copies(folder / "copies"), **options)


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data, asbytes=True))


# --- JSON lines ----------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [
    '[{"a": 1}, {"a": 2}]', '[{"a": 1},\n{"a": 2}]\n', '[\n {"a": 1},\n {"a": 2}\n]\n',
    "[\n1\n]", "\n[]\n",
])
def test_an_array_is_no_json_lines(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(errors.DatasetError, match="is one JSON array"):
        open_source(path)


def test_a_list_among_objects_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('[1, 2]\n{"a": 1}\n')
    rows, numbers, bad = read_all(plan(open_source(path)))
    assert (rows, numbers, [error.row for error in bad]) == ([{"a": 1}], [2], [1])


def test_json_lines_have_the_types_of_their_values(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        {"id": 1, "x": 1, "ok": True, "text": "a\nb", "tags": ["p", "q"], "mixed": 1},
        {"id": 2, "x": 2.5, "ok": None, "text": "é", "mixed": "one", "late": None},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    source = open_source(path)
    assert {column.name: column.dtype for column in source.columns} == {
        "id": "int", "x": "float", "ok": "bool", "text": "text", "tags": "json",
        "mixed": "json", "late": "text",
    }
    rows, numbers, bad = read_all(plan(source))
    assert (numbers, bad) == ([1, 2], [])
    assert rows == [
        {"id": 1, "x": 1.0, "ok": True, "text": "a\nb", "tags": '["p","q"]', "mixed": "1",
         "late": None},
        {"id": 2, "x": 2.5, "ok": None, "text": "é", "tags": None, "mixed": '"one"', "late": None},
    ]


@pytest.mark.parametrize("chunk_rows", [1, 2, 100])
def test_bad_lines_are_errors_and_their_neighbours_are_read(
    tmp_path: Path, chunk_rows: int
) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(
        b'\xef\xbb\xbf{"id": 1, "x": 1.5}\r\n\r\n{"id": 2, "x": "many"}\n{"id": 3, "x": \xff}\n'
        b'[4]\n{"id": 5, "x": 2\n{"id": 6, "x": 1e400}\n{"id": 7.5}\n\n{"id": 8}'
    )
    rows, numbers, bad = read_all(planned(path, tmp_path, chunk_rows=chunk_rows,
                                          dtypes={"id": "int", "x": "float"}))
    assert rows == [{"id": 1, "x": 1.5}, {"id": 8, "x": None}]
    assert numbers == [1, 8]
    assert [error.row for error in bad] == [2, 3, 4, 5, 6, 7]
    told = [error.message for error in bad]
    assert told[0] == "column 'x': \"many\" is not a number"
    assert told[1].startswith(("not valid JSON", "not valid UTF-8"))
    assert told[2] == "not a JSON object"
    assert told[3].startswith("not valid JSON")
    assert told[5] == "column 'id': 7.5 is not a whole number"
    assert bad[3].data == '{"id": 5, "x": 2'


@pytest.mark.parametrize("dtype", ["int", "json"])
def test_a_line_that_is_nested_very_deep_is_a_bad_row(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.jsonl"
    deep = "[" * 10_000 + "]" * 10_000
    others = '{"x": [1]}' if dtype == "json" else '{"x": 1}'
    path.write_text(f'{others}\n{{"x": {deep}}}\n{others}\n')
    source = open_source(path)
    assert source.columns[0].dtype == dtype
    rows, numbers, bad = read_all(plan(source))
    assert (len(rows), numbers) == (2, [1, 3])
    assert [(one.row, one.message) for one in bad] == [
        (2, "lists or objects are nested too deep")
    ]


VALUES = {
    "n": st.none() | st.integers(-(2**63), 2**63 - 1),
    "x": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9),
    "t": st.none() | st.text(max_size=6),
    "b": st.none() | st.booleans(),
}


@settings(max_examples=60)
@given(
    rows=st.lists(st.fixed_dictionaries({}, optional=VALUES), min_size=1, max_size=12),
    block=st.sampled_from([1, 7, 1 << 22]), chunk_rows=st.integers(1, 5),
    ends=st.lists(st.sampled_from(["\n", "\r\n", "\n\n", "\n\r\n"]), min_size=12, max_size=12),
)
def test_json_lines_come_back_whatever_their_cut(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, block: int, chunk_rows: int,
    ends: list[str],
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    head = {"n": 1, "x": 0.5, "t": "t", "b": True}
    texts = [json.dumps(row, ensure_ascii=False) for row in [head, *rows]]
    path.write_bytes("".join(
        text + end for text, end in zip(texts, ["\n", *ends], strict=False)
    ).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "BLOCK_BYTES", block)
        found, _, bad = read_all(planned(path, path.parent, chunk_rows=chunk_rows))
    assert bad == []
    assert found == [{name: row.get(name) for name in head} for row in [head, *rows]]


def test_a_line_of_10_mb_is_a_row(tmp_path: Path) -> None:
    long = "x" * 10_000_000
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps({"id": 1, "text": long}) + '\n{"id": 2, "text": "y"}\n')
    table = tmp_path / "a.csv"
    table.write_text(f'id,text\n1,"{long}"\n2,y\n')
    for path in (lines, table):
        rows, _, bad = read_all(planned(path, tmp_path, chunk_bytes=1_000_000))
        assert [(row["id"], len(row["text"])) for row in rows] == [(1, 10_000_000), (2, 1)]
        assert bad == []


# --- compressed ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("zst", zstd)])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_compressed_file_reads_as_the_plain_one(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes], kind: str
) -> None:
    texts = [f"line {n}\nand \"more\", of {n}" for n in range(500)]
    frame = pd.DataFrame({"id": range(500), "text": texts})
    plain = tmp_path / f"a.{kind}"
    if kind == "csv":
        frame.to_csv(plain, index=False)
    else:
        frame.to_json(plain, orient="records", lines=True)
    packed = tmp_path / f"a.{kind}.{suffix}"
    data = plain.read_bytes()
    packed.write_bytes(pack(data[:1_000]) + pack(data[1_000:]))  # two members, as of `cat a b`
    expected, result = (
        planned(path, tmp_path, chunk_rows=70, chunk_bytes=2_000) for path in (plain, packed)
    )
    assert read_all(result) == read_all(expected)
    assert [chunk.rows for chunk in result.chunks] == [chunk.rows for chunk in expected.chunks]
    assert result.files[0].sha256 == expected.files[0].sha256
    copy = Path(result.files[0].copy)
    assert copy.parent == tmp_path / "copies"
    packed.unlink()  # chunks read the copy
    assert len(read_all(result)[0]) == 500
    copy.unlink()
    with pytest.raises(errors.DatasetError, match="no such file"):
        read_all(result)


def test_a_compressed_file_that_is_cut_short_leaves_no_copy(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a\n" + b"1234567\n" * 1_000_000)[:-2_000])
    with pytest.raises(errors.DatasetError, match=r"a\.csv\.gz: cannot be read as gzip"):
        planned(path, tmp_path)
    assert list((tmp_path / "copies").iterdir()) == []
    path.write_bytes(b"no gzip at all")
    with pytest.raises(errors.DatasetError, match=r"a\.csv\.gz: cannot be read as gzip"):
        planned(path, tmp_path)


def test_a_compressed_row_without_end_is_refused_before_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "MAX_CHUNK_BYTES", 10_000_000)
    fed: list[int] = []
    feed = Recut.feed
    monkeypatch.setattr(
        Recut, "feed", lambda self, block: fed.append(len(block)) or feed(self, block)
    )
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n" + b"0" * 100_000_000 + b",2\n", 1))
    with pytest.raises(errors.DatasetError, match=r"a\.csv\.gz: a row is longer than 10,000,000"):
        planned(path, tmp_path)
    assert sum(fed) < 30_000_000
    assert not list((tmp_path / "copies").iterdir())


def test_a_compressed_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.gz").write_bytes(b"x")
    with pytest.raises(errors.DatasetError, match="unpack it first"):
        open_source(tmp_path)


def test_copies_are_named_by_content_and_only_new_ones_are_discarded(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a\n1\n"))
    first = planned(path, tmp_path)
    copies = Copies(tmp_path / "copies")
    again = plan(open_source(path), copies=copies)
    assert again.files[0].copy == first.files[0].copy
    copies.discard()
    assert read_all(first)[0] == [{"a": 1}]
    remove_copies(tmp_path / "copies")
    assert not (tmp_path / "copies").exists()


# --- frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [pa.Table.from_pandas, lambda frame: frame])
def test_a_frame_becomes_a_parquet_file_of_the_job(
    tmp_path: Path, make: Callable[[pd.DataFrame], Any]
) -> None:
    frame = pd.DataFrame({"id": range(1_000), "text": [f"t{n}" for n in range(1_000)]})
    result = planned(make(frame[["id", "text"]]), tmp_path, chunk_rows=300)
    assert [chunk.rows for chunk in result.chunks] == [300, 300, 300, 100]
    rows, numbers, bad = read_all(result)
    assert rows == frame.to_dict("records")
    assert numbers == list(range(1, 1_001))
    assert bad == []


@pytest.mark.parametrize(("index", "columns"), [
    (pd.RangeIndex(3), {}), (pd.RangeIndex(3, name="id"), {"id": [0, 1, 2]}),
    (pd.Index([7, 8, 5]), {"__index_level_0__": [7, 8, 5]}),
    (pd.MultiIndex.from_product([["a"], range(3)], names=["p", None]),
     {"p": ["a", "a", "a"], "__index_level_1__": [0, 1, 2]}),
])
def test_the_index_of_a_frame_is_kept_where_it_says_something(
    tmp_path: Path, index: Any, columns: dict[str, list[Any]]
) -> None:
    rows, _, _ = read_all(planned(pd.DataFrame({"n": [1, 2, 3]}, index=index), tmp_path))
    found = pd.DataFrame(rows).to_dict("list")
    assert found == {"n": [1, 2, 3], **columns}


@pytest.mark.parametrize(("number", "told"), [
    (errno.ENOSPC, r"cannot be written: full in .*, where it is made first$"),
    (errno.EIO, r"cannot be written: full$"),
])
def test_a_copy_that_fails_on_its_way_to_s3_is_told_of_its_place_there(
    number: int, told: str
) -> None:
    with (
        pytest.raises(errors.StorageError, match=rf"^s3://lake/out/input: {told}"),
        Copies(S3Path("lake/out/input")).making(".parquet"),
    ):
        raise OSError(number, "full")


def test_a_series_with_a_named_index_is_no_frame() -> None:
    with pytest.raises(errors.DatasetError, match=r"^Series: a dataset is a path"):
        open_source(pd.Series([1], index=pd.Index([7], name="id")))


@pytest.mark.parametrize("is_known", [None, True, False], ids=["frame", "file", "unknown type"])
def test_periods_of_pandas_are_text(tmp_path: Path, is_known: bool | None) -> None:
    """Where pandas is not loaded, the file says what its numbers are."""
    quarters = pd.PeriodIndex(["2026Q1", "NaT", "2026Q3"], freq="Q", name="quarter")
    hours = pd.period_range("2026-01-31 23:00", periods=3, freq="h")
    frame = pd.DataFrame({"hour": hours}, index=quarters)
    path = tmp_path / "a.parquet"
    frame.to_parquet(path)
    if is_known is False:
        pa.unregister_extension_type("pandas.period")
    try:
        result = planned(frame if is_known is None else path, tmp_path)
        rows, _, _ = read_all(result)
    finally:
        if is_known is False:
            pa.register_extension_type(pa.array(hours).type)
    assert {column.dtype for column in result.columns} == {"string"}
    assert [row["quarter"] for row in rows] == ["2026Q1", None, "2026Q3"]
    assert [row["hour"] for row in rows] == [str(hour) for hour in hours]


@pytest.mark.parametrize(("frequency", "text"), [
    ("A-DEC", "1990"), ("2H", "1970-01-01 20:00"), ("W-SUN", "1970-05-11/1970-05-17"),
])
def test_periods_of_an_older_pandas_are_read(frequency: str, text: str) -> None:
    column = pa.chunked_array([pa.array([20, None])])
    assert periods_as_text(column, frequency).to_pylist() == [text, None]
    with pytest.raises(errors.DatasetError, match="the frequency 'FULL MOON' cannot be read"):
        periods_as_text(column, "FULL MOON")


def test_what_is_no_frame_is_refused(tmp_path: Path) -> None:
    mixed = pd.DataFrame({"id": [1, 2], "odd": ["a", 3]}, dtype=object)
    for source, says in [
        (7, "a dataset is a path, an Arrow table or a frame"),
        (mixed, "odd"), (pd.DataFrame([[1, 2]], columns=["a", "a"]), "Duplicate column names"),
        (pa.table({"a": pa.array([], pa.int64())}), "has no rows"),
        (pa.Table.from_arrays([pa.array([1])] * 2, names=["a", "a"]), "column twice: a"),
    ]:
        with pytest.raises(errors.DatasetError, match=says):
            planned(source, tmp_path)


@pytest.mark.parametrize(("values", "says"), [
    ([2**63, 1, None], "does not become a table: column 'odd': OverflowError"),
    ([date(2026, 11, 26), datetime(2026, 11, 26, 5), None], "column 'odd' of the frame holds"),  # noqa: DTZ001
    ([datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1), pd.NaT], "'odd' of the frame holds"),  # noqa: DTZ001
])
def test_objects_of_several_kinds_are_refused_by_their_column(
    tmp_path: Path, values: list[Any], says: str
) -> None:
    """Of a date and a time Arrow makes two dates, of times with a zone and without one zone's."""
    frame = pd.DataFrame({"id": [1, 2, 3], "odd": pd.Series(values, dtype=object)})
    with pytest.raises(errors.DatasetError, match=says):
        planned(frame, tmp_path)


def test_objects_of_one_kind_are_taken(tmp_path: Path) -> None:
    times = [datetime(2026, 1, 1, tzinfo=UTC), pd.NA, pd.NaT]
    days = [date(9999, 12, 31), None, date(1, 1, 1)]
    frame = pd.DataFrame({
        "at": pd.Series(times, dtype=object), "day": pd.Series(days, dtype=object),
    })
    rows, _, _ = read_all(planned(frame, tmp_path))
    assert [row["at"] for row in rows] == [times[0], None, None]
    assert [row["day"] for row in rows] == days


def test_a_frame_with_what_parquet_lacks_is_refused_by_its_column(tmp_path: Path) -> None:
    months = pa.array([pa.MonthDayNano([1, 15, 30])])
    far = pa.array([2**55], pa.int64()).cast(pa.timestamp("s"))  # milliseconds overflow
    for odd in (months, far):
        frame = pa.table({"id": [1], "odd": odd})
        with pytest.raises(errors.DatasetError, match="column 'odd' of the frame, of type"):
            planned(frame, tmp_path)


# --- images --------------------------------------------------------------------------------------


def test_images_are_listed_by_name_with_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_GROUP_ROWS", 3)
    folder = tmp_path / "pictures"
    for number in range(10):
        file = folder / f"class{number % 2}" / f"{number}.PNG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number]) * 10)
    (folder / "class0" / "readme.txt").write_text("no image")
    result = planned(folder, tmp_path, chunk_rows=4, chunk_bytes=35)
    assert [chunk.rows for chunk in result.chunks] == [3, 3, 3, 1]
    rows, numbers, bad = read_all(result)
    names = [str(folder / f"class{n % 2}" / f"{n}.PNG") for n in [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]]
    assert [row["path"] for row in rows] == names
    assert [row["image"][0] for row in rows] == [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    assert numbers == list(range(1, 11))
    assert bad == []


def test_images_beside_folders_of_images_and_in_them_are_all_rows(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    hidden = ("b/.f.png", ".g/h.png", "_i/j.png", "b/.k/l.png")
    for name in ("a.png", "b/c/d ü.png", "b/e.jpg", *hidden):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"image")
    (folder / "b" / "m.csv").write_text("no image")
    result = planned(folder, tmp_path)
    names = [str(folder / name) for name in ("a.png", "b/c/d ü.png", "b/e.jpg")]
    assert [row["path"] for row in read_all(result)[0]] == names
    assert result.files[0].path == str(folder)
    (folder / "n.csv").write_text("a\n1\n")
    with pytest.raises(errors.DatasetError, match="several kinds"):
        open_source(folder)
    (folder / "a.png").unlink()
    assert len(open_source(folder).files) == 1  # files of data are not looked for deep down


def test_files_in_folders_of_a_folder_are_taken_by_the_pattern_that_is_named(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "[2026]"
    for name in ("b/c/d.csv", "b/e.csv", ".f/g.csv", "_h/i.csv", "b/_j/k.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a\n1\n")
    (folder / "b" / "again").symlink_to(folder)
    with pytest.raises(errors.DatasetError, match=r"holds no \.csv.*; its folders do") as found:
        open_source(folder)
    (pattern,) = re.findall(r"the pattern (\S+) \(in quotes\)$", found.value.message)
    names = [file.at.name for file in open_source(pattern).files]
    assert names == [str(folder / "b" / name) for name in ("c/d.csv", "e.csv")]
    hidden = open_source(folder.parent / "*" / "_h*" / "*.csv")
    assert [file.at.own_name for file in hidden.files] == ["i.csv"]


def test_a_folder_of_images_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "b" / "c"
    inner.mkdir(parents=True)
    (tmp_path / "a.png").write_bytes(b"image")
    opened = os.open

    def refuse(path: str, flags: int) -> int:  # permissions do not stop root
        if path == str(inner):
            raise PermissionError(13, "Permission denied", path)
        return opened(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(errors.DatasetError, match=f"^{inner}: cannot be read: Permission denied$"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", [b"a\xff.png", b"a\xff.csv"])
def test_a_name_that_is_no_text_is_refused(tmp_path: Path, name: bytes) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(b"a\n1\n")
    with pytest.raises(errors.DatasetError, match=r"a\\xff\.\w+: the name is not UTF-8") as found:
        open_source(tmp_path)
    found.value.message.encode()


def test_an_image_that_has_changed_or_gone_ends_its_chunk(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"12345")
    result = planned(tmp_path, tmp_path)
    (tmp_path / "b.jpg").write_bytes(b"123456")
    with pytest.raises(errors.DatasetError, match=r"b\.jpg: has changed since"):
        read_all(result)
    (tmp_path / "b.jpg").unlink()
    with pytest.raises(errors.DatasetError, match=r"b\.jpg: is gone since"):
        read_all(result)


def test_an_image_that_cannot_be_read_is_one_bad_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    result = planned(tmp_path, tmp_path)
    read = images.read_file

    def refuse(path: str, size: int) -> tuple[bytes, int]:  # permissions do not stop root
        if path.endswith("b.jpg"):
            raise PermissionError(13, "Permission denied")
        return read(path, size)

    monkeypatch.setattr(images, "read_file", refuse)
    rows, numbers, bad = read_all(result)
    assert [row["image"] for row in rows] == [b"a.jpg", b"c.jpg"]
    assert numbers == [1, 3]
    assert [(error.row, error.message) for error in bad] == [
        (2, "cannot be read: Permission denied")
    ]


@pytest.mark.parametrize("content", [b"", b"image", bytes(10_000)])
def test_a_file_is_read_whole_also_in_pieces(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(content)
    assert images.read_file(str(file), len(content)) == (content, file.stat().st_mtime_ns)
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: read(descriptor, min(size, 999)))
    assert images.read_file(str(file), len(content))[0] == content
    file.write_bytes(content + b"more")
    assert len(images.read_file(str(file), len(content))[0]) == len(content) + 1


@given(sizes=st.lists(st.integers(0, 50), max_size=30), rows=st.integers(1, 8),
       size=st.integers(1, 120))
def test_slices_of_a_listing_cover_it_once(sizes: list[int], rows: int, size: int) -> None:
    files = [Listed(str(n), each, 0) for n, each in enumerate(sizes)]
    at = 0
    for first, count in images.cut_listing(files, rows, size):
        assert first == at
        assert 1 <= count <= rows
        assert count == 1 or sum(sizes[first : first + count]) <= size
        at += count
    assert at == len(sizes)


# --- bad input -----------------------------------------------------------------------------------


def test_a_parquet_file_with_extension_types_gives_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    ids = pa.array([bytes([n]) * 16 for n in range(3)], pa.binary(16))
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(6.0).reshape(3, 2))
    pq.write_table(pa.table({
        "id": pa.ExtensionArray.from_storage(pa.uuid(), ids), "tensor": tensors, "x": [1, 2, 3],
    }), path)
    result = planned(path, tmp_path)
    types = {column.name: column.dtype for column in result.columns}
    assert types == {
        "id": "fixed_size_binary[16]", "tensor": "fixed_size_list<item: double>[2]", "x": "int64",
    }
    rows, _, _ = read_all(result)
    assert rows[1] == {"id": b"\1" * 16, "tensor": [2.0, 3.0], "x": 2}


def test_one_unreadable_file_among_many_is_named(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        pq.write_table(pa.table({"x": [1.0]}), tmp_path / f"{name}.parquet")
    middle = tmp_path / "b.parquet"
    middle.write_bytes(middle.read_bytes()[:-20])
    with pytest.raises(errors.DatasetError, match=r"b\.parquet: cannot be read as Parquet"):
        open_source(tmp_path)
    middle.unlink()
    middle.symlink_to(tmp_path / "nowhere")
    for source in (tmp_path, tmp_path / "*.parquet"):
        with pytest.raises(errors.DatasetError, match=r"b\.parquet: cannot be read"):
            open_source(source)


def test_a_pipe_among_files_is_named_and_not_waited_for(tmp_path: Path) -> None:
    for name in ("a", "c"):
        (tmp_path / f"{name}.csv").write_text("x\n1\n")
    os.mkfifo(tmp_path / "b.csv")
    os.mkfifo(tmp_path / "orders")
    for source in (tmp_path, tmp_path / "*.csv", tmp_path / "b.csv"):
        with pytest.raises(errors.DatasetError, match=r"b\.csv: is a pipe"):
            open_source(source)
    (tmp_path / "b.csv").unlink()
    assert open_source(tmp_path).rows == 4
    with pytest.raises(errors.DatasetError, match="its path is empty"):
        open_source("")


def test_damage_within_a_parquet_file_names_it(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"x": np.random.default_rng(0).normal(size=5_000)})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[100:2_000] = b"\xff" * 1_900
    path.write_bytes(data)
    with pytest.raises(errors.DatasetError, match=r"a\.parquet: cannot be read as Parquet"):
        read_all(planned(path, tmp_path))


def test_a_column_that_never_has_the_models_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,x\n" + "".join(f"{n},high\n" for n in range(100)))
    with pytest.raises(errors.DatasetError, match=r"none of the first 100 rows .*row 1: column "
                       "'x': 'high' is not a number"):
        planned(path, tmp_path, dtypes={"x": "float"})


def test_wide_rows_have_types_too(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    text = "y" * 100_000
    path.write_text("id,text\n" + "".join(f"{n},{text}\n" for n in range(60)))
    assert [column.dtype for column in open_source(path).columns] == ["int", "text"]


def test_files_of_several_kinds_need_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    (tmp_path / "b.jsonl").write_text('{"a": 2}\n')
    with pytest.raises(errors.DatasetError, match=r"several kinds \(csv and jsonl\)"):
        open_source(tmp_path)
    assert open_source(tmp_path / "*.jsonl").format == "jsonl"


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "the file is empty"), (b"1\n2\n", "row 1: not a JSON object"), (b"{}\n", "no object"),
     (b"nonsense", "row 1: not valid JSON")],
)
def test_a_bad_file_of_json_lines_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(errors.DatasetError, match=says) as caught:
        planned(path, tmp_path)
    assert str(path) in caught.value.message


def test_texts_of_a_parquet_file_that_are_no_utf8_are_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    raw = pa.array([b"one", b"\xff\xfe", None, b"four"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    pq.write_table(pa.table({"id": [1, 2, 3, 4], "text": texts}), path)
    rows, numbers, bad = read_all(planned(path, tmp_path))
    assert rows == [{"id": 1, "text": "one"}, {"id": 3, "text": None}, {"id": 4, "text": "four"}]
    assert numbers == [1, 3, 4]
    assert [(error.row, error.id, error.message, error.data) for error in bad] == [
        (2, 2, "column 'text' is not valid UTF-8 (invalid start byte)",
         '{"id": 2, "text": "\\\\xff\\\\xfe"}'),
    ]


def test_bad_rows_have_the_id_that_they_show(tmp_path: Path) -> None:
    good = [{"id": f"r{n}", "n": n} for n in range(30)]
    text = tmp_path / "a.csv"
    text.write_text("id,n\n" + "".join(f"{row['id']},{row['n']}\n" for row in good)
                    + "r30,many\nr31\n")
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in good)
                     + '{"id": "r30", "n": "many"}\n{"id": \n')
    for path in (text, lines):
        dataset = planned(path, tmp_path, dtypes={"n": "int"})
        assert [(error.row, error.id) for error in read_all(dataset)[2]] == [
            (31, "r30"), (32, None),
        ]


def test_the_head_of_a_large_object_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there is more was another one, of 4 MB."""
    requests: list[int] = []

    class Object(io.BytesIO):
        def readinto(self, into: Any) -> int:
            requests.append(len(into))
            return super().readinto(into)

    data = b"name,size\n" + b"a,1\n" * (1 << 21)
    monkeypatch.setattr(S3Path, "open", lambda _path, _mode: Object(data))
    head = read_head(S3Path("data/large.csv"))
    assert (head.data, head.is_whole) == (data[:HEAD_BYTES], False)
    assert sum(requests) <= HEAD_BYTES + 1, requests
    data = data[:HEAD_BYTES]
    assert read_head(S3Path("data/large.csv")).is_whole
