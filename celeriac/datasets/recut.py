"""A text that was compressed as a whole, compressed anew so that each chunk can be read alone."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from celeriac.datasets.files import unwritten
from celeriac.datasets.scan import Span

_LEVEL = 1


class Recut:
    """Writes the rows of a stream as one zstd frame for each chunk."""

    def __init__(self, target: BinaryIO, start: int) -> None:
        self._target = target
        self._codec = pa.Codec("zstd", compression_level=_LEVEL)
        self._waiting = bytearray()
        self._offset = start
        self._written = 0

    @property
    def held_bytes(self) -> int:
        """Of spans that were not taken yet."""
        return len(self._waiting)

    def feed(self, block: bytes) -> None:
        """The next bytes of the stream."""
        self._waiting += block

    def take(self, span: Span) -> Span:
        """Write the next span; where it is now. Raises StorageError."""
        size = span.end - self._offset
        frame = self._codec.compress(bytes(self._waiting[:size]), asbytes=True)
        del self._waiting[:size]
        self._offset = span.end
        try:
            self._target.write(frame)
        except OSError as error:  # else it would be told of the source
            raise unwritten(Path(self._target.name).parent, error) from error
        start, self._written = self._written, self._written + len(frame)
        return Span(start, self._written, span.first_row, span.rows)
