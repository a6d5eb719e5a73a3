"""Read one chunk of a planned dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import starmap
from typing import Any

import numpy as np
import pyarrow as pa

from celeriac import errors
from celeriac.datasets import csv, images, jsonl, parquet
from celeriac.datasets.places import S3Path, is_s3, place
from celeriac.datasets.records import Chunk, DatasetColumn, RowError, SourceFile, SourceFormat
from celeriac.datasets.streams import read_range


@dataclass(frozen=True)
class Rows:
    """What a chunk holds."""

    table: pa.Table
    """The readable rows, in order."""
    numbers: np.ndarray[Any, Any]
    """The number in the file (from 1) of each row of the table."""
    errors: list[RowError]
    """The rows that could not be read."""


def read_chunk(  # noqa: PLR0913, PLR0917 - a chunk, and what is wanted of it
    format: SourceFormat,
    file: SourceFile,
    chunk: Chunk,
    columns: tuple[DatasetColumn, ...],
    names: Sequence[str],
    id_column: str | None = None,
) -> Rows:
    """The rows of ``chunk`` with the columns ``names``.

    ``id_column``, one of ``names``, gives errors their ids. Raises DatasetError if the file is
    gone or has changed since the plan, UnreadableFile if it is damaged.
    """
    if format == "images":
        _check_unchanged(file)
        return Rows(*images.read_rows(file, chunk, list(names), id_column))
    if format == "parquet":
        with _unchanged(file):
            return Rows(*parquet.read_rows(file, chunk, list(names), id_column))
    read_rows = csv.read_rows if format == "csv" else jsonl.read_rows
    with _unchanged(file):
        data = read_range(file, chunk)
    return Rows(*read_rows(file.path, data, chunk, columns, list(names), id_column))


def read_pieces(  # noqa: PLR0913, PLR0917 - as read_chunk
    format: SourceFormat,
    file: SourceFile,
    chunk: Chunk,
    columns: tuple[DatasetColumn, ...],
    names: Sequence[str],
    rows_at_once: Callable[[int], int],
    id_column: str | None = None,
) -> Iterator[Rows]:
    """As :func:`read_chunk`; of Parquet only as many rows at a time as ``rows_at_once`` says of
    rows of so many bytes."""
    if format != "parquet":
        yield read_chunk(format, file, chunk, columns, names, id_column)
        return
    with _unchanged(file):
        pieces = parquet.read_pieces(file, chunk, list(names), rows_at_once, id_column)
        yield from starmap(Rows, pieces)  # a loop would hold a piece while the next is read


@contextmanager
def _unchanged(file: SourceFile) -> Iterator[None]:
    """Raises DatasetError if the file is not as it was planned, before the block or after it."""
    _check_unchanged(file)
    yield
    if not is_s3(file.path):  # there a look takes as long as a small chunk
        _check_unchanged(file)


def _check_unchanged(file: SourceFile) -> None:
    path = place(file.copy or file.path)
    try:
        found = path.stat()
        etag = path.etag() if isinstance(path, S3Path) and file.etag else file.etag
    except FileNotFoundError as error:
        raise errors.DatasetError(
            f"{path}: no such file; the job reads it where it was submitted, so workers must see "
            "the same folder"
        ) from error
    if file.copy:  # it is ours, and named by its content
        return
    if (found.st_size, found.st_mtime_ns, etag) != (file.size, file.mtime_ns, file.etag):
        raise errors.DatasetError(
            f"{path}: has changed since the job was submitted; submit it again with another output"
        )
