"""Bytes of a file, decompressed: its head, all of it in one pass, or one range."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import pyarrow as pa

from celeriac import errors
from celeriac.datasets.places import Place, S3Path, place
from celeriac.datasets.records import COMPRESSIONS, Chunk, Compression, SourceFile

HEAD_BYTES = 1 << 22
"""How much of a file decides the types of its columns."""
LONGEST_HEAD_BYTES = 1 << 27
_REQUEST_BYTES = HEAD_BYTES + 1
"""What is asked of S3 at once, whose every answer takes a while: a head, and whether there is more.
Arrow unpacks 64 kB at a time."""


@dataclass(frozen=True)
class Head:
    """The beginning of a file."""

    path: Place
    data: bytes
    is_whole: bool
    """True if the file has no more."""


def compression_of(path: Place) -> Compression:
    """How the whole file is compressed, by its suffix."""
    return COMPRESSIONS.get(path.suffix.lower(), "")


def read_head(path: Place) -> Head:
    """The first 4 MB of a file; up to 128 MB if it takes that much to find two line ends.

    Raises DatasetError if the file is empty or cannot be read.
    """
    with open_stream(path) as stream:
        data = stream.read(HEAD_BYTES)
        while len(data) < LONGEST_HEAD_BYTES and data.count(b"\n") < 2:
            more = stream.read(HEAD_BYTES)
            if not more:
                break
            data += more
        is_whole = not stream.read(1)
    if not data:
        raise errors.DatasetError(f"{path}: the file is empty")
    return Head(path, data, is_whole)


@contextmanager
def open_stream(path: Place) -> Iterator[BinaryIO]:
    """The content from its beginning. What goes wrong with the file in the block is DatasetError.

    Raises DatasetError that names the file.
    """
    compression = compression_of(path)
    with naming(path, compression), path.open("rb") as opened:
        file = _in_large_requests(opened) if isinstance(path, S3Path) else opened
        if not compression:
            yield file
            return
        with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression) as stream:
            yield cast("BinaryIO", stream)


def _in_large_requests(file: BinaryIO) -> BinaryIO:
    return cast("BinaryIO", io.BufferedReader(cast("io.RawIOBase", file), _REQUEST_BYTES))


def read_range(file: SourceFile, chunk: Chunk) -> bytes:
    """The bytes of a chunk. Raises DatasetError that names the file."""
    path = place(file.path)
    if not file.copy and compression_of(path):  # a small file: it is read whole
        with open_stream(path) as stream:
            return stream.read()[chunk.start : chunk.end]
    with naming(path), place(file.copy or file.path).open("rb") as stream:
        stream.seek(chunk.start)
        data = stream.read(chunk.end - chunk.start)
        if not file.copy:
            return data
        return cast("bytes", pa.CompressedInputStream(pa.BufferReader(data), "zstd").read())


@contextmanager
def naming(path: Place | str, compression: str = "") -> Iterator[None]:
    """Turns what the system and Arrow raise about a file into a DatasetError that names it.

    Too little memory is no fault of the file: that passes.
    """
    try:
        yield
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise errors.DatasetError(f"{path}: no such file") from error
    except (OSError, pa.ArrowException) as error:
        why = getattr(error, "strerror", None) or str(error)
        kind = f" as {compression} (damaged, or cut short?)" if compression else ""
        raise errors.UnreadableFile(f"{path}: cannot be read{kind}: {why}") from error
