"""Where the records of a CSV file end: one sequential scan that respects quotes.

The rules are those of the parser that reads the chunks later (Arrow's): a quote opens only at
the start of a field, a doubled quote inside quotes is a quote, a record ends with LF, CRLF or CR,
and empty lines are no records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

BLOCK_BYTES = 1 << 21
"""A plan takes some twenty times this at its peak: masks, positions, and what is parsed."""
_LF, _CR, _QUOTE, _COMMA = b"\n"[0], b"\r"[0], b'"'[0], b","[0]
_OPENS_AFTER = np.array([_COMMA, _LF, _CR, _QUOTE], dtype=np.uint8)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Span:
    """Consecutive records: their bytes, and which rows they are."""

    start: int
    end: int
    first_row: int
    rows: int


@dataclass(frozen=True)
class Ends:
    """Where records end within a stretch of the file."""

    offsets: Array
    """Byte after each line break, ascending."""
    counts: Array
    """Records up to there that are not empty, from the start of the scan."""


class UnclosedQuote(Exception):
    """The file ends inside quotes. ``row`` is the first row, from 1, of the open record."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


def scan(
    stream: BinaryIO, start: int = 0, *, on_block: Callable[[bytes], None] | None = None
) -> Iterator[Ends]:
    """Record ends of a CSV to the end of the stream, which stands at the beginning of a record.

    ``start`` is the offset of that place. Raises UnclosedQuote if the stream ends inside quotes.
    """
    quoted, previous, offset, record, rows = False, _LF, start, start, 0
    while block := _read_block(stream):
        if on_block is not None:
            on_block(block)
        array = np.frombuffer(block, dtype=np.uint8)
        toggles = _toggles(block, array, quoted, previous)
        ends = _outside(_line_breaks(block, array), toggles, quoted) + 1
        quoted ^= bool(len(toggles) % 2)
        previous = block[-1]
        if len(ends):
            counts = rows + np.cumsum(_not_empty(array, ends, record - offset))
            yield Ends(ends + offset, counts)
            rows, record = int(counts[-1]), int(ends[-1]) + offset
        offset += len(block)
    if quoted:
        raise UnclosedQuote(rows + 1)
    if offset > record:  # the last record has no line break
        yield Ends(np.array([offset]), np.array([rows + 1]))


def scan_lines(
    stream: BinaryIO, start: int = 0, *, on_block: Callable[[bytes], None] | None = None
) -> Iterator[Ends]:
    """As :func:`scan`, of JSON lines: every line that is not empty is a record."""
    offset, record, rows = start, start, 0
    while block := _read_block(stream):
        if on_block is not None:
            on_block(block)
        array = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(array == _LF) + 1
        if len(ends):
            counts = rows + np.cumsum(_not_empty(array, ends, record - offset))
            yield Ends(ends + offset, counts)
            rows, record = int(counts[-1]), int(ends[-1]) + offset
        offset += len(block)
    if offset > record:
        yield Ends(np.array([offset]), np.array([rows + 1]))


def telling(ends: Iterator[Ends], on_end: Callable[[int], None]) -> Iterator[Ends]:
    """The same, after ``on_end`` was told the last record end of each stretch."""
    for part in ends:
        on_end(int(part.offsets[-1]))
        yield part


def cut(ends: Iterator[Ends], start: int, chunk_rows: int, chunk_bytes: int) -> Iterator[Span]:
    """Spans of at most ``chunk_rows`` records and ``chunk_bytes`` bytes, but at least one record.

    ``start`` is where the scan started.
    """
    first_row, last_end, last_count = 0, start, 0
    for part in ends:
        offsets = np.concatenate(([last_end], part.offsets))
        counts = np.concatenate(([last_count], part.counts))
        while True:
            at = _cut_at(offsets, counts, first_row, start, (chunk_rows, chunk_bytes))
            if at is None:
                break
            end, count = int(offsets[at]), int(counts[at])
            yield Span(start, end, first_row, count - first_row)
            start, first_row = end, count
        last_end, last_count = int(offsets[-1]), int(counts[-1])
    if last_count > first_row:
        yield Span(start, last_end, first_row, last_count - first_row)


def joined(bodies: Iterable[bytes]) -> bytes:
    """Records of whole files, of CSV or JSON lines, one after the other."""
    return b"".join(body + b"\n" if body[-1:] not in b"\n" else body for body in bodies)


def _cut_at(
    offsets: Array, counts: Array, first_row: int, start: int, limits: tuple[int, int]
) -> int | None:
    """Index of the record end that closes the chunk; None if it is not known yet."""
    chunk_rows, chunk_bytes = limits
    at = int(np.searchsorted(counts, first_row + chunk_rows))
    if offsets[-1] > start + chunk_bytes:
        one_record = int(np.searchsorted(counts, first_row + 1))
        fits = int(np.searchsorted(offsets, start + chunk_bytes, side="right")) - 1
        at = min(at, max(fits, one_record))
    return at if at < len(offsets) else None


def _read_block(stream: BinaryIO) -> bytes:
    """A block that does not end between two characters that belong together."""
    block = stream.read(BLOCK_BYTES)
    while block[-1:] in (b'"', b"\r"):
        more = stream.read(1)
        if not more:
            break
        block += more
    return block


def _line_breaks(block: bytes, array: Array) -> Array:
    """Position of the last byte of each line break."""
    breaks = np.flatnonzero(array == _LF)
    if b"\r" not in block:
        return breaks
    returns = np.flatnonzero(array == _CR)
    after = array[np.minimum(returns + 1, len(array) - 1)]  # the last byte may be one itself
    alone = returns[after != _LF]
    return np.sort(np.concatenate((breaks, alone))) if len(alone) else breaks


def _outside(positions: Array, toggles: Array, quoted: bool) -> Array:
    """Those positions that are not inside quotes."""
    outside: Array = positions[(np.searchsorted(toggles, positions) + quoted) % 2 == 0]
    return outside


def _toggles(block: bytes, array: Array, quoted: bool, previous: int) -> Array:
    """Positions where quotes open or close.

    Where each second quote stands where one may open, all quotes count: a doubled quote closes
    and opens again at once. Elsewhere some are plain characters, and we walk.
    """
    if b'"' not in block:
        return np.empty(0, dtype=np.int64)
    quotes = np.flatnonzero(array == _QUOTE)
    openings = quotes[int(quoted) :: 2]
    before = array[openings - 1]
    if len(openings) and openings[0] == 0:
        before[0] = previous
    if np.isin(before, _OPENS_AFTER).all():
        return quotes
    return _walk(block, quoted, previous)


def _walk(block: bytes, quoted: bool, previous: int) -> Array:
    toggles: list[int] = []
    position = 0
    while (found := block.find(b'"', position)) >= 0:
        position = found + 1
        if quoted:
            if block[position : position + 1] == b'"':
                position += 1
                continue
        elif (block[found - 1] if found else previous) not in (_COMMA, _LF, _CR):
            continue
        quoted = not quoted
        toggles.append(found)
    return np.array(toggles, dtype=np.int64)


def _not_empty(array: Array, ends: Array, first_start: int) -> Array:
    """Which records hold more than their line break. ``first_start`` may be negative."""
    starts = np.concatenate(([first_start], ends[:-1]))
    lengths = ends - starts
    crlf = (lengths == 2) & (array[ends - 1] == _LF) & (array[np.maximum(ends - 2, 0)] == _CR)
    filled: Array = ~((lengths == 1) | crlf)
    return filled
