"""Parts: the output of one chunk, and the rows of it that failed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from celeriac.datasets.csv import TYPES, read_header
from celeriac.datasets.files import replacing, sha256_of, write_file
from celeriac.datasets.planner import open_source, plan
from celeriac.datasets.reader import read_chunk
from celeriac.datasets.records import Format, RowError


@dataclass(frozen=True)
class Written:
    """Size and digest of a file that was written."""

    bytes: int
    sha256: str


def write_part(path: Path, table: pa.Table, format: Format) -> Written:
    """Write a part whole; the same table always gives the same bytes."""
    with replacing(path) as temporary:
        if format == "csv":
            arrow_csv.write_csv(table, temporary)
        else:
            pq.write_table(table, temporary)
        return Written(temporary.stat().st_size, sha256_of(temporary))


def write_errors(path: Path, source: str, rows: list[RowError]) -> Written | None:
    """Write the failed rows as JSON lines; without any, no file is left at ``path``."""
    if not rows:
        path.unlink(missing_ok=True)
        return None
    encode = msgspec.json.encode
    data = b"".join(encode(_with_source(source, row)) + b"\n" for row in rows)
    write_file(path, data)
    return Written(len(data), hashlib.sha256(data).hexdigest())


def read_parts(paths: Sequence[Path], format: Format) -> pa.Table:
    """The rows of all parts of one folder, in order. CSV parts get the types that suit them all."""
    if format == "parquet":
        tables = [pq.read_table(path) for path in paths]
        return pa.concat_tables(tables, promote_options="permissive")
    source = open_source(paths[0].parent)
    types = pa.schema([(column.name, TYPES[column.dtype]) for column in source.columns])
    if all(_has_only_header(path) for path in paths):
        return types.empty_table()
    whole = plan(source)
    return pa.concat_tables(
        read_chunk("csv", whole.files[chunk.file], chunk, whole.columns, source.names).table
        for chunk in whole.chunks
    )


def _has_only_header(path: Path) -> bool:
    _, data_start = read_header(path)
    return data_start == path.stat().st_size


def _with_source(source: str, row: RowError) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(row)
    return {"source": source, **fields}
