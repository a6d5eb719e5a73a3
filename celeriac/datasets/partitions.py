"""Columns that the names of folders hold: of ``date=2026-11-24/region=eu/part-0.parquet`` they are
``date`` and ``region``, each with one value for all rows of the file."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from celeriac import errors
from celeriac.datasets.records import Chunk, DatasetColumn, SourceFile

_FOLDER = re.compile(r"([^=]+)=(.*)", re.DOTALL)
_NULL = ("", "__HIVE_DEFAULT_PARTITION__")
"""What stands in a name for no value."""
_TYPES = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


def is_partition(folder: str) -> bool:
    """True for the name of a folder that holds a value of a column, as ``region=eu``."""
    return _FOLDER.fullmatch(folder) is not None


def values_of(path: str) -> dict[str, str | None]:
    """The columns of a file's folders and their values; of two folders the inner one counts.

    >>> values_of("/lake/date=2026-11-24/city=S%C3%A3o%20Paulo/part-0.parquet")
    {'date': '2026-11-24', 'city': 'São Paulo'}
    """
    folders = path.rpartition("/")[0]
    return dict(_values(folders)) if "=" in folders else {}


@lru_cache(maxsize=1_024)
def _values(folders: str) -> tuple[tuple[str, str | None], ...]:
    found: dict[str, str | None] = {}
    for folder in folders.split("/"):
        if match := _FOLDER.fullmatch(folder):
            name, value = match.groups()
            found[unquote(name)] = None if value in _NULL else unquote(value)
    return tuple(found.items())


def columns_of(paths: Sequence[str], in_files: Collection[str]) -> tuple[DatasetColumn, ...]:
    """The columns that the folders of all files hold, texts all of them; what the files hold
    themselves is theirs. Raises DatasetError if the folders of two files differ in them."""
    first = [name for name in values_of(paths[0]) if name not in in_files]
    for path in paths:
        odd = {*first} ^ {name for name in values_of(path) if name not in in_files}
        if odd:
            raise errors.DatasetError(
                f"{path}: differs from {paths[0]} in the columns of its folders: "
                f"{', '.join(sorted(odd))}"
            )
    return tuple(DatasetColumn(name=name, dtype="text", in_folders=True) for name in first)


def check(files: Sequence[SourceFile], columns: Sequence[DatasetColumn]) -> None:
    """Raises DatasetError if a folder's value is not of the type of its column."""
    typed = [column for column in columns if column.dtype != "text"]
    by_folder = {file.path.rpartition("/")[0]: file.path for file in files if typed}
    for path in by_folder.values():
        for column in typed:
            try:
                _array([values_of(path)[column.name]], column.dtype)
            except (pa.ArrowInvalid, KeyError):  # no folder is an image
                raise errors.DatasetError(
                    f"{path}: {column.name}={values_of(path)[column.name]}: the model takes "
                    f"column {column.name!r} as {column.dtype}"
                ) from None


def added(
    table: pa.Table, numbers: np.ndarray[tuple[int], np.dtype[np.int64]],
    files: Sequence[SourceFile], chunk: Chunk, columns: Sequence[DatasetColumn],
) -> pa.Table:
    """Rows of a chunk, by their ``numbers``, with these columns of folders beside theirs."""
    pieces = chunk.pieces or (chunk,)
    values = [values_of(files[piece.file].path) for piece in pieces]
    if chunk.pieces:  # numbered through the chunk
        ends = np.cumsum([piece.rows for piece in pieces])
        where = np.searchsorted(ends, numbers)
    else:
        where = np.zeros(len(numbers), dtype=np.int64)
    for column in columns:
        array = _array([one[column.name] for one in values], column.dtype)
        table = table.append_column(column.name, array.take(pa.array(where)))
    return table


def _array(values: list[str | None], dtype: str) -> pa.Array:
    return pa.array(values, pa.string()).cast(_TYPES[dtype])
