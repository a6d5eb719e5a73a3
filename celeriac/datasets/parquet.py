"""Parquet: its columns, its chunks (row groups, or rows of a large group), and their rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from celeriac import errors
from celeriac.datasets.pandas_periods import frequency_of, periods_as_text
from celeriac.datasets.places import Listed, Place, S3Path, place
from celeriac.datasets.records import Chunk, RowError, SourceFile, clip

_NOT_IN_CSV = (
    "list", "large_list", "fixed_size_list", "struct", "map", "union", "month_day_nano_interval",
)
_WHOLE = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
"""CSV and kernels lack views."""


@dataclass(frozen=True)
class Group:
    """Size of one row group."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class GroupSpan:
    """Consecutive rows: where they are in the row groups, and which rows they are."""

    group: int
    groups: int
    skip: int
    first_row: int
    rows: int


@dataclass(frozen=True)
class Footer:
    """What the end of a Parquet file says of the rest."""

    columns: list[tuple[str, str]]
    """Names and Arrow types."""
    groups: list[Group]
    digest: str


def read_footer(at: Listed) -> Footer:
    """Columns and row groups of a file.

    Raises DatasetError if the file is not whole, or names a column twice.
    """
    if at.size == 0:
        raise errors.DatasetError(f"{at.path}: the file is empty")
    with _open(at.path) as file:
        columns = columns_of(file.schema_arrow, at.path)
        found = (file.metadata.row_group(number) for number in range(file.num_row_groups))
        groups = [Group(group.num_rows, group.total_byte_size) for group in found]
    return Footer(columns, groups, _digest(at))


def columns_of(schema: pa.Schema, where: Place | str) -> list[tuple[str, str]]:
    """Names and types of the columns. Raises DatasetError if a name comes twice."""
    names = schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise errors.DatasetError(f"{where}: names a column twice: {', '.join(twice)}")
    return [
        (field.name, "string" if frequency_of(field) else str(_plain(field.type)))
        for field in schema
    ]


def largest(at: Listed, names: Collection[str]) -> dict[str, int]:
    """The largest amount of some columns of whole numbers, of those that have statistics."""
    found: dict[str, int] = {}
    with _open(at.path) as file:
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            for column in map(group.column, range(group.num_columns)):
                name, about = column.path_in_schema, column.statistics
                if name in names and about is not None and about.has_min_max:
                    found[name] = max(found.get(name, 0), -about.min, about.max)
    return found


def cut_groups(groups: list[Group], chunk_rows: int, chunk_bytes: int) -> Iterator[GroupSpan]:
    """Small groups together, large groups cut by rows. Empty groups are in no span."""
    first_row = 0
    start, count, rows, size = 0, 0, 0, 0
    for number, group in enumerate(groups):
        full = rows and (rows + group.rows > chunk_rows or size + group.bytes > chunk_bytes)
        if full:
            yield GroupSpan(start, count, 0, first_row, rows)
            first_row += rows
            rows = size = 0
        if rows == 0:
            start, count = number, 0
        piece = _piece_rows(group, chunk_rows, chunk_bytes)
        if piece < group.rows:
            for skip in range(0, group.rows, piece):
                part = min(piece, group.rows - skip)
                yield GroupSpan(number, 1, skip, first_row + skip, part)
            first_row += group.rows
            continue
        count, rows, size = number - start + 1, rows + group.rows, size + group.bytes
    if rows:
        yield GroupSpan(start, count, 0, first_row, rows)


Piece = tuple[pa.Table, np.ndarray[Any, Any], list[RowError]]
"""Readable rows, their numbers (from 1), and the errors of the others."""


def read_rows(
    file: SourceFile, chunk: Chunk, names: list[str], id_column: str | None = None
) -> Piece:
    """As :func:`read_pieces`, all in one."""
    tables, numbers, found = zip(
        *read_pieces(file, chunk, names, lambda _: _AT_ONCE, id_column), strict=True
    )
    return pa.concat_tables(tables), np.concatenate(numbers), list(chain.from_iterable(found))


_AT_ONCE = 32_768


def read_pieces(
    file: SourceFile, chunk: Chunk, names: list[str], rows_at_once: Callable[[int], int],
    id_column: str | None = None,
) -> Iterator[Piece]:
    """The rows of a chunk with the columns ``names``, as many at a time as ``rows_at_once`` says of
    rows of so many bytes. What is behind is not held, and what is ahead not read.

    ``id_column``, one of ``names``, gives errors their ids. Raises UnreadableFile if the file is
    damaged, DatasetError if it has changed.
    """
    path = place(file.copy or file.path)
    skip, found = chunk.skip, 0
    waiting: list[pa.Table] = []
    known = _metadata.get((file.path, file.sha256))
    if known is None:
        _metadata.clear()  # before those of this file are read
    with _open(path, known) as source:
        _remember(file, source.metadata)
        at_once = rows_at_once(_row_bytes(source, chunk.group, names))
        groups = range(chunk.group, chunk.group + chunk.groups)
        for table in _tables(path, source, groups, names, at_once):
            dropped = min(skip, table.num_rows)
            skip -= dropped
            if dropped == table.num_rows:
                continue  # even a slice of no rows would hold all of them
            waiting.append(table.slice(dropped, chunk.rows - found))
            del table  # or it is held while the next is read
            found += waiting[-1].num_rows
            rows = sum(one.num_rows for one in waiting)
            if rows and (rows >= at_once or found == chunk.rows):
                first = chunk.first_row + found - rows + 1
                yield _readable(pa.concat_tables(waiting), first, id_column)
                waiting.clear()
            if found == chunk.rows:
                return
    raise errors.DatasetError(
        f"{path}: chunk {chunk.number} holds {found} rows, the plan says {chunk.rows}; the file "
        "has changed: submit it again"
    )


def _tables(
    path: Place, source: pq.ParquetFile, groups: Iterable[int], names: list[str], at_once: int
) -> Iterator[pa.Table]:
    """As many row groups together as make ``at_once`` rows; a large one in batches."""
    for some in _gathered(source, groups, at_once):
        if len(some) > 1 or source.metadata.row_group(some[0]).num_rows <= 2 * at_once:
            yield _columns_in_turn(path, source, some, names)
            continue
        with _open(path, source.metadata, buffer_bytes=_BUFFER_BYTES) as streamed:
            for batch in streamed.iter_batches(at_once, some, names, use_threads=False):
                yield pa.table(_all_decoded(pa.Table.from_batches([batch]), names))
                del batch


_TURNS = 8
_BUFFER_BYTES = 65_536
"""Of each column of a large row group: without a buffer, all of the group is read before its first
row."""


def _columns_in_turn(
    path: Place, source: pq.ParquetFile, groups: list[int], names: list[str]
) -> pa.Table:
    """Some columns after the others: Arrow holds all that it reads in one call as it is in the
    file, decompressed and decoded. Of S3 all at once, or each turn would wait for it."""
    count = len(names) if isinstance(path, S3Path) else max(_TURNS, -(-len(names) // _TURNS))
    found: dict[str, Any] = {}
    for start in range(0, len(names), count):
        some = names[start : start + count]
        table = source.read_row_groups(groups, some, use_threads=False)
        found |= _all_decoded(table, some)
    return pa.table(found)


def _gathered(
    source: pq.ParquetFile, groups: Iterable[int], at_once: int
) -> Iterator[list[int]]:
    """Row groups that are read at once: a call for each takes a quarter longer."""
    some: list[int] = []
    rows = 0
    for group in groups:
        count = source.metadata.row_group(group).num_rows
        if some and (rows >= at_once or count > 2 * at_once):
            yield some
            some, rows = [], 0
        some.append(group)
        rows += count
    if some:
        yield some


def _readable(table: pa.Table, first: int, id_column: str | None) -> Piece:
    """``first``: number of the first row."""
    bad = _undecodable(table)
    found = [_row_error(table, at, message, first, id_column) for at, message in bad.items()]
    found.sort(key=lambda one: one.row)
    kept = np.delete(np.arange(table.num_rows), list(bad))
    return table.take(pa.array(kept)) if bad else table, kept + first, found


def _row_bytes(source: pq.ParquetFile, group: int, names: list[str]) -> int:
    """Of one row in memory, about: what has no fixed width is as wide as all of the row's file."""
    size = 0
    varies = False
    schema = source.schema_arrow
    for name in names:
        try:
            size += _plain(schema.field(name).type).bit_width // 8
        except ValueError:
            varies = True
    if varies:
        about = source.metadata.row_group(group)
        size += about.total_byte_size // max(about.num_rows, 1)
    return max(size, 1)


_metadata: dict[tuple[str, str], Any] = {}
"""Of the file that this process has read last: to read them takes as long as many a chunk."""
_MAX_METADATA_BYTES = 16_000_000


def _remember(file: SourceFile, metadata: Any) -> None:
    key = (file.path, file.sha256)
    if key not in _metadata and metadata.serialized_size <= _MAX_METADATA_BYTES:
        _metadata.clear()
        _metadata[key] = metadata


def forget() -> None:
    """Let go of what is known of the file that was read last."""
    _metadata.clear()


def _undecodable(table: pa.Table) -> dict[int, str]:
    """Rows with texts that are not UTF-8, which Parquet does not rule out."""
    bad: dict[int, str] = {}
    for name in table.column_names:
        column = table[name]
        if not (_is_text(column.type) or pa.types.is_nested(column.type)):
            continue
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            for row, value in enumerate(column):
                try:
                    value.as_py()
                except UnicodeDecodeError as error:
                    bad[row] = f"column {name!r} is not valid UTF-8 ({error.reason})"
    return bad


def _is_text(dtype: Any) -> bool:
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype))


def _row_error(
    table: pa.Table, at: int, message: str, first: int, id_column: str | None
) -> RowError:
    from celeriac.datasets import spellings  # a plan does without

    row = {name: _legible(table[name].slice(at, 1)) for name in table.column_names}
    return RowError(
        row=first + at, id=row[id_column] if id_column else None, code=errors.DatasetError.code,
        message=message, data=clip(json.dumps(row, ensure_ascii=False, default=spellings.as_text)),
    )


def _legible(cell: pa.ChunkedArray) -> Any:
    """The one value; a text that is not UTF-8 with its odd bytes spelled out."""
    from celeriac.datasets import spellings

    if _is_text(cell.type):
        value = cell.cast(pa.large_binary())[0].as_py()
        return None if value is None else value.decode("utf-8", "backslashreplace")
    try:
        return spellings.values_of(cell)[0]
    except UnicodeDecodeError:  # somewhere in a list or a struct
        return "(not valid UTF-8)"


def is_nested(dtype: str) -> bool:
    """True for a column type that has no place in a CSV file."""
    return dtype.startswith(_NOT_IN_CSV)


def _piece_rows(group: Group, chunk_rows: int, chunk_bytes: int) -> int:
    """Rows of one piece of a group. Each piece decodes the whole group, so halves are not worth
    it: a group is cut when it is more than twice too large."""
    by_bytes = max(1, chunk_bytes * group.rows // max(group.bytes, 1))
    piece = min(chunk_rows, by_bytes)
    return piece if group.rows > 2 * piece else max(group.rows, 1)


def _plain(dtype: Any) -> Any:
    """The type of the values themselves: a process may know an extension type or not."""
    if isinstance(dtype, pa.BaseExtensionType):
        return _plain(dtype.storage_type)
    if pa.types.is_dictionary(dtype):
        return _plain(dtype.value_type)
    return _WHOLE.get(dtype, dtype)


def _all_decoded(table: pa.Table, names: list[str]) -> dict[str, Any]:
    return {name: _decoded(table[name], table.schema.field(name)) for name in names}


def _decoded(column: pa.ChunkedArray, field: pa.Field) -> pa.Array | pa.ChunkedArray:
    if frequency := frequency_of(field):
        return periods_as_text(column, frequency)
    plain = _plain(column.type)
    if plain == column.type:
        return column
    if isinstance(column.type, pa.BaseExtensionType):
        chunks = [chunk.storage for chunk in column.chunks]
        column = pa.chunked_array(chunks, column.type.storage_type)
    return column.cast(plain).combine_chunks()


def _digest(at: Listed) -> str:
    """Of the footer, and of when the file was written: a footer need not tell two files apart."""
    with at.path.open("rb") as file:
        file.seek(at.size - 8)
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, at.size - 8 - length))
        footer = file.read(length)
    return hashlib.sha256(footer + str(at.mtime_ns).encode()).hexdigest()


@contextmanager
def open_file(path: Place, **options: Any) -> Iterator[pq.ParquetFile]:
    """A file that Arrow itself has opened, never one of Python: a thread that still holds such a
    one as the interpreter ends aborts the process. Fetching ahead is for S3: of a disk it would
    hold whole row groups, and cost CPU.

    ``options``: of ParquetFile. Raises OSError, and pyarrow.ArrowException for a damaged file.
    """
    if isinstance(path, S3Path):
        with path.open() as stream, pq.ParquetFile(stream, pre_buffer=True, **options) as file:
            yield file
    else:
        with pq.ParquetFile(path, pre_buffer=False, **options) as file:
            yield file


@contextmanager
def _open(
    path: Place, metadata: Any = None, *, buffer_bytes: int = 0
) -> Iterator[pq.ParquetFile]:
    """Of S3 large buffers are better than many requests, too. Times of Spark are by the
    microsecond: as nanoseconds, which Arrow has them in by default, 9999-12-31 would be a day of
    1816."""
    size = 0 if isinstance(path, S3Path) else buffer_bytes
    options = {"metadata": metadata, "buffer_size": size, "coerce_int96_timestamp_unit": "us"}
    try:
        with open_file(path, **options) as file:
            yield file
    except MemoryError:  # no fault of the file
        raise
    except (pa.ArrowException, OSError) as error:
        raise errors.UnreadableFile(
            f"{path}: cannot be read as Parquet (damaged, or cut short?): {error}"
        ) from error
