"""A folder of images as a dataset: a row is a path and the bytes of the file.

The listing is a Parquet file in the job's folder; a chunk is a slice of it.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from celeriac import errors
from celeriac.datasets.parquet import open_file
from celeriac.datasets.places import Listed, is_s3, place
from celeriac.datasets.records import Chunk, DatasetColumn, RowError, SourceFile

COLUMNS = (DatasetColumn(name="path", dtype="string"), DatasetColumn(name="image", dtype="binary"))
PATH, CONTENT = "path", "image"
_SCHEMA = pa.schema([
    ("path", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64()),
])
_GROUP_ROWS = 10_000


def write_listing(target: Path, files: Sequence[Listed]) -> None:
    """Write which files there are, and in which state."""
    names, sizes, times, _ = zip(*files, strict=True)
    table = pa.table([names, sizes, times], schema=_SCHEMA)
    pq.write_table(table, target, row_group_size=_GROUP_ROWS, use_dictionary=False)


def cut_listing(
    files: Sequence[Listed], chunk_rows: int, chunk_bytes: int
) -> Iterator[tuple[int, int]]:
    """First row and rows of each chunk: at most so many files and bytes, but at least one file."""
    sizes = [at.size for at in files]
    first = 0
    while first < len(sizes):
        some = sizes[first : first + chunk_rows]
        rows = len(some)
        if sum(some) > chunk_bytes:
            rows = max(1, bisect_right(list(accumulate(some)), chunk_bytes))
        yield first, rows
        first += rows


def chunk_of(number: int, first_row: int, rows: int) -> Chunk:
    """A slice of the listing."""
    group = first_row // _GROUP_ROWS
    groups = (first_row + rows - 1) // _GROUP_ROWS - group + 1
    return Chunk(
        number=number, file=0, first_row=first_row, rows=rows, group=group, groups=groups,
        skip=first_row % _GROUP_ROWS,
    )


def read_rows(
    file: SourceFile, chunk: Chunk, names: list[str], id_column: str | None = None
) -> tuple[pa.Table, np.ndarray[Any, Any], list[RowError]]:
    """The images of a chunk, their numbers (from 1), and why the others cannot be read.

    Raises DatasetError that names an image that is gone or has changed since the plan.
    """
    groups = list(range(chunk.group, chunk.group + chunk.groups))
    with open_file(place(file.copy)) as listing:
        rows = listing.read_row_groups(groups, use_threads=False)
    rows = rows.slice(chunk.skip, chunk.rows).to_pylist()
    paths: list[str] = []
    contents: list[bytes] = []
    kept: list[int] = []
    bad: list[RowError] = []
    for at, row in enumerate(rows):
        try:
            content = _content(row) if CONTENT in names else b""
        except PermissionError as error:
            bad.append(_unreadable(chunk.first_row + at + 1, row["path"], id_column, error))
            continue
        paths.append(row["path"])
        contents.append(content)
        kept.append(chunk.first_row + at + 1)
    columns = [pa.array(paths, pa.string()), pa.array(contents, pa.binary())]
    table = pa.table(columns, names=[column.name for column in COLUMNS])
    return table.select(names), np.array(kept, dtype=np.int64), bad


def _content(row: dict[str, Any]) -> bytes:
    path = row["path"]
    try:
        if is_s3(path):  # one request for each object: its size must do
            content, mtime_ns = place(path).read_bytes(), row["mtime_ns"]
        else:
            content, mtime_ns = read_file(path, row["size"])
    except FileNotFoundError as error:
        raise errors.DatasetError(f"{path}: is gone since the job was submitted") from error
    if len(content) != row["size"] or mtime_ns != row["mtime_ns"]:
        raise errors.DatasetError(
            f"{path}: has changed since the job was submitted; submit it again with another output"
        )
    return content


def read_file(path: str, size: int) -> tuple[bytes, int]:
    """Content of a file that had ``size`` bytes, of which one more shows that it has grown; and
    when it was written last, as seen after that.

    In four system calls: Python's files take eight, and half as long again.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        content = os.read(descriptor, size + 1)
        while len(content) < size and (more := os.read(descriptor, size + 1 - len(content))):
            content += more
        return content, os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


def _unreadable(row: int, path: str, id_column: str | None, error: OSError) -> RowError:
    return RowError(
        row=row, id=path if id_column == PATH else None, code=errors.DatasetError.code, data=path,
        message=f"cannot be read: {error.strerror or error}",
    )
