"""Small files share chunks: which ones, and that nothing else changes by it."""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from celeriac import errors
from celeriac.datasets import ahead, jsonl, sharing, sources
from celeriac.datasets.ahead import in_order
from celeriac.datasets.copies import Copies
from celeriac.datasets.files import check_unchanged
from celeriac.datasets.places import S3Path, Stat
from celeriac.datasets.planner import plan
from celeriac.datasets.reader import read_chunk, read_pieces
from celeriac.datasets.records import Chunk, DatasetPlan, RowError, SourceFile
from celeriac.datasets.sharing import Cut, located, named, share
from celeriac.datasets.sources import open_source
from celeriac.jobs.chunk import run_chunk
from celeriac.jobs.finalize import finalize
from celeriac.jobs.folder import JobFolder
from celeriac.jobs.ledger import DeadChunk
from celeriac.jobs.plan import JobPlan, Scoring, decode_chunks, encode_chunks, make_plan
from celeriac.outputs import TableAnswers

NOW = datetime(2026, 11, 26, 3, tzinfo=UTC)


# --- the policy ----------------------------------------------------------------------------------


def small(rows: int, size: int = 10) -> Cut:
    return Cut([Chunk(number=0, file=0, first_row=0, rows=rows)] if rows else [], size, True)


def large(*rows: int) -> Cut:
    firsts = [sum(rows[:at]) for at in range(len(rows))]
    chunks = [
        Chunk(number=0, file=0, first_row=first, rows=count)
        for first, count in zip(firsts, rows, strict=True)
    ]
    return Cut(chunks, 1_000)


def files_of(chunks: list[Chunk]) -> list[list[int]]:
    return [[piece.file for piece in chunk.pieces] or [chunk.file] for chunk in chunks]


@pytest.mark.parametrize(("cuts", "chunks"), [
    ([small(5)], [[0]]),
    ([small(5), small(5), small(1)], [[0, 1], [2]]),  # ten rows at most
    ([small(11), small(1), small(1)], [[0], [1, 2]]),
    ([small(1, 60), small(1, 41), small(1, 59)], [[0], [1, 2]]),  # and a hundred bytes
    ([small(1), small(0), small(0), small(1)], [[0, 3]]),  # files without rows are in no chunk
    ([small(1), small(1), large(9, 9, 2), small(1), small(1)], [[0, 1], [2], [2], [2], [3, 4]]),
    ([large(1), large(1), large(1)], [[0], [1], [2]]),
    ([small(1), large(1), small(1)], [[0], [1], [2]]),
    ([small(1)] * 5, [[0, 1, 2], [3, 4]]),  # and three files
])
def test_small_neighbours_share_a_chunk(
    cuts: list[Cut], chunks: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "MOST_FILES", 3)
    assert files_of(list(share(cuts, 10, 100))) == chunks


@given(st.lists(st.one_of(
    st.builds(small, st.integers(0, 12), st.integers(0, 120)),
    st.lists(st.integers(1, 12), max_size=4).map(lambda rows: large(*rows)),
), max_size=40))
def test_each_row_is_in_one_chunk_in_order(cuts: list[Cut]) -> None:
    chunks = list(share(cuts, 10, 100))
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    pieces = [piece for chunk in chunks for piece in chunk.pieces or (chunk,)]
    assert [(one.file, one.first_row, one.rows) for one in pieces] == [
        (file, one.first_row, one.rows) for file, cut in enumerate(cuts) for one in cut.chunks
    ]
    for chunk in chunks:
        if chunk.pieces:
            assert chunk.rows == sum(one.rows for one in chunk.pieces) <= 10
            assert {one.number for one in chunk.pieces} == {chunk.number}
    assert decode_chunks(encode_chunks(tuple(chunks))) == chunks


def test_a_row_of_a_shared_chunk_is_found_in_its_file() -> None:
    files = [
        SourceFile(path=f"/in/{name}.csv", size=1, mtime_ns=1, sha256="", rows=1)
        for name in ("a", "empty", "b", "c")
    ]
    (chunk,) = share([small(2), small(0), small(3), small(1)], 10, 100)
    rows = [RowError(row=row, code="c", message="m", data="") for row in (1, 3, 5, 6)]
    found = [(path, row.row) for path, row in located(files, chunk, rows)]
    assert found == [("/in/a.csv", 1), ("/in/b.csv", 1), ("/in/b.csv", 3), ("/in/c.csv", 1)]
    assert named(files, chunk) == "/in/a.csv to c.csv (3 files)"
    alone = Chunk(number=0, file=2, first_row=40, rows=9)
    assert [*located(files, alone, rows[:1])] == [("/in/b.csv", rows[0])]
    assert named(files, alone) == "/in/b.csv"


# --- planning and reading ------------------------------------------------------------------------


def read_all(planned: DatasetPlan) -> tuple[list[Any], list[tuple[str, RowError]]]:
    """All rows, and the bad ones by file."""
    rows: list[Any] = []
    bad: list[tuple[str, RowError]] = []
    names = [column.name for column in planned.columns]
    for chunk in planned.chunks:
        found = read_chunk(planned.format, planned.files, chunk, planned.columns, names, "id")
        numbers = sorted([*found.numbers.tolist(), *(one.row for one in found.errors)])
        assert numbers == [chunk.first_row + at + 1 for at in range(chunk.rows)]
        rows += found.table.to_pylist()
        bad += located(planned.files, chunk, sorted(found.errors, key=lambda one: one.row))
    return rows, bad


CSV_FILES = [
    b"id,text,n\n1,a,1\n2,b,2\n", b"id,text,n\r\n3,c,3\r\n4,d,4", b"id,text,n\n",
    b'id,text,n\n5,"e\ne ""e""",5\n\n6,f', b"\xef\xbb\xbfid,text,n\n7,\xff,7\n8,h,no\n",
    b"id,text,n\n\n9,i,9\r", b"id,text,n\n10,j,10\n11,k,11,11\n12,l,12",
]
BOM = b"\xef\xbb\xbf"
JSONL_FILES = [
    b'{"id": 1, "text": "a", "n": 1}\n{"id": 2}\n', b'{"id": 3, "n": 3}\r\n\r\n{"id": 4}',
    b'\xef\xbb\xbf{"id": 5, "text": "e"}\nno\n{"id": 7, "text": "\xff"}\n',
    b'{"id": 8, "n": "eight"}\n[1]\n', b'{"id": 9}\n\r', b'\n\n{"id": 10, "n": 10}\n',
]
ODD_JSONL_FILES = [
    b'{"id": 1} {"id": 2}\n{"id": 3}\n', b'  \n{"id": 4}\n',  # for Arrow three rows and one
    b'null\n{"id": 5}\n', b'{"id": 6}\nnull\n{"id": 7}\n',
]
"""Lines that Arrow's parser takes for more rows or fewer; a first ``null`` kills its process."""


def write_text(folder: Path, kind: str, contents: list[bytes]) -> Path:
    pack: dict[str, Callable[[bytes], bytes]] = {
        ".gz": gzip.compress,
        ".zst": lambda data: bytes(pa.Codec("zstd").compress(data, asbytes=True)),
    }
    folder.mkdir()
    suffix = kind[kind.rindex(".") :]
    for number, content in enumerate(contents):
        (folder / f"{number:04d}{kind}").write_bytes(pack.get(suffix, bytes)(content))
    return folder


@pytest.mark.parametrize("most_files", [1_000, 1])
def test_a_line_is_a_row_whatever_a_parser_makes_of_it(
    tmp_path: Path, most_files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "MOST_FILES", most_files)
    source = write_text(tmp_path / "in", ".jsonl", ODD_JSONL_FILES)
    rows, bad = read_all(plan(open_source(source)))
    assert [row["id"] for row in rows] == [3, 4, 5, 6, 7]
    assert [(Path(path).stem, one.row) for path, one in bad] == [
        ("0000", 1), ("0001", 1), ("0002", 1), ("0003", 2),
    ]


@pytest.mark.parametrize(("kind", "data", "ids", "failed"), [
    (".csv", b"id\n" + BOM + b"a\nb\n", ["\ufeffa", "b", "\ufeffa", "b"], []),
    (".jsonl", BOM * 2 + b'{"id": "a"}\n{"id": "b"}\n', ["b", "b"], [1, 1]),
])
def test_a_mark_of_byte_order_in_a_row_stays_wherever_the_row_is(
    tmp_path: Path, kind: str, data: bytes, ids: list[str], failed: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = write_text(tmp_path / "in", kind, [data, data])
    for most in (1_000, 1):
        monkeypatch.setattr(sharing, "MOST_FILES", most)
        rows, bad = read_all(plan(open_source(source)))
        assert [row["id"] for row in rows] == ids
        assert [one.row for _, one in bad] == failed


def test_braces_in_texts_are_not_taken_for_rows() -> None:
    """Lines that are looked at one by one take several times as long."""
    assert not jsonl._is_odd(rb'{"text": "\frac{a}{b} {c}{}, {\"d\"} {\"e\"}", "n": null}' + b"\n")


def write_parquet(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        texts = [b"\xff" if (number + at) % 7 == 0 else b"t%d" % at for at in range(number % 4)]
        table = pa.table({
            "id": pa.array(range(number * 10, number * 10 + len(texts)), pa.int64()),
            "text": pa.array(texts, pa.binary()).view(pa.string()),
        })
        pq.write_table(table, folder / f"{number:04d}.parquet")
    return folder


def planned_of(source: Path, **options: Any) -> DatasetPlan:
    copies = Copies(source.parent / "copies")
    return plan(open_source(source), dtypes={"n": "int"}, copies=copies, **options)


@pytest.mark.parametrize("most_files", [1_000, 3, 2])
@pytest.mark.parametrize("kind", [
    ".csv", ".csv.gz", ".csv.zst", ".jsonl", ".jsonl.gz", ".parquet",
])
def test_shared_chunks_hold_what_each_file_holds(
    tmp_path: Path, kind: str, most_files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in"
    if kind == ".parquet":
        write_parquet(source, 11)
    else:
        write_text(source, kind, CSV_FILES if kind.startswith(".csv") else JSONL_FILES)
    monkeypatch.setattr(sharing, "MOST_FILES", most_files)
    together = planned_of(source)
    monkeypatch.setattr(sharing, "MOST_FILES", 1)
    apart = planned_of(source)
    assert not any(chunk.pieces for chunk in apart.chunks)
    assert any(chunk.pieces for chunk in together.chunks)
    assert len(together.chunks) == -(-len(apart.chunks) // most_files)
    assert (together.files, together.columns) == (apart.files, apart.columns)
    rows, bad = read_all(together)
    assert (rows, bad) == read_all(apart)
    assert bad
    assert not (tmp_path / "copies").exists(), "small files need no copy"


@settings(max_examples=60)
@given(st.lists(st.text('ab",\n\r 1', max_size=12), min_size=2, max_size=6))
def test_any_content_is_read_as_it_is_alone(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[str]
) -> None:
    source = write_text(
        tmp_path_factory.mktemp("csv") / "in", ".csv",
        [b"id,text\n7,x\n" + body.encode() for body in bodies],
    )
    try:
        together = planned_of(source)
    except errors.DatasetError as error:
        assert "never closed" in error.message  # noqa: PT017 - not always
        return
    rows, bad = read_all(together)
    alone = [
        read_all(plan(
            open_source(file.path), dtypes={one.name: one.dtype for one in together.columns}
        ))
        for file in together.files
    ]
    assert rows == [row for some, _ in alone for row in some]
    assert bad == [row for _, some in alone for row in some]


def test_large_files_are_cut_as_they_always_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = b"".join(b"%d,text %d,%d\n" % (n, n, n) for n in range(100))
    source = write_text(tmp_path / "in", ".csv", [b"id,text,n\n" + lines] * 3)
    monkeypatch.setattr(sources, "SMALL_BYTES", 1_000)
    planned = planned_of(source, chunk_rows=70)
    assert [(one.file, one.first_row, one.rows) for one in planned.chunks] == [
        (file, first, rows) for file in range(3) for first, rows in ((0, 70), (70, 30))
    ]
    assert b"pieces" not in encode_chunks(planned.chunks)


def test_a_small_file_is_read_once_for_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_text(tmp_path / "in", ".csv", CSV_FILES)
    monkeypatch.setattr("celeriac.datasets.planner.read_head", None)
    monkeypatch.setattr("celeriac.datasets.planner.open_stream", None)
    assert plan(open_source(source), dtypes={"n": "text"}).rows == 12


def test_types_are_those_of_all_files_whichever_are_looked_at_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_text(tmp_path / "in", ".csv", [
        b"a,b,c\n1,2,x\n", b"a,b,c\n2.5,7,true\n", b"a,b,c\n3,007,false\n",
    ])
    for most in (1, 1 << 20):
        monkeypatch.setattr(sources, "_LOOK_BYTES", most)
        found = {column.name: column.dtype for column in open_source(source).columns}
        assert found == {"a": "float", "b": "text", "c": "text"}


def test_a_file_that_changed_since_the_plan_is_named(tmp_path: Path) -> None:
    source = write_text(tmp_path / "in", ".csv", CSV_FILES)
    planned = planned_of(source)
    (source / "0003.csv").write_bytes(CSV_FILES[0])
    with pytest.raises(errors.DatasetError, match=r"0003\.csv: has changed since"):
        read_all(planned)
    (source / "0003.csv").unlink()
    with pytest.raises(errors.DatasetError, match=r"0003\.csv: no such file"):
        read_all(planned)


def damage(path: Path) -> None:
    """Other content, of the same size and time."""
    state = path.stat()
    path.write_bytes(b"?" * state.st_size)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_file_that_cannot_be_looked_at_is_spared_like_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = planned_of(write_text(tmp_path / "in", ".csv", CSV_FILES[:2]))
    (chunk,) = planned.chunks
    stat = Path.stat

    def fail(path: Path, **options: Any) -> os.stat_result:
        if path.name == "0001.csv":
            raise OSError(5, "Input/output error")
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", fail)
    what = (planned.format, planned.files, chunk, planned.columns, ["id"])
    with pytest.raises(errors.UnreadableFile, match=r"0001\.csv: cannot be read: Input/output"):
        read_chunk(*what)
    assert [one.row for one in read_chunk(*what, spares=True).errors] == [3, 4]


@pytest.mark.parametrize("kind", [".csv.gz", ".parquet"])
@pytest.mark.parametrize("at", [1, 5])
def test_a_damaged_file_costs_its_own_rows_in_the_end(
    tmp_path: Path, kind: str, at: int
) -> None:
    folder = tmp_path / "in"
    source = write_parquet(folder, 6) if kind == ".parquet" else write_text(
        folder, kind, [b"id,text,n\n%d,x,1\n%d,y,2\n" % (n, n) for n in range(6)]
    )
    planned = planned_of(source)
    (chunk,) = planned.chunks
    lost = source / f"{at:04d}{kind}"
    count = planned.files[at].rows
    damage(lost)
    what = (planned.format, planned.files, chunk, planned.columns, ["id", "text"])
    with pytest.raises(errors.UnreadableFile, match=f"{at:04d}{kind}: cannot be read"):
        read_chunk(*what)
    found = read_chunk(*what, spares=True)
    bad = [
        (path, row.row) for path, row in located(planned.files, chunk, found.errors)
        if row.code == "file_unreadable"
    ]
    assert bad == [(str(lost), row) for row in range(1, count + 1)]
    numbers = [*found.numbers.tolist(), *(one.row for one in found.errors)]
    assert sorted(numbers) == list(range(1, chunk.rows + 1))
    pieces = list(read_pieces(*what, lambda _: 1, spares=True))
    assert pa.concat_tables([one.table for one in pieces]).equals(found.table)
    assert [bad for one in pieces for bad in one.errors] == found.errors
    for file in source.iterdir():
        damage(file)
    with pytest.raises(errors.UnreadableFile):
        read_chunk(*what, spares=True)


# --- jobs ----------------------------------------------------------------------------------------


def shout(table: pa.Table) -> TableAnswers:
    return TableAnswers({"prediction": pc.utf8_upper(table["text"]).combine_chunks()})


def make_job(source: Path, output: Path, **options: Any) -> tuple[JobFolder, JobPlan, list[Chunk]]:
    dataset = planned_of(source)
    scoring = Scoring(
        model="shout", version=1, device="cpu", needs=("text",), keeps=("id",), **options
    )
    ours = make_plan(dataset, scoring, source="in", job_id="job", now=NOW, sample_rows=100)
    folder = JobFolder(output)
    return folder, folder.create(ours, dataset.chunks), list(dataset.chunks)


def failed_rows(folder: JobFolder) -> list[tuple[str, int, str]]:
    found = []
    for file in sorted((folder.path / "errors").iterdir()):  # type: ignore[union-attr]
        for line in file.read_text().splitlines():
            row = json.loads(line)
            found.append((Path(row["source"]).name, row["row"], row["message"]))
    return found


@pytest.mark.parametrize("error_column", [False, True])
def test_errors_name_file_and_row(tmp_path: Path, error_column: bool) -> None:
    source = write_text(tmp_path / "in", ".csv", CSV_FILES)
    folder, job, chunks = make_job(source, tmp_path / "out", error_column=error_column)
    record = run_chunk(folder, job, chunks[0], shout)
    assert (record.rows_in, record.rows_failed) == (12, 3)
    manifest = finalize(folder, NOW)
    assert [(name, row) for name, row, _ in failed_rows(folder)] == [
        ("0003.csv", 2), ("0004.csv", 1), ("0006.csv", 2),
    ]
    rows = pq.read_table(folder.path / manifest.parts[0].file).to_pylist()
    if error_column:
        assert [row["error"] is not None for row in rows] == [n in (6, 7, 11) for n in range(1, 13)]
    else:
        assert [row["id"] for row in rows] == [1, 2, 3, 4, 5, 8, 9, 10, 12]
    assert manifest.sample is not None
    assert manifest.sample.chunks_missing == 0


def test_a_damaged_file_is_told_row_by_row(tmp_path: Path) -> None:
    source = write_text(tmp_path / "in", ".csv.gz", [
        b"id,text,n\n%d,x,1\n%d,y,2\n" % (n, n) for n in range(4)
    ])
    folder, job, chunks = make_job(source, tmp_path / "out")
    damage(source / "0002.csv.gz")
    with pytest.raises(errors.UnreadableFile):
        run_chunk(folder, job, chunks[0], shout)
    record = run_chunk(folder, job, chunks[0], shout, attempt=3, spares=True)
    assert (record.rows_ok, record.failures) == (6, {"file_unreadable": 2})
    assert finalize(folder, NOW).state == "completed_with_errors"
    assert [(name, row) for name, row, _ in failed_rows(folder)] == [
        ("0002.csv.gz", 1), ("0002.csv.gz", 2),
    ]
    assert "0002.csv.gz: cannot be read as gzip" in failed_rows(folder)[0][2]


def test_a_shared_chunk_that_is_given_up_names_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "MOST_FILES", 4)
    source = write_text(tmp_path / "in", ".csv", CSV_FILES)
    folder, job, chunks = make_job(source, tmp_path / "out")
    run_chunk(folder, job, chunks[0], shout)
    manifest = finalize(folder, NOW, [DeadChunk(1, 3, "no luck", "w", 0, dropped=False)])
    (dead,) = manifest.dead
    assert dead.source == f"{source}/0005.csv to 0006.csv (2 files)"


def test_releases_that_know_no_shared_chunks_refuse_their_plan(tmp_path: Path) -> None:
    source = write_text(tmp_path / "in", ".csv", CSV_FILES)
    folder, job, chunks = make_job(source, tmp_path / "out")
    assert (job.contract, folder.load().contract) == (2, 2)
    assert folder.chunks(job) == chunks
    alone = make_job(source / "0000.csv", tmp_path / "alone")[1]
    assert alone.contract == 1
    packed = write_text(tmp_path / "packed", ".csv.gz", CSV_FILES[:1])
    assert make_job(packed, tmp_path / "unpacked")[1].contract == 2
    later = json.loads(folder.job.read_bytes()) | {"contract": 3}
    Path(str(folder.job)).write_text(json.dumps(later))
    with pytest.raises(errors.JobNotFound, match=r"has contract 3, and .* upgrade it"):
        folder.load()


# --- reading ahead -------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [False, True])
def test_what_is_read_ahead_comes_in_order_and_is_bounded(waits: bool) -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def work(number: int) -> int:
        with lock:
            begun.append(number)
        time.sleep(0.001 * (number % 3))
        if number == 90:
            raise OSError("gone")
        return number

    found = in_order(work, range(1_000), waits=waits)
    for number in range(90):
        assert next(found) == number
        assert len(begun) <= number + 1 + (ahead._AHEAD if waits else 0)
    with pytest.raises(OSError, match="gone"):
        next(found)


def test_objects_are_looked_at_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at one waits for S3, and a job may have many thousands."""
    together = threading.Barrier(4)

    def stat(path: S3Path) -> Stat:
        together.wait(30)
        if path.name == "gone.csv":
            raise FileNotFoundError(path)
        return Stat(1, int(path.name.endswith("5.csv")))

    monkeypatch.setattr(S3Path, "stat", stat)
    names = [*(f"{number}.csv" for number in range(7)), "gone.csv"]
    files = [
        SourceFile(path=f"s3://data/{name}", size=1, mtime_ns=0, sha256="", rows=1)
        for name in names
    ]
    with pytest.raises(errors.DatasetError, match=r"s3://data/5\.csv: has changed since"):
        check_unchanged(files)
    together.reset()
    check_unchanged([*files[:3], files[7]])  # one that is not seen from here
    check_unchanged([])
