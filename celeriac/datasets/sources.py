"""From what the caller names (a file, a folder, a pattern, a frame) to files and their columns."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import repeat
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa

from celeriac import errors
from celeriac.datasets import csv, images, jsonl, parquet
from celeriac.datasets.places import (
    Listed,
    Place,
    S3Path,
    expanded,
    is_s3,
    list_files,
    listed,
    match_s3,
)
from celeriac.datasets.records import Compression, DatasetColumn, SourceFormat
from celeriac.datasets.streams import Head, compression_of, naming, read_head

_FORMATS: dict[str, SourceFormat] = {
    ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet",
    ".png": "images", ".jpg": "images", ".jpeg": "images", ".webp": "images", ".gif": "images",
}
_KINDS = (
    ".csv, .jsonl or .parquet files (CSV and JSON lines also .gz or .zst), or images "
    "(.png, .jpg, .webp, .gif)"
)

Columns = list[tuple[str, str]]
Check = Callable[[Place], None]
"""Raises DatasetError for a file that may not be read."""


class Found(NamedTuple):
    """One file of a dataset, whose head was read. (A tuple: there may be a million images.)"""

    at: Listed
    data_start: int = 0
    """CSV and JSON lines: byte, after decompression, of the first row."""
    footer: parquet.Footer | None = None
    rows: int = 0
    """Estimated from the head; exact for Parquet."""


@dataclass(frozen=True)
class Source:
    """A dataset that was found and whose heads were read."""

    format: SourceFormat
    files: tuple[Found, ...]
    columns: tuple[DatasetColumn, ...]
    frame: pa.Table | None = None
    """A table of this process, which has no file yet."""

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @cached_property
    def bytes(self) -> int:
        return sum(found.at.size for found in self.files)

    @property
    def rows(self) -> int:
        """About how many; at least 1."""
        return max(1, sum(found.rows for found in self.files))


def open_source(source: Any, check: Check | None = None) -> Source:
    """Find the files of a dataset and read their columns; quick, whatever the size.

    ``source`` is a file, a folder, or a pattern such as ``data/2026-*.csv``, on a disk or in S3;
    several files are taken in the order of their names. Or it is an Arrow table or a frame
    (pandas, polars) of this process. ``check`` sees each file before it is opened.
    Raises DatasetError if there is none, if one cannot be read, or if their columns differ.
    """
    if not isinstance(source, (str, Path, S3Path)):
        return _open_frame(source)
    with naming(str(source)):
        return _open(_find(source, check))


def open_files(paths: Sequence[Place]) -> Source:
    """As :func:`open_source`, of files in a given order."""
    return _open([listed(path) for path in paths])


def describe(source: Any) -> str:
    """What a job says of its source."""
    if isinstance(source, (str, Path, S3Path)):
        return str(source)
    return f"a frame of {len(source):,} rows" if hasattr(source, "__len__") else "a frame"


def _open(files: list[Listed]) -> Source:
    kind = _format(files)
    if kind == "images":
        found = tuple(map(Found, files, repeat(0), repeat(None), repeat(1)))
        return Source(kind, found, images.COLUMNS)
    openers: dict[str, Callable[[list[Listed]], tuple[list[Found], Columns]]] = {
        "csv": _open_csv, "jsonl": _open_jsonl, "parquet": _open_parquet,
    }
    opened, columns = openers[kind](files)
    return Source(kind, tuple(opened), _named(columns))


def _open_frame(frame: Any) -> Source:
    try:
        table = pa.table(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise errors.DatasetError(
            f"{type(frame).__name__}: a dataset is a path, an Arrow table or a frame; this one "
            f"does not become a table: {errors.told(error)}"
        ) from error
    table = table.replace_schema_metadata(None)
    columns = parquet.columns_of(table.schema, "the frame")
    if table.num_rows == 0:
        raise errors.DatasetError("the frame has no rows")
    return Source("parquet", (), _named(columns), table)


def _named(columns: Columns) -> tuple[DatasetColumn, ...]:
    return tuple(DatasetColumn(name=name, dtype=dtype) for name, dtype in columns)


# --- finding -------------------------------------------------------------------------------------


def _find(source: str | Path | S3Path, check: Check | None) -> list[Listed]:
    if not str(source):
        raise errors.DatasetError("no dataset is named: its path is empty")
    path = expanded(source)
    if check:
        check(path)
    if path.is_dir():
        files = _in_folder(list_files(path.resolve(), below=False, check=check))
        if not files:  # images are often sorted into folders
            below = list_files(path.resolve(), below=True, check=check)
            files = [at for at in _in_folder(below) if _format_of(at) == "images"]
        problem = f"the folder holds no {_KINDS}"
    elif path.exists():
        files, problem = [listed(path.resolve())], ""
    elif glob.has_magic(str(source)):
        files = _in_folder(_matches(source, str(path), check), known=False)
        problem = "no file matches the pattern"
    else:
        raise errors.DatasetError(f"{path}: no such file")
    if not files:
        raise errors.DatasetError(f"{path}: {problem}")
    odd = next((at for at in files if not at.is_regular), None)
    if odd:
        raise errors.DatasetError(
            f"{odd.name}: is a pipe, a socket or a device; a dataset is made of ordinary files"
        )
    return sorted(files, key=attrgetter("name"))


def _matches(
    source: str | Path | S3Path, pattern: str, check: Check | None
) -> list[Listed]:
    if is_s3(source):
        return match_s3(str(source))
    found = map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207 - any pattern
    files = [path for path in found if not path.is_dir()]
    if check:
        for path in files:
            check(path)
    return [listed(path.resolve() if path.exists() else path) for path in files]


def _in_folder(files: Sequence[Listed], *, known: bool = True) -> list[Listed]:
    return [
        at for at in files
        if not at.own_name.startswith((".", "_")) and (not known or _format_of(at))
    ]


def _format(files: list[Listed]) -> SourceFormat:
    kinds = {_format_of(at) for at in files}
    if None in kinds:
        odd = next(at for at in files if not _format_of(at))
        raise errors.DatasetError(f"{odd.name}: a dataset is made of {_KINDS}")
    if len(kinds) > 1:
        names = " and ".join(sorted(cast("set[str]", kinds)))
        raise errors.DatasetError(
            f"{files[0].path.parent}: holds files of several kinds ({names}); use one kind, or a "
            "pattern such as folder/*.csv"
        )
    return cast("SourceFormat", kinds.pop())


def _format_of(at: Listed) -> SourceFormat | None:
    _, dot, ending = at.own_name.rpartition(".")
    plain = _FORMATS.get(dot + ending)  # most are: a folder has many files of one kind
    if plain:
        return plain
    compression, kind = _kind_of(*at.own_name.lower().rsplit(".", 2)[1:])
    if compression and kind == "parquet":
        raise errors.DatasetError(
            f"{at.name}: Parquet is compressed inside, column by column, and cannot be read out "
            "of a compressed file; unpack it first"
        )
    return None if compression and kind == "images" else kind


@lru_cache(maxsize=256)
def _kind_of(*suffixes: str) -> tuple[Compression, SourceFormat | None]:
    """Of the last two suffixes of a name: compression and format. A folder has many files of one.

    >>> _kind_of("csv", "gz"), _kind_of("2026", "png"), _kind_of("csv")
    (('gzip', 'csv'), ('', 'images'), ('', 'csv'))
    """
    compression = compression_of(Path("x." + suffixes[-1])) if suffixes else ""
    left = suffixes[:-1] if compression else suffixes
    return compression, _FORMATS.get(f".{left[-1]}") if left else None


# --- columns -------------------------------------------------------------------------------------


def _open_csv(files: list[Listed]) -> tuple[list[Found], Columns]:
    found, headers, types = [], [], []
    for at in files:
        head = read_head(at.path)
        names, start = csv.read_header(head)
        headers.append([(name, "") for name in names])
        _same_columns(files, headers)
        found.append(Found(at, start, rows=_estimated_rows(head, at)))
        types.append(csv.infer_types(head, names, start))
    names = [name for name, _ in headers[0]]
    return found, [(name, _common_type([one[name] for one in types])) for name in names]


def _open_jsonl(files: list[Listed]) -> tuple[list[Found], Columns]:
    found, types = [], []
    for at in files:
        head = read_head(at.path)
        found.append(Found(at, jsonl.data_start(head), rows=_estimated_rows(head, at)))
        types.append(jsonl.infer_types(head))
    names = dict.fromkeys(name for one in types for name in one)
    return found, [
        (name, _common_type([one[name] for one in types if name in one], "json")) for name in names
    ]


def _open_parquet(files: list[Listed]) -> tuple[list[Found], Columns]:
    found, columns = [], []
    for at in files:
        footer = parquet.read_footer(at)
        columns.append(footer.columns)
        _same_columns(files, columns)
        found.append(Found(at, footer=footer, rows=sum(group.rows for group in footer.groups)))
    return found, columns[0]


def _same_columns(files: list[Listed], columns: list[Columns]) -> None:
    """Raises DatasetError if the last of ``columns`` differ from the first."""
    first, last = columns[0], columns[-1]
    if first != last:
        odd = sorted(dict.fromkeys(name for name, _ in {*last} ^ {*first}))
        what = ", ".join(odd[:5]) or "the order of the columns"
        path = files[len(columns) - 1].path
        raise errors.DatasetError(f"{path}: differs from {files[0].path.name} in: {what}")


def _common_type(types: list[str], other: str = "text") -> str:
    if len(set(types)) == 1:
        return types[0]
    return "float" if set(types) == {"int", "float"} else other


def _estimated_rows(head: Head, at: Listed) -> int:
    """From the lines of the head. Compressed, a file is taken for 5 times its size."""
    lines = max(head.data.count(b"\n"), head.data.count(b"\r"), 1)
    size = at.size * (5 if compression_of(at.path) else 1)
    return lines if head.is_whole else lines * size // len(head.data)
