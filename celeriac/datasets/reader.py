"""Read one chunk of a planned dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from celeriac import errors
from celeriac.datasets import csv, parquet
from celeriac.datasets.records import Chunk, DatasetColumn, Format, RowError, SourceFile


@dataclass(frozen=True)
class Rows:
    """What a chunk holds."""

    table: pa.Table
    """The readable rows, in order."""
    numbers: np.ndarray[Any, Any]
    """The number in the file (from 1) of each row of the table."""
    errors: list[RowError]
    """The rows that could not be read."""


def read_chunk(
    format: Format,
    file: SourceFile,
    chunk: Chunk,
    columns: tuple[DatasetColumn, ...],
    names: Sequence[str],
) -> Rows:
    """The rows of ``chunk`` with the columns ``names``.

    Raises DatasetError if the file is gone, has changed since the plan, or is damaged.
    """
    path = Path(file.path)
    _check_unchanged(path, file)
    if format == "csv":
        return Rows(*csv.read_rows(path, chunk, columns, list(names)))
    table = parquet.read_rows(path, chunk, list(names))
    return Rows(table, np.arange(chunk.rows) + chunk.first_row + 1, [])


def _check_unchanged(path: Path, file: SourceFile) -> None:
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise errors.DatasetError(
            f"{path}: no such file; the job reads it where it was submitted, so workers must see "
            "the same folder"
        ) from error
    if (found.st_size, found.st_mtime_ns) != (file.size, file.mtime_ns):
        raise errors.DatasetError(
            f"{path}: has changed since the job was submitted; submit it again with another output"
        )
