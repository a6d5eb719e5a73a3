"""From a dataset to a plan of chunks: each row is in exactly one of them, in order.

The parsers of text are loaded where a dataset is one: 4 MB that Parquet and images can do without.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace

from celeriac import errors
from celeriac.datasets import images, parquet, partitions
from celeriac.datasets.copies import Copies, Copy
from celeriac.datasets.guesses import Guesses, Watch
from celeriac.datasets.places import Listed, place
from celeriac.datasets.records import Chunk, DatasetColumn, DatasetPlan, SourceFile
from celeriac.datasets.recut import Recut
from celeriac.datasets.scan import Span
from celeriac.datasets.sharing import Cut, share
from celeriac.datasets.sources import Found, Source, check_state, etag_of, in_plan
from celeriac.datasets.streams import Head, compression_of, open_stream, read_head

WANTED_CHUNKS = 10
"""A dataset smaller than this many default chunks is cut into about as many, for parallel work."""
MIN_CHUNK_ROWS = 1_000
MIN_CHUNK_IMAGES = 32
MAX_CHUNK_BYTES = 1 << 30
"""Arrow's parsers take blocks below 2 GB."""
CHECKED_ROWS = (20, 1_000)
"""So many first rows, at least and at most, are read at once, to see that they fit the model."""
_FRAME_GROUP_ROWS = 50_000
_EXACT = 1 << 53
"""Up to here each whole number is a float, too."""


@dataclass(frozen=True)
class _Options:
    """How one dataset is cut."""

    chunk_rows: int
    chunk_bytes: int
    copies: Copies | None
    on_bytes: Callable[[int], None]

    def need_copies(self, what: str) -> Copies:
        if self.copies is None:
            raise errors.DatasetError(f"{what}: needs a folder for a copy of what chunks read")
        return self.copies


def plan(  # noqa: PLR0913 - one source and its options
    source: Source,
    *,
    chunk_rows: int | None = None,
    default_chunk_rows: int = 100_000,
    wanted_chunks: int = WANTED_CHUNKS,
    chunk_bytes: int = 64_000_000,
    dtypes: Mapping[str, str] | None = None,
    nullable: Collection[str] = (),
    numbers: Collection[str] = (),
    reads: Collection[str] | None = None,
    copies: Copies | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> DatasetPlan:
    """Cut a dataset into chunks. One pass over CSV and JSON lines; memory does not grow.

    Without ``chunk_rows``, a chunk has ``default_chunk_rows``; fewer, where that makes less than
    ``wanted_chunks``. ``dtypes`` fixes types of columns of CSV and JSON lines (``int``, ``float``,
    ``bool``, ``text``); those of other columns are guessed from the head of each file, and a guess
    that the file does not bear out gives way: of ``numbers`` only ``int`` does, to ``float``.
    ``nullable``: texts of which an empty one in CSV is null.
    ``reads``: columns that are wanted at all (default: all). ``copies`` takes what chunks are read
    from where the source has no place to cut: a compressed file, a frame, the listing of a folder
    of images. ``on_progress`` is told the bytes that each step has read.
    Raises DatasetError if a file cannot be read, the dataset has no row, or no row of its
    beginning has the types.
    """
    options = _Options(
        chunk_rows or _chunk_rows(source, default_chunk_rows, wanted_chunks),
        min(chunk_bytes, MAX_CHUNK_BYTES), copies, on_progress or (lambda _: None),
    )
    in_folders = _typed(source.in_folders, dtypes or {})
    source = source.in_files
    columns = _with_types(source, dtypes or {})
    _check_exact(source, reads)
    if source.frame is not None:
        files, chunks = _plan_frame(source.frame, options)
    elif source.format == "images":
        files, chunks = _plan_images(source, options)
    else:
        fixed = {one.name for one in columns if one.name in numbers and one.dtype != "int"}
        guessed = {*source.names}.difference(fixed, dtypes or ())
        guesses = _guesses(source, columns, guessed, reads)
        files, chunks = _plan_files(source, columns, guesses, options)
        types = {
            name: "float" if name in numbers and kind not in ("int", "long") else in_plan(kind)
            for name, kind in guesses.types.items()
        }
        columns = _typed(columns, types)
    if not chunks:
        raise errors.DatasetError(f"{source.files[0].at.path}: the dataset has columns but no rows")
    partitions.check(files, in_folders)
    if source.format == "csv":
        columns = tuple(replace(one, empty_is_null=one.name in nullable) for one in columns)
    return DatasetPlan(
        format=source.format, files=tuple(files), columns=columns + in_folders,
        chunks=tuple(chunks),
    )


def _plan_files(
    source: Source, columns: tuple[DatasetColumn, ...], guesses: Guesses, options: _Options
) -> tuple[list[SourceFile], list[Chunk]]:
    files: list[SourceFile] = []

    def cuts() -> Iterator[Cut]:
        for found in source.files:
            file, cut = _plan_file(source, found, columns, guesses, options)
            files.append(file)
            yield cut

    chunks = list(share(cuts(), options.chunk_rows, options.chunk_bytes))
    return files, chunks


def _plan_file(
    source: Source, found: Found, columns: tuple[DatasetColumn, ...], guesses: Guesses,
    options: _Options,
) -> tuple[SourceFile, Cut]:
    if source.format == "parquet":
        return _plan_parquet(found, options)
    if not (_is_fitting(found, options) and _may_be_read(source, columns)):
        check_state(found.at)
        _check_beginning(source, found, columns)
    if _is_fitting(found, options):
        return _plan_whole(found, options)
    planned = _plan_text(source, found, guesses, options)
    check_state(found.at)
    return planned


def _is_fitting(found: Found, options: _Options) -> bool:
    """True of a small file that needs no place to cut."""
    whole = found.whole
    if whole is None:
        return False
    span = whole.span or Span(0, 0, 0, 0)
    return span.rows <= options.chunk_rows and span.end - span.start <= options.chunk_bytes


def _plan_whole(found: Found, options: _Options) -> tuple[SourceFile, Cut]:
    """CSV and JSON lines of which all is known. A compressed file is read as it is."""
    assert found.whole is not None  # noqa: S101 - see _is_fitting
    options.on_bytes(found.at.size)
    sha256, etag, span = found.whole
    if span is None:
        return _file(found.at, 0, sha256, etag), Cut([], 0, is_small=True)
    file = _file(found.at, span.rows, sha256, etag)
    return file, Cut([_of_bytes(span)], span.end - span.start, is_small=True)


def _plan_parquet(found: Found, options: _Options) -> tuple[SourceFile, Cut]:
    footer, whole = found.footer, found.whole
    assert footer is not None  # noqa: S101 - every Parquet file has one
    if whole is None:
        check_state(found.at)
    spans = parquet.cut_groups(footer.groups, options.chunk_rows, options.chunk_bytes)
    chunks = [_of_groups(span) for span in spans]
    options.on_bytes(found.at.size)
    etag = etag_of(found.at) if whole is None else whole.etag
    size = sum(group.bytes for group in footer.groups)
    cut = Cut(chunks, size, is_small=whole is not None and len(chunks) <= 1)
    return _file(found.at, found.rows, footer.digest, etag), cut


def _plan_text(
    source: Source, found: Found, guesses: Guesses, options: _Options
) -> tuple[SourceFile, Cut]:
    """CSV and JSON lines; a compressed file is cut anew on the way."""
    path, compression = found.at.path, compression_of(found.at.path)
    digest, copy, recut = hashlib.sha256(), Copy.nowhere(), None
    with ExitStack() as stack:
        if compression:
            copies = options.need_copies(str(path))
            copy = stack.enter_context(copies.making(f".{source.format}.zst"))
            recut = Recut(stack.enter_context(copy.temporary.open("wb")), found.data_start)

        def seen(block: bytes) -> None:
            digest.update(block)
            watch.feed(block)
            if recut:
                recut.feed(block)
                _check_held(found.at, recut.held_bytes, options)
            else:
                options.on_bytes(len(block))

        stream = stack.enter_context(open_stream(path))
        digest.update(stream.read(found.data_start))
        watch = stack.enter_context(guesses.watching(found.data_start))
        chunks = []
        for span in _spans(source, found, stream, options, seen, watch):
            _check_length(found.at, span)
            where = recut.take(span) if recut else span
            chunks.append(_of_bytes(where))
    if compression:
        options.on_bytes(found.at.size)
    rows = sum(chunk.rows for chunk in chunks)
    file = _file(found.at, rows, digest.hexdigest(), etag_of(found.at), copy.path)
    return file, Cut(chunks, found.at.size)


def _spans(  # noqa: PLR0913, PLR0917 - a file, how it is cut, and who looks on
    source: Source, found: Found, stream: BinaryIO, options: _Options,
    seen: Callable[[bytes], None], watch: Watch,
) -> Iterator[Span]:
    from celeriac.datasets import csv, jsonl

    limits = (options.chunk_rows, options.chunk_bytes)
    if source.format == "csv":
        return csv.find_rows(stream, found.at.path, found.data_start, limits, seen, watch.ended)
    return jsonl.find_rows(stream, found.data_start, limits, seen, watch.ended)


def _plan_frame(frame: pa.Table, options: _Options) -> tuple[list[SourceFile], list[Chunk]]:
    with options.need_copies("a frame").making(".parquet") as copy:
        try:
            pq.write_table(
                frame, copy.temporary, row_group_size=min(_FRAME_GROUP_ROWS, options.chunk_rows)
            )
        except (pa.ArrowException, OSError):
            _check_storable(frame)
            raise
    footer = parquet.read_footer(Listed(str(copy.place), copy.size, 0))
    spans = parquet.cut_groups(footer.groups, options.chunk_rows, options.chunk_bytes)
    cut = Cut([_of_groups(span) for span in spans], copy.size)
    chunks = [*share([cut], options.chunk_rows, options.chunk_bytes)]
    file = SourceFile(
        path="frame", size=copy.size, mtime_ns=0, sha256=copy.sha256, rows=frame.num_rows,
        copy=copy.path,
    )
    return [file], chunks


def _plan_images(source: Source, options: _Options) -> tuple[list[SourceFile], list[Chunk]]:
    listing = [found.at for found in source.files]
    ends = [str(at.path.parent) for at in (listing[0], listing[-1])]  # they are sorted
    folder = str(place(os.path.commonpath(ends)))
    with options.need_copies(folder).making(".parquet") as copy:
        images.write_listing(copy.temporary, listing)
    cut = images.cut_listing(listing, options.chunk_rows, options.chunk_bytes)
    chunks = [images.chunk_of(number, *slice_) for number, slice_ in enumerate(cut)]
    options.on_bytes(source.bytes)
    file = SourceFile(
        path=folder, size=source.bytes, mtime_ns=0, sha256=copy.sha256, rows=len(listing),
        copy=copy.path,
    )
    return [file], chunks


# --- checks --------------------------------------------------------------------------------------


def _check_exact(source: Source, reads: Collection[str] | None) -> None:
    """Raises DatasetError for whole numbers of a Parquet file that the fractions of others would
    round, as far as its statistics tell."""
    for found in source.files if source.format == "parquet" else ():
        assert found.footer is not None  # noqa: S101 - every Parquet file has one
        whole = [
            column.name
            for column, (_, own) in zip(source.columns, found.footer.columns, strict=True)
            if column.dtype == "double" and own in ("int64", "uint64")
            and (reads is None or column.name in reads)
        ]
        for name, number in parquet.largest(found.at, whole).items() if whole else ():
            if number > _EXACT:
                raise errors.DatasetError(
                    f"{found.at.path}: column {name!r} holds whole numbers beyond 2^53, and is of "
                    "type double in other files, which would round them; write it with one type, "
                    "or, if the model does not read it, keep other columns"
                )


def _check_storable(frame: pa.Table) -> None:
    """Raises DatasetError for a column that Parquet cannot hold."""
    for name in frame.column_names:
        try:
            pq.write_table(frame.select([name]), pa.MockOutputStream())
        except (pa.ArrowException, OSError) as error:
            raise errors.DatasetError(
                f"column {name!r} of the frame, of type {frame.schema.field(name).type}, has no "
                f"place in Parquet; leave it out, or make texts of it: {errors.told(error)}"
            ) from error


def _check_length(at: Listed, span: Span) -> None:
    if span.rows == 1 and span.end - span.start > MAX_CHUNK_BYTES:
        raise errors.DatasetError(
            f"{at.path}: row {span.first_row + 1} is longer than {MAX_CHUNK_BYTES:,} bytes"
        )


def _check_held(at: Listed, held_bytes: int, options: _Options) -> None:
    """A row that never ends, as in a file of zeros that was compressed, would fill the memory."""
    if held_bytes > options.chunk_bytes + MAX_CHUNK_BYTES:
        raise errors.DatasetError(f"{at.path}: a row is longer than {MAX_CHUNK_BYTES:,} bytes")


def _may_be_read(source: Source, columns: tuple[DatasetColumn, ...]) -> bool:
    """True if the types that values were found to have are those of the plan, or become them."""
    becomes = {("int", "float")}
    if source.format == "csv":
        from celeriac.datasets import csv

        becomes |= {(kind, text) for kind in csv.TYPES for text in ("text", "own")}
    pairs = [(old.dtype, new.dtype) for old, new in zip(source.columns, columns, strict=True)]
    return all(old == new or (old, new) in becomes for old, new in pairs)


def _check_beginning(source: Source, found: Found, columns: tuple[DatasetColumn, ...]) -> None:
    """Raises DatasetError if no single row of the file's beginning can be read as planned."""
    from celeriac.datasets import csv, jsonl

    head = read_head(found.at.path)
    data, rows = _first_rows(source, found, head)
    if rows < CHECKED_ROWS[0]:
        return
    chunk = Chunk(number=0, file=0, first_row=0, rows=rows)
    read_rows = csv.read_rows if source.format == "csv" else jsonl.read_rows
    table, _, bad = read_rows(str(head.path), data, chunk, columns, source.names)
    if not table.num_rows:
        raise errors.DatasetError(
            f"{head.path}: none of the first {rows:,} rows can be used; "
            f"row {bad[0].row}: {bad[0].message}"
        )


def _first_rows(source: Source, found: Found, head: Head) -> tuple[bytes, int]:
    from celeriac.datasets import csv, jsonl

    if source.format == "csv":
        return csv.head_rows(head, found.data_start, CHECKED_ROWS[1])
    return jsonl.head_rows(head, CHECKED_ROWS[1])


# --- records -------------------------------------------------------------------------------------


def _file(at: Listed, rows: int, digest: str, etag: str, copy: str = "") -> SourceFile:
    return SourceFile(
        path=at.name, size=at.size, mtime_ns=at.mtime_ns, sha256=digest, rows=rows, etag=etag,
        copy=copy,
    )


def _of_bytes(span: Span) -> Chunk:
    return Chunk(
        number=0, file=0, first_row=span.first_row, rows=span.rows, start=span.start, end=span.end
    )


def _of_groups(span: parquet.GroupSpan) -> Chunk:
    return Chunk(
        number=0, file=0, first_row=span.first_row, rows=span.rows, group=span.group,
        groups=span.groups, skip=span.skip,
    )


def _with_types(source: Source, dtypes: Mapping[str, str]) -> tuple[DatasetColumn, ...]:
    if source.format not in ("csv", "jsonl"):
        return source.columns
    return _typed(source.columns, dtypes)


def _typed(
    columns: tuple[DatasetColumn, ...], types: Mapping[str, str]
) -> tuple[DatasetColumn, ...]:
    return tuple(
        replace(column, dtype=types.get(column.name, column.dtype))
        for column in columns
    )


def _guesses(
    source: Source, columns: tuple[DatasetColumn, ...], guessed: Collection[str],
    reads: Collection[str] | None,
) -> Guesses:
    """The types that the rest of the files may refute."""
    names = guessed if reads is None else {*guessed}.intersection(reads)
    types = {column.name: column.dtype for column in columns if column.name in names}
    if source.format == "parquet":
        return Guesses({}, lambda _, guesses: guesses, "")  # it says what it is
    from celeriac.datasets import csv, jsonl

    if source.format == "csv":
        path = source.files[0].at.path
        return Guesses(types, partial(csv.look, path, source.names), "text")
    long = {name: "long" for name in types if name in source.long}
    return Guesses({**types, **long}, jsonl.look, "json")


def _chunk_rows(source: Source, default: int, wanted: int) -> int:
    rows = source.frame.num_rows if source.frame is not None else source.rows
    least = MIN_CHUNK_IMAGES if source.format == "images" else MIN_CHUNK_ROWS
    return min(default, max(least, -(-rows // wanted)))
