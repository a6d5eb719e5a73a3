"""Parts: the output of one chunk, and the rows of it that failed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from celeriac.datasets.files import replacing, sha256_of, write_file
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


def read_part(path: Path, format: Format) -> pa.Table:
    """The rows of a part."""
    return arrow_csv.read_csv(path) if format == "csv" else pq.read_table(path)


def _with_source(source: str, row: RowError) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(row)
    return {"source": source, **fields}
