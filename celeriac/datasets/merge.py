"""All parts of a job in one file: streamed, in order, whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from celeriac import errors
from celeriac.datasets import csv
from celeriac.datasets.files import replacing, sha256_of
from celeriac.datasets.parquet import open_file
from celeriac.datasets.parts import Written, has_rows
from celeriac.datasets.places import Place
from celeriac.datasets.planner import plan
from celeriac.datasets.reader import read_chunk
from celeriac.datasets.records import Format
from celeriac.datasets.sharing import located
from celeriac.datasets.sources import open_files
from celeriac.datasets.streams import read_head

GROUP_ROWS = 50_000
GROUP_BYTES = 16_000_000
"""Of a merged Parquet file's row groups, at least, where there are so many."""


def merge_parts(parts: Sequence[Place], target: Place, format: Format) -> Written:
    """Write the rows of all parts to one file; memory holds a row group and 16 MB at most.

    Row groups of few rows are put together: readers pay for each.

    The same parts always give the same bytes. Raises StorageError if ``target`` cannot be written.
    """
    with replacing(target) as temporary:
        if format == "parquet":
            _merge_parquet(parts, temporary)
        else:
            with temporary.open("wb") as file:
                _merge_lines(parts, file, has_headers=format == "csv")
        return Written(temporary.stat().st_size, sha256_of(temporary))


def read_tables(
    parts: Sequence[Place], format: Format, columns: Sequence[str], dtypes: Mapping[str, str]
) -> Iterator[pa.Table]:
    """Some columns of all parts, a bounded piece at a time; ``dtypes`` as of a plan, but that a
    column of ``float`` that holds true and false, or texts, is left as it is.

    Raises DatasetError if a value does not have its type.
    """
    if format == "parquet":
        schema = read_schema(parts)
        wanted = pa.schema([schema.field(name) for name in columns])
        for part in parts:
            for table in row_groups(part, columns):
                yield table.select(list(columns)).cast(wanted)
        return
    filled = [part for part in parts if has_rows(part, format)]
    if not filled:
        yield pa.table({name: pa.nulls(0, pa.string()) for name in columns})
        return
    source = open_files(filled)
    others = {one.name for one in source.columns if one.dtype not in ("int", "float")}
    fixed = {
        name: dtype for name, dtype in dtypes.items() if dtype != "float" or name not in others
    }
    whole = plan(source, dtypes=fixed, reads=columns)
    for chunk in whole.chunks:
        rows = read_chunk(whole.format, whole.files, chunk, whole.columns, columns)
        for path, bad in located(whole.files, chunk, rows.errors[:1]):
            raise errors.DatasetError(f"{path}: row {bad.row}: {bad.message}")
        yield rows.table


def read_schema(parts: Sequence[Place]) -> pa.Schema:
    """One schema for the Parquet parts of a job."""
    schemas = []
    for part in parts:
        with open_file(part) as file:
            schemas.append(file.schema_arrow)
    return pa.unify_schemas(schemas, promote_options="permissive").remove_metadata()


def row_groups(part: Place, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of one Parquet part, a group at a time."""
    with open_file(part) as file:
        names = list(columns) if columns is not None else None
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=names, use_threads=False)


def _merge_parquet(parts: Sequence[Place], target: Path) -> None:
    schema = read_schema(parts)
    tables = (table.cast(schema) for part in parts for table in row_groups(part))
    with pq.ParquetWriter(target, schema) as writer:
        for table in _gathered(tables):
            writer.write_table(table)


def _gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of enough rows or bytes for a row group; the last may have fewer."""
    held: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        held.append(table)
        rows, size = rows + table.num_rows, size + table.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield pa.concat_tables(held)
            held, rows, size = [], 0, 0
    if held:
        yield pa.concat_tables(held)


def _merge_lines(parts: Sequence[Place], target: BinaryIO, *, has_headers: bool) -> None:
    for number, part in enumerate(parts):
        with part.open("rb") as file:
            if has_headers and number:
                file.seek(csv.read_header(read_head(part))[1])
            shutil.copyfileobj(file, target, 1 << 22)
