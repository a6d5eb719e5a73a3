"""Parts: the output of one chunk, and the rows of it that failed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from celeriac.datasets import csv, jsonl, spellings
from celeriac.datasets.files import write_file
from celeriac.datasets.parquet import open_file
from celeriac.datasets.places import Place
from celeriac.datasets.planner import plan
from celeriac.datasets.reader import read_chunk
from celeriac.datasets.records import DatasetColumn, Format, RowError
from celeriac.datasets.sources import Source, open_files
from celeriac.datasets.streams import read_head

_LINES_AT_ONCE = 10_000
_HEAD_ROWS = 1_000


@dataclass(frozen=True)
class Written:
    """Size and digest of a file that was written."""

    bytes: int
    sha256: str


def write_part(path: Place, table: pa.Table, format: Format) -> Written:
    """Write a part whole; the same table always gives the same bytes. Raises StorageError."""
    data = encode_table(table, format)
    write_file(path, data)
    return written(data)


def written(data: Any) -> Written:
    """What a file with this content is."""
    return Written(len(data), hashlib.sha256(data).hexdigest())


def encode_table(table: pa.Table, format: Format) -> Any:
    """The bytes of a file that holds the table."""
    sink = pa.BufferOutputStream()
    encode_into(table, format, sink)
    return sink.getvalue()


def encode_into(table: pa.Table, format: Format, sink: Any) -> None:
    """Write the table to ``sink``, a file that is open, as it is encoded."""
    if format == "csv":
        arrow_csv.write_csv(spellings.for_csv(table), sink)
    elif format == "jsonl":
        encoder = msgspec.json.Encoder(enc_hook=str)
        for start in range(0, table.num_rows, _LINES_AT_ONCE):
            rows = spellings.rows_of(table.slice(start, _LINES_AT_ONCE))
            sink.write(encoder.encode_lines(rows))
    else:
        pq.write_table(table, sink, use_dictionary=repeating(table))


def repeating(table: pa.Table) -> list[str]:
    """The columns whose values come again and again, by their beginning: a dictionary pays there.

    To build one of values that hardly repeat, as probabilities, takes four times as long as to
    write them, and more space.
    """
    head = table.slice(0, _HEAD_ROWS)
    return [
        name for name, column in zip(head.column_names, head.columns, strict=True)
        if not _is_countable(column.type)
        or pc.count_distinct(column, mode="all").as_py() <= head.num_rows // 2
    ]


def _is_countable(dtype: pa.DataType) -> bool:
    """Of others, as nested ones, Arrow counts no distinct values: they are written as ever."""
    kinds = pa.types
    return any(
        is_kind(dtype) for is_kind in (
            kinds.is_integer, kinds.is_floating, kinds.is_decimal, kinds.is_temporal,
            kinds.is_string, kinds.is_large_string, kinds.is_binary, kinds.is_large_binary,
        )
    )


def encode_errors(rows: Iterable[tuple[str, RowError]]) -> bytes:
    """The failed rows, each with the path of its file, as JSON lines."""
    encode = msgspec.json.encode
    return b"".join(encode(_with_source(source, row)) + b"\n" for source, row in rows)


def read_parts(paths: Sequence[Place], format: Format) -> pa.Table:
    """The rows of all parts of one folder, in order.

    Parts of CSV and JSON lines get the types that suit them all.
    """
    if format == "parquet":
        tables = [_read_parquet(path) for path in paths]
        return pa.concat_tables(tables, promote_options="permissive")
    filled = [path for path in paths if has_rows(path, format)]
    if filled:
        return _read_all(open_files(filled))
    if format == "jsonl":
        return pa.table({})
    columns = open_files(paths[:1]).columns
    return pa.schema([(column.name, csv.TYPES[column.dtype]) for column in columns]).empty_table()


def _read_parquet(path: Place) -> pa.Table:
    with open_file(path) as file:
        return file.read()


def _read_all(source: Source) -> pa.Table:
    whole = plan(source)
    columns = _own_texts(whole.columns) if source.format == "csv" else whole.columns
    return pa.concat_tables(
        read_chunk(whole.format, whole.files, chunk, columns, source.names).table
        for chunk in whole.chunks
    )


def _own_texts(columns: Iterable[DatasetColumn]) -> tuple[DatasetColumn, ...]:
    """Of CSV that we wrote, what is null can be told from ""."""
    return tuple(
        DatasetColumn(name=one.name, dtype="own" if one.dtype == "text" else one.dtype)
        for one in columns
    )


def has_rows(path: Place, format: Format) -> bool:
    """True if a part of CSV or JSON lines holds a row."""
    if path.stat().st_size == 0:
        return False
    head = read_head(path)
    return bool((csv.head_rows(head, csv.read_header(head)[1]) if format == "csv" else
                 jsonl.head_rows(head))[1])


def _with_source(source: str, row: RowError) -> dict[str, Any]:
    return {
        "source": source, "row": row.row, "id": _shown_id(row.id), "code": row.code,
        "message": row.message, "data": row.data,
    }


def _shown_id(id: Any) -> Any:
    """Numbers as such, all others as texts of JSON lines."""
    return id if id is None or isinstance(id, (bool, int, float)) else spellings.as_text(id)
