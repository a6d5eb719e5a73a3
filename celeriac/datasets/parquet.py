"""Parquet: its columns, its chunks (row groups, or rows of a large group), and their rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from celeriac import errors
from celeriac.datasets.records import Chunk


@dataclass(frozen=True)
class Group:
    """Size of one row group."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class GroupSpan:
    """Consecutive rows: where they are in the row groups, and which rows they are."""

    group: int
    groups: int
    skip: int
    first_row: int
    rows: int


def read_schema(path: Path) -> list[tuple[str, str]]:
    """Names and Arrow types of the columns.

    Raises DatasetError if the file is not whole, or names a column twice.
    """
    with _open(path) as file:
        names = file.schema_arrow.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise errors.DatasetError(f"{path}: names a column twice: {', '.join(twice)}")
        return [(field.name, str(_plain(field.type))) for field in file.schema_arrow]


def read_groups(path: Path) -> list[Group]:
    """The row groups. Raises DatasetError if the file is not whole."""
    with _open(path) as file:
        found = (file.metadata.row_group(number) for number in range(file.num_row_groups))
        return [Group(group.num_rows, group.total_byte_size) for group in found]


def cut_groups(groups: list[Group], chunk_rows: int, chunk_bytes: int) -> Iterator[GroupSpan]:
    """Small groups together, large groups cut by rows. Empty groups are in no span."""
    first_row = 0
    start, count, rows, size = 0, 0, 0, 0
    for number, group in enumerate(groups):
        full = rows and (rows + group.rows > chunk_rows or size + group.bytes > chunk_bytes)
        if full:
            yield GroupSpan(start, count, 0, first_row, rows)
            first_row += rows
            rows = size = 0
        if rows == 0:
            start, count = number, 0
        piece = _piece_rows(group, chunk_rows, chunk_bytes)
        if piece < group.rows:
            for skip in range(0, group.rows, piece):
                part = min(piece, group.rows - skip)
                yield GroupSpan(number, 1, skip, first_row + skip, part)
            first_row += group.rows
            continue
        count, rows, size = number - start + 1, rows + group.rows, size + group.bytes
    if rows:
        yield GroupSpan(start, count, 0, first_row, rows)


def read_rows(path: Path, chunk: Chunk, names: list[str]) -> pa.Table:
    """The rows of a chunk. Raises DatasetError if the file is damaged or has changed."""
    with _open(path) as file:
        groups = list(range(chunk.group, chunk.group + chunk.groups))
        table = file.read_row_groups(groups, columns=names, use_threads=False)
    table = table.select(names).slice(chunk.skip, chunk.rows)
    if table.num_rows != chunk.rows:
        raise errors.DatasetError(
            f"{path}: chunk {chunk.number} holds {table.num_rows} rows, the plan says "
            f"{chunk.rows}; the file has changed: submit it again"
        )
    return pa.table({name: _decoded(table[name]) for name in names})


def is_nested(dtype: str) -> bool:
    """True for a column type that has no place in a CSV file."""
    return dtype.startswith(("list", "large_list", "fixed_size_list", "struct", "map", "union"))


def _piece_rows(group: Group, chunk_rows: int, chunk_bytes: int) -> int:
    """Rows of one piece of a group. Each piece decodes the whole group, so halves are not worth
    it: a group is cut when it is more than twice too large."""
    by_bytes = max(1, chunk_bytes * group.rows // max(group.bytes, 1))
    piece = min(chunk_rows, by_bytes)
    return piece if group.rows > 2 * piece else max(group.rows, 1)


def _plain(dtype: Any) -> Any:
    return dtype.value_type if pa.types.is_dictionary(dtype) else dtype


def _decoded(column: pa.ChunkedArray) -> pa.Array:
    return column.cast(_plain(column.type)).combine_chunks()


@contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    if path.stat().st_size == 0:
        raise errors.DatasetError(f"{path}: the file is empty")
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise errors.DatasetError(
            f"{path}: cannot be read as Parquet (damaged, or cut short?): {error}"
        ) from error
