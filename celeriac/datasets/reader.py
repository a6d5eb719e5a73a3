"""Read one chunk of a planned dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from msgspec.structs import replace

from celeriac import errors
from celeriac.datasets import arrow_types, csv, images, jsonl, parquet, partitions
from celeriac.datasets.ahead import in_order
from celeriac.datasets.files import changed, has_changed
from celeriac.datasets.places import is_s3, place
from celeriac.datasets.records import Chunk, DatasetColumn, RowError, SourceFile, SourceFormat
from celeriac.datasets.scan import joined
from celeriac.datasets.sharing import named
from celeriac.datasets.streams import naming, read_range


@dataclass(frozen=True)
class Rows:
    """What a chunk holds."""

    table: pa.Table
    """The readable rows, in order."""
    numbers: np.ndarray[Any, Any]
    """The number in the file (from 1) of each row of the table; in a chunk that files share, the
    number in the chunk."""
    errors: list[RowError]
    """The rows that could not be read."""


def read_chunk(  # noqa: PLR0913, PLR0917 - a chunk, and what is wanted of it
    format: SourceFormat,
    files: Sequence[SourceFile],
    chunk: Chunk,
    columns: tuple[DatasetColumn, ...],
    names: Sequence[str],
    id_column: str | None = None,
    *,
    spares: bool = False,
) -> Rows:
    """The rows of ``chunk``, of a plan with these files, with the columns ``names``.

    ``id_column``, one of ``names``, gives errors their ids. Raises DatasetError if a file is
    gone or has changed since the plan, UnreadableFile if it is damaged. ``spares``: of several
    files those that are damaged cost their own rows, which become errors, as long as one is whole.
    """
    pieces = read_pieces(
        format, files, chunk, columns, names, lambda _: _AT_ONCE, id_column, spares=spares
    )
    found = list(pieces)
    if len(found) == 1:
        return found[0]
    return Rows(
        pa.concat_tables([rows.table for rows in found]),
        np.concatenate([rows.numbers for rows in found]),
        [bad for rows in found for bad in rows.errors],
    )


_AT_ONCE = 32_768


def read_pieces(  # noqa: PLR0913, PLR0917 - as read_chunk
    format: SourceFormat,
    files: Sequence[SourceFile],
    chunk: Chunk,
    columns: tuple[DatasetColumn, ...],
    names: Sequence[str],
    rows_at_once: Callable[[int], int],
    id_column: str | None = None,
    *,
    spares: bool = False,
) -> Iterator[Rows]:
    """As :func:`read_chunk`; of Parquet only as many rows at a time as ``rows_at_once`` says of
    rows of so many bytes."""
    in_files = tuple(column for column in columns if not column.in_folders)
    in_folders = [column for column in columns if column.in_folders and column.name in names]
    outside = {column.name for column in in_folders}
    inside = [name for name in names if name not in outside]
    id_inside = None if id_column in outside else id_column
    pieces = _pieces_of_files(
        format, files, chunk, in_files, inside or [in_files[0].name], rows_at_once, id_inside,
        spares=spares,
    )
    if not in_folders:
        yield from pieces
        return

    def whole(rows: Rows) -> Rows:
        table = partitions.added(rows.table, rows.numbers, files, chunk, in_folders)
        bad = rows.errors
        if id_column in outside:
            numbers = np.array([one.row for one in bad], dtype=np.int64)
            whose = partitions.added(pa.table({"": numbers}), numbers, files, chunk, in_folders)
            ids = whose[id_column].to_pylist()
            bad = [replace(one, id=found) for one, found in zip(bad, ids, strict=True)]
        return Rows(table.select(list(names)), rows.numbers, bad)

    yield from map(whole, pieces)  # a loop would hold a piece while the next is read


def _pieces_of_files(  # noqa: PLR0913, PLR0917 - as read_chunk
    format: SourceFormat, files: Sequence[SourceFile], chunk: Chunk,
    columns: tuple[DatasetColumn, ...], wanted: list[str], rows_at_once: Callable[[int], int],
    id_column: str | None, *, spares: bool,
) -> Iterator[Rows]:
    """The rows with what the files hold of them."""
    file = files[chunk.file]
    if chunk.pieces and format == "parquet":
        yield from _parquet_files(files, chunk, columns, wanted, rows_at_once, id_column, spares)
    elif chunk.pieces:
        yield _text_files(format, files, chunk, columns, wanted, id_column, spares)
    elif format == "parquet":
        with _unchanged(file):
            pieces = parquet.read_pieces(file, chunk, wanted, rows_at_once, id_column)
            rows = partial(_of_parquet, columns, file)
            yield from starmap(rows, pieces)  # a loop would hold a piece while the next is read
    elif format == "images":
        _check_unchanged(file)
        yield Rows(*images.read_rows(file, chunk, wanted, id_column))
    else:  # nobody holds the bytes while the rows are scored
        yield Rows(*_TEXTS[format](
            file.path, _read_bytes(file, chunk), chunk, columns, wanted, id_column
        ))


def _of_parquet(
    columns: tuple[DatasetColumn, ...], file: SourceFile, table: pa.Table,
    numbers: np.ndarray[Any, Any], bad: list[RowError],
) -> Rows:
    types = {column.name: column.dtype for column in columns}
    return Rows(arrow_types.conformed(table, types, file.path), numbers, bad)


_TEXTS = {"csv": csv.read_rows, "jsonl": jsonl.read_rows}


def _read_bytes(file: SourceFile, chunk: Chunk) -> bytes:
    with _unchanged(file):
        return read_range(file, chunk)


# --- chunks of several files ---------------------------------------------------------------------


def _text_files(  # noqa: PLR0913, PLR0917 - as read_chunk
    format: SourceFormat, files: Sequence[SourceFile], chunk: Chunk,
    columns: tuple[DatasetColumn, ...], names: list[str], id_column: str | None, spares: bool,
) -> Rows:
    """Their rows are parsed together: that takes longer than so small a file."""
    good: list[tuple[Chunk, int, bytes]] = []
    bad: list[RowError] = []
    for piece, before, data in _each(_read_bytes, files, chunk, spares):
        if isinstance(data, bytes):
            good.append((piece, before, data))
        else:
            bad += _unread(piece, before, data)
    read = _TEXTS[format]
    whole = Chunk(
        number=chunk.number, file=chunk.file, first_row=0, rows=sum(one.rows for one, *_ in good)
    )
    try:
        data = joined(one for *_, one in good)
        found = [Rows(*read(named(files, chunk), data, whole, columns, names, id_column))]
        places = np.concatenate([before + np.arange(one.rows) for one, before, _ in good])
    except errors.DatasetError:  # who is it?
        found = [
            _moved(Rows(*read(files[one.file].path, data, one, columns, names, id_column)), before)
            for one, before, data in good
        ]
        places = np.arange(chunk.rows)
    return _together(found, places, bad)


def _parquet_files(  # noqa: PLR0913, PLR0917 - as read_pieces
    files: Sequence[SourceFile], chunk: Chunk, columns: tuple[DatasetColumn, ...],
    names: list[str], rows_at_once: Callable[[int], int], id_column: str | None, spares: bool,
) -> Iterator[Rows]:
    def read(file: SourceFile, piece: Chunk) -> Rows:
        with _unchanged(file):
            return _of_parquet(
                columns, file, *parquet.read_rows(file, piece, names, id_column)
            )

    waiting: list[Rows] = []
    bad: list[RowError] = []
    rows = at_once = 0
    places, schema = np.arange(chunk.rows), pa.schema([])
    for piece, before, found in _each(read, files, chunk, spares):
        if not isinstance(found, Rows):
            bad += _unread(piece, before, found)
            continue
        at_once = at_once or rows_at_once(found.table.nbytes // max(1, found.table.num_rows))
        waiting.append(_moved(found, before))
        rows, schema = rows + piece.rows, found.table.schema
        if rows >= at_once:
            yield _together(waiting, places, bad)
            waiting, bad, rows = [], [], 0
    if waiting:
        yield _together(waiting, places, bad)
    elif bad:  # behind the last that could be read
        yield Rows(schema.empty_table(), np.arange(0), bad)


Read = TypeVar("Read")


def _each(
    read: Callable[[SourceFile, Chunk], Read], files: Sequence[SourceFile], chunk: Chunk,
    spares: bool,
) -> Iterator[tuple[Chunk, int, Read | errors.UnreadableFile]]:
    """The files of a chunk, the rows before each, and what was read of it."""

    def tried(piece: Chunk) -> Read | errors.UnreadableFile:
        try:
            return read(files[piece.file], piece)
        except errors.UnreadableFile as error:
            if not spares:
                raise
            return error

    before = 0
    damaged: list[errors.UnreadableFile] = []
    found = in_order(tried, chunk.pieces, waits=is_s3(files[chunk.file].path))
    for piece, one in zip(chunk.pieces, found, strict=True):
        yield piece, before, one
        before += piece.rows
        if isinstance(one, errors.UnreadableFile):
            damaged.append(one)
    if len(damaged) == len(chunk.pieces):
        raise damaged[0]


def _unread(piece: Chunk, before: int, error: errors.UnreadableFile) -> Iterator[RowError]:
    for at in range(piece.rows):
        yield RowError(row=before + at + 1, code=error.code, message=error.message, data="")


def _moved(rows: Rows, before: int) -> Rows:
    """With ``before`` rows of the chunk before them."""
    bad = [replace(one, row=one.row + before) for one in rows.errors]
    return Rows(rows.table, rows.numbers + before, bad)


def _together(found: Sequence[Rows], places: np.ndarray[Any, Any], bad: list[RowError]) -> Rows:
    """All of them; row n is at ``places[n - 1]`` of the chunk."""
    numbers = np.concatenate([rows.numbers for rows in found])
    told = [one for rows in found for one in rows.errors]
    moved = [replace(one, row=int(places[one.row - 1]) + 1) for one in told]
    table = pa.concat_tables([rows.table for rows in found]).combine_chunks()
    return Rows(table, places[numbers - 1] + 1, [*moved, *bad])


# --- checks --------------------------------------------------------------------------------------
@contextmanager
def _unchanged(file: SourceFile) -> Iterator[None]:
    """Raises DatasetError if the file is not as it was planned, before the block or after it."""
    _check_unchanged(file)
    yield
    if not is_s3(file.path):  # there a look takes as long as a small chunk
        _check_unchanged(file)


def _check_unchanged(file: SourceFile) -> None:
    path = place(file.copy or file.path)
    with naming(path):
        try:
            if has_changed(file):
                raise changed(path)
        except FileNotFoundError as error:
            raise errors.DatasetError(
                f"{path}: no such file; the job reads it where it was submitted, so workers must "
                "see the same folder"
            ) from error
