"""From what the caller names (a file, a folder, a pattern) to a plan of chunks."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from celeriac import errors
from celeriac.datasets import csv, parquet
from celeriac.datasets.files import sha256_of
from celeriac.datasets.records import Chunk, DatasetColumn, DatasetPlan, Format, SourceFile

WANTED_CHUNKS = 8
"""A dataset smaller than this many default chunks is cut into about as many, for parallel work."""
MIN_CHUNK_ROWS = 1_000
MAX_CHUNK_BYTES = 1 << 30
"""Arrow's CSV parser takes blocks below 2 GB."""


@dataclass(frozen=True)
class Source:
    """A dataset that was found and whose heads were read."""

    format: Format
    paths: tuple[Path, ...]
    columns: tuple[DatasetColumn, ...]

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)


def open_source(source: str | Path) -> Source:
    """Find the files of a dataset and read their columns; quick, whatever the size.

    ``source`` is a CSV or Parquet file, a folder of such files, or a pattern such as
    ``data/2026-*.csv``; several files are taken in the order of their names.
    Raises DatasetError if there is none, if one cannot be read, or if their columns differ.
    """
    paths = _find(str(source))
    kind = _format(paths)
    if kind == "csv":
        columns = _csv_columns(paths)
    else:
        columns = _same_columns(paths, [parquet.read_schema(path) for path in paths])
    named = tuple(DatasetColumn(name=name, dtype=dtype) for name, dtype in columns)
    return Source(kind, paths, named)


def plan(  # noqa: PLR0913 - one source and its options
    source: Source,
    *,
    chunk_rows: int | None = None,
    default_chunk_rows: int = 50_000,
    chunk_bytes: int = 64_000_000,
    dtypes: Mapping[str, str] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> DatasetPlan:
    """Cut a dataset into chunks.

    ``dtypes`` fixes types of CSV columns (``int``, ``float``, ``bool``, ``text``).
    ``on_progress`` is told the bytes that each step has read.
    Raises DatasetError if a file cannot be read or the dataset has no row.
    """
    rows_at_most = chunk_rows or _chunk_rows(source, default_chunk_rows)
    limits = (rows_at_most, min(chunk_bytes, MAX_CHUNK_BYTES))
    cut = _plan_csv if source.format == "csv" else _plan_parquet
    files: list[SourceFile] = []
    chunks: list[Chunk] = []
    for path in source.paths:
        before = path.stat()
        found, digest = cut(path, len(files), len(chunks), limits, on_progress or (lambda _: None))
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise errors.DatasetError(f"{path}: was written to while it was read; submit it again")
        chunks += found
        files.append(
            SourceFile(
                path=str(path), size=after.st_size, mtime_ns=after.st_mtime_ns, sha256=digest,
                rows=sum(chunk.rows for chunk in found),
            )
        )
    if not chunks:
        raise errors.DatasetError(f"{source.paths[0]}: the dataset has columns but no rows")
    fixed = dtypes if dtypes and source.format == "csv" else {}
    columns = tuple(
        DatasetColumn(name=column.name, dtype=fixed.get(column.name, column.dtype))
        for column in source.columns
    )
    return DatasetPlan(
        format=source.format, files=tuple(files), columns=columns, chunks=tuple(chunks)
    )


def _plan_csv(
    path: Path, file: int, number: int, limits: tuple[int, int], on_bytes: Callable[[int], None]
) -> tuple[list[Chunk], str]:
    _, data_start = csv.read_header(path)
    spans, digest = csv.plan_chunks(path, data_start, *limits, on_bytes)
    chunks = [
        Chunk(
            number=number + index, file=file, first_row=span.first_row, rows=span.rows,
            start=span.start, end=span.end,
        )
        for index, span in enumerate(spans)
    ]
    return chunks, digest


def _plan_parquet(
    path: Path, file: int, number: int, limits: tuple[int, int], on_bytes: Callable[[int], None]
) -> tuple[list[Chunk], str]:
    spans = parquet.cut_groups(parquet.read_groups(path), *limits)
    chunks = [
        Chunk(
            number=number + index, file=file, first_row=span.first_row, rows=span.rows,
            group=span.group, groups=span.groups, skip=span.skip,
        )
        for index, span in enumerate(spans)
    ]
    digest = sha256_of(path)
    on_bytes(path.stat().st_size)
    return chunks, digest


def _find(source: str) -> tuple[Path, ...]:
    path = Path(source).expanduser()
    if path.is_dir():
        files = [file for file in path.iterdir() if _suffix(file) and not _hidden(file)]
        problem = "the folder holds no .csv or .parquet file"
    elif path.exists():
        files, problem = [path], ""
    elif glob.has_magic(source):
        matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 - any pattern
        files = [file for file in matches if file.is_file() and not _hidden(file)]
        problem = "no file matches the pattern"
    else:
        raise errors.DatasetError(f"{path}: no such file")
    if not files:
        raise errors.DatasetError(f"{path}: {problem}")
    return tuple(sorted(file.resolve() for file in files))


def _format(paths: tuple[Path, ...]) -> Format:
    suffixes = {_suffix(path) for path in paths}
    if "" in suffixes:
        odd = next(path for path in paths if not _suffix(path))
        raise errors.DatasetError(f"{odd}: a dataset is a .csv or a .parquet file")
    if len(suffixes) > 1:
        raise errors.DatasetError(f"{paths[0].parent}: holds CSV and Parquet files; use one kind")
    return cast("Format", suffixes.pop())


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower().lstrip(".")
    suffix = {"pq": "parquet"}.get(suffix, suffix)
    return suffix if suffix in get_args(Format) else ""


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "_"))


def _csv_columns(paths: tuple[Path, ...]) -> list[tuple[str, str]]:
    headers = [csv.read_header(path) for path in paths]
    names = headers[0][0]
    _same_columns(paths, [[(name, "") for name in header] for header, _ in headers])
    found = [
        csv.infer_types(path, names, start)
        for path, (_, start) in zip(paths, headers, strict=True)
    ]
    return [(name, _common_type([types[name] for types in found])) for name in names]


def _same_columns(
    paths: tuple[Path, ...], columns: list[list[tuple[str, str]]]
) -> list[tuple[str, str]]:
    for path, other in zip(paths, columns, strict=True):
        if other != columns[0]:
            odd = sorted(dict.fromkeys(name for name, _ in {*other} ^ {*columns[0]}))
            what = ", ".join(odd[:5]) or "the order of the columns"
            raise errors.DatasetError(f"{path}: differs from {paths[0].name} in: {what}")
    return columns[0]


def _common_type(types: list[str]) -> str:
    if len(set(types)) == 1:
        return types[0]
    return "float" if set(types) == {"int", "float"} else "text"


def _chunk_rows(source: Source, default: int) -> int:
    estimate = sum(_estimated_rows(source, path) for path in source.paths)
    return min(default, max(MIN_CHUNK_ROWS, -(-estimate // WANTED_CHUNKS)))


def _estimated_rows(source: Source, path: Path) -> int:
    if source.format == "parquet":
        return sum(group.rows for group in parquet.read_groups(path))
    with path.open("rb") as file:
        head = file.read(csv.HEAD_BYTES)
    return _lines(head) * path.stat().st_size // max(len(head), 1)


def _lines(head: bytes) -> int:
    return max(head.count(b"\n"), head.count(b"\r"), 1)
