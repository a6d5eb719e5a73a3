"""Small files share chunks: which ones, and where a row of such a chunk is.

Whoever reads a chunk counts its rows on from file to file; errors are told by file and row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import PurePosixPath
from typing import NamedTuple

from msgspec.structs import replace

from celeriac.datasets.records import COMPRESSIONS, Chunk, RowError, SourceFile

SMALL_BYTES = 1 << 18
"""Of a file's content, at most: one that is larger has its own chunks, which cost less than its
rows."""
MOST_FILES = 1_000
"""Of a chunk: to open a file may take long, in S3 or on a disk of the network."""


class Cut(NamedTuple):
    """One file of a dataset, cut."""

    chunks: Sequence[Chunk]
    """Not numbered yet."""
    bytes: int
    """Of its rows."""
    is_small: bool = False
    """The file may share a chunk; then it has one chunk at most."""


def share(cuts: Iterable[Cut], most_rows: int, most_bytes: int) -> Iterator[Chunk]:
    """The chunks of all files, numbered, in order: small neighbours share one while it has no more
    than so many rows, bytes and ``MOST_FILES`` files; all others are as they were."""
    return (_numbered(number, run) for number, run in enumerate(_runs(cuts, most_rows, most_bytes)))


def _runs(cuts: Iterable[Cut], most_rows: int, most_bytes: int) -> Iterator[list[Chunk]]:
    """What becomes one chunk each."""
    run: list[Chunk] = []
    rows = size = 0
    for file, cut in enumerate(cuts):
        chunks = [replace(chunk, file=file) for chunk in cut.chunks]
        if not chunks:
            continue
        count = chunks[0].rows  # all of them, if it is small
        fits = rows + count <= most_rows and size + cut.bytes <= most_bytes
        if run and not (cut.is_small and fits and len(run) < MOST_FILES):
            yield run
            run, rows, size = [], 0, 0
        if not cut.is_small:
            yield from ([chunk] for chunk in chunks)
            continue
        run.append(chunks[0])
        rows, size = rows + count, size + cut.bytes
    if run:
        yield run


def _numbered(number: int, run: list[Chunk]) -> Chunk:
    pieces = [replace(chunk, number=number) for chunk in run]
    if len(pieces) == 1:
        return pieces[0]
    return Chunk(
        number=number, file=pieces[0].file, first_row=0, rows=sum(one.rows for one in pieces),
        pieces=tuple(pieces),
    )


def located(
    files: Sequence[SourceFile], chunk: Chunk, rows: Sequence[RowError]
) -> Iterator[tuple[str, RowError]]:
    """Rows of a chunk, in their order, each with the path of its file and its number in there."""
    if not chunk.pieces:
        yield from ((files[chunk.file].path, row) for row in rows)
        return
    pieces = iter(chunk.pieces)
    before = end = 0
    path = ""
    for row in rows:
        while row.row > end:
            piece = next(pieces)
            before, end, path = end, end + piece.rows, files[piece.file].path
        yield path, replace(row, row=row.row - before)


def named(files: Sequence[SourceFile], chunk: Chunk) -> str:
    """The file of a chunk, or the first and the last one."""
    first = files[chunk.file].path
    if not chunk.pieces:
        return first
    last = files[chunk.pieces[-1].file].path
    return f"{first} to {last.rpartition('/')[2]} ({len(chunk.pieces):,} files)"


def is_shared(chunks: Iterable[Chunk]) -> bool:
    """True if any chunk holds several files."""
    return any(chain.from_iterable(chunk.pieces for chunk in chunks))


def is_unpacked_late(files: Iterable[SourceFile]) -> bool:
    """True if the chunk of any compressed file reads it as it is, for there is no copy."""
    return any(
        not file.copy and PurePosixPath(file.path).suffix.lower() in COMPRESSIONS for file in files
    )
