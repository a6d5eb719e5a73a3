"""What a plan says of a dataset. Plain records, written as JSON; no reader is imported here."""

from __future__ import annotations

from typing import Literal

import msgspec

Format = Literal["csv", "parquet"]


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the dataset, as it was when the plan was made."""

    path: str
    """Absolute."""
    size: int
    mtime_ns: int
    sha256: str
    rows: int
    """Rows of data, the unreadable ones among them."""


class DatasetColumn(msgspec.Struct, frozen=True, kw_only=True):
    """One column of the dataset."""

    name: str
    dtype: str
    """CSV: ``int``, ``float``, ``bool`` or ``text``. Parquet: the file's own Arrow type."""


class Chunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Consecutive rows of one file: a byte range of a CSV, row groups of a Parquet file."""

    number: int
    file: int
    """Index into the plan's files."""
    first_row: int
    """Rows of the file before this chunk."""
    rows: int
    start: int = 0
    """CSV: first byte."""
    end: int = 0
    """CSV: byte after the last one."""
    group: int = 0
    """Parquet: first row group."""
    groups: int = 0
    """Parquet: how many row groups are read."""
    skip: int = 0
    """Parquet: rows of the first group that belong to the chunk before."""


class DatasetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset cut into chunks: each row is in exactly one of them, in order."""

    format: Format
    files: tuple[SourceFile, ...]
    columns: tuple[DatasetColumn, ...]
    chunks: tuple[Chunk, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


class RowError(msgspec.Struct, frozen=True, kw_only=True):
    """One row that could not be read or answered."""

    row: int
    """Number of the row in its file; the first row of data is 1."""
    code: str
    message: str
    data: str
    """The row, at most 4 kB."""
