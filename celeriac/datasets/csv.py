"""CSV with a header and commas: its columns, its chunks, and the rows of one chunk.

A row that cannot be read (wrong number of fields, not UTF-8, a value that does not fit its
column's type) becomes a RowError; the rows around it are read.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from operator import itemgetter
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from celeriac import errors
from celeriac.datasets import kinds
from celeriac.datasets.places import Place
from celeriac.datasets.records import Chunk, DatasetColumn, RowError, clip
from celeriac.datasets.scan import Ends, Span, UnclosedQuote, cut, scan, telling
from celeriac.datasets.streams import Head

HEAD_ROWS = 1 << 30

TYPES = {
    "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "text": pa.string(),
    "own": pa.string(),
}
"""``own``: texts that we wrote, of which those without quotes around nothing are null."""
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}
_BOM = b"\xef\xbb\xbf"
_HEXADECIMAL = r"^\s*[+-]?0[xX].*"
_SCIENTIFIC = r"^-?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]{1,2}$"
_EXACT = 1e15
"""Numbers below have digits to spare."""
_FIRST_LOOK_BYTES = 1 << 14


def read_header(head: Head) -> tuple[list[str], int]:
    """Names of the columns, and the byte at which the data starts.

    Raises DatasetError if there is no usable header.
    """
    path = head.path
    line, data_start = _first_record(head)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise errors.DatasetError(
            f"{path}: the header is not valid UTF-8 ({error.reason} at byte {error.start}); "
            "save the file as UTF-8"
        ) from error
    try:
        names = next(csv.reader(io.StringIO(text, newline="")), [])
    except csv.Error as error:
        raise errors.DatasetError(
            f"{path}: the header cannot be read ({error}); its first line names the columns"
        ) from error
    names = [name or f"unnamed_{number}" for number, name in enumerate(names)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise errors.DatasetError(f"{path}: the header names a column twice: {', '.join(twice)}")
    return names, data_start


def infer_types(head: Head, names: list[str], data_start: int) -> dict[str, str]:
    """A type for each column from the head of the file: ``null`` without a value, ``long`` for
    whole numbers that a float would round, ``text`` unless all values agree."""
    data, _, _ = _drop_undecodable(_complete(head, data_start))
    found = kinds.Kinds(names)
    size = _FIRST_LOOK_BYTES
    while data and found.open:
        block, data = _first_records(data, size)
        table, _ = _parse(head.path, block, names, dict.fromkeys(names, "text"), found.open)
        found.narrow(table)
        if found.is_quicker(len(data), len(block), table.num_rows):
            data = found.skip(data)
            size *= 8
        else:
            size = sys.maxsize
        data = _no_bom(data)
    return found.types


def look(path: Place, columns: list[str], data: bytes, guesses: dict[str, str]) -> dict[str, str]:
    """What becomes of guessed types by whole records: each stays, or is ``text``.

    Raises DatasetError if the records cannot be parsed.
    """
    # Others are compared as texts: parsed, "007" would be a fine number, and "1" a fine true.
    types = {name: kind if kind == "float" else "text" for name, kind in guesses.items()}
    found = _with_floats(data, columns, {name: TYPES[kind] for name, kind in types.items()})
    if found is None:
        data, _, _ = _drop_undecodable(data)
        table, _ = _parse(path, data, columns, dict.fromkeys(guesses, "text"), list(guesses))
        found = {name: table[name] for name in guesses}
    return {
        name: kind if _is_borne_out(found[name], kind) else "text"
        for name, kind in guesses.items()
    }


def head_rows(head: Head, data_start: int, limit: int = HEAD_ROWS) -> tuple[bytes, int]:
    """The first complete rows, and how many they are."""
    body = head.data[data_start:]
    span = _first_rows(body, whole=head.is_whole, limit=limit)
    return (body[: span.end], span.rows) if span else (b"", 0)


def find_rows(  # noqa: PLR0913, PLR0917 - a file, how it is cut, and who looks on
    stream: BinaryIO, path: Place, data_start: int, limits: tuple[int, int],
    on_block: Callable[[bytes], None], on_end: Callable[[int], None],
) -> Iterator[Span]:
    """Cut the file, which stands at ``data_start``, into spans of at most ``limits`` rows and
    bytes. One pass, constant memory.

    Raises DatasetError if the file ends inside quotes.
    """
    try:
        ends = telling(scan(stream, data_start, on_block=on_block), on_end)
        yield from cut(ends, data_start, *limits)
    except UnclosedQuote as error:
        raise errors.DatasetError(
            f"{path}: row {error.row} opens a quote that is never closed; "
            "close it, or double it if it is part of the text"
        ) from error


def whole_span(head: Head, data_start: int) -> Span | None:
    """All rows of a file whose head is all of it; None if there is none. Raises DatasetError."""
    stream, limits = io.BytesIO(head.data[data_start:]), (HEAD_ROWS, len(head.data))
    return next(find_rows(stream, head.path, data_start, limits, _nobody, _nobody), None)


def _nobody(_: object) -> None:
    """Looks on."""


def read_rows(  # noqa: PLR0913, PLR0917 - a chunk, and what is wanted of it
    path: str, data: bytes, chunk: Chunk, columns: tuple[DatasetColumn, ...], names: list[str],
    id_column: str | None = None,
) -> tuple[pa.Table, np.ndarray[Any, Any], list[RowError]]:
    """The readable rows of a chunk, their numbers (from 1), and the errors of the others.

    ``id_column``, one of ``names``, gives errors their ids. Raises DatasetError if ``data`` does
    not hold the rows that the plan says.
    """
    types = {column.name: column.dtype for column in columns}
    data, positions, bad = _drop_undecodable(data)
    everything = [column.name for column in columns]
    table, misshapen = _parse(path, data, everything, types, names)
    check_count(path, chunk, table.num_rows + len(misshapen) + len(bad))
    if positions is None:
        positions = np.arange(chunk.rows)
    bad += [(int(positions[at]), *told) for at, *told in misshapen]
    positions = np.delete(positions, [at for at, *_ in misshapen])
    table, kept, misfits = _convert(table, types, id_column)
    bad += [(int(positions[at]), *told) for at, *told in misfits]
    first = chunk.first_row + 1
    table = _with_nulls(table, [column.name for column in columns if column.empty_is_null])
    return table, positions[kept] + first, row_errors(bad, first)


def _with_nulls(table: pa.Table, columns: list[str]) -> pa.Table:
    """Null for the empty texts of these columns, as far as the table has them."""
    for name in columns:
        at = table.schema.get_field_index(name)
        if at >= 0:
            nothing = pa.scalar(None, pa.string())
            values = pc.if_else(pc.equal(table[name], ""), nothing, table[name])
            table = table.set_column(at, name, values)
    return table


def check_count(path: str, chunk: Chunk, found: int) -> None:
    """Raises DatasetError if a chunk holds other than the planned number of rows."""
    if found != chunk.rows:
        raise errors.DatasetError(
            f"{path}: chunk {chunk.number} holds {found} rows, the plan says {chunk.rows}; "
            "the file has changed: submit it again"
        )


def row_errors(bad: list[Bad], first: int) -> list[RowError]:
    """Bad rows in their order; ``first`` is the number of the chunk's first row."""
    return [
        RowError(
            row=first + at, id=named, code=errors.DatasetError.code, message=message,
            data=clip(text),
        )
        for at, message, text, named in sorted(bad, key=itemgetter(0))
    ]


Bad = tuple[int, str, str, Any]
"""Position within the chunk, message, the row, its id (None: not known)."""


def _first_record(head: Head) -> tuple[bytes, int]:
    path, data = head.path, head.data
    skip = len(_BOM) if data.startswith(_BOM) else 0
    body = data[skip:]
    blank = re.match(rb"[\r\n]*", body)
    lead = blank.end() if blank else 0
    if lead == len(body):
        raise errors.DatasetError(f"{path}: the file holds no header")
    first = _first_rows(body[lead:], whole=head.is_whole, limit=1)
    if first is None:
        raise errors.DatasetError(
            f"{path}: the header opens a quote that is never closed, or is no header at all: it "
            f"is longer than {len(data):,} bytes"
        )
    end = lead + first.end
    return body[lead:end].rstrip(b"\r\n"), skip + end


def _first_rows(data: bytes, *, whole: bool, limit: int) -> Span | None:
    """At most ``limit`` complete records from the beginning of ``data``; None if there is none."""
    ends: list[Ends] = []
    try:
        for found in scan(io.BytesIO(data)):
            ends.append(found)
            if found.counts[-1] >= limit:
                break
    except UnclosedQuote:
        pass
    if ends and not whole and ends[-1].offsets[-1] == len(data) and data[-1:] not in b"\r\n":
        ends.pop()  # the scan takes what remains for a record
    return next(cut(iter(ends), 0, limit, len(data) + 1), None)


def _complete(head: Head, data_start: int) -> bytes:
    """As :func:`head_rows`, not counted: without quotes every line break ends a record."""
    body = head.data[data_start:]
    if b'"' in body:
        return head_rows(head, data_start)[0]
    return body if head.is_whole else body[: max(body.rfind(b"\n"), body.rfind(b"\r")) + 1]


def _first_records(data: bytes, size: int) -> tuple[bytes, bytes]:
    """The complete records of about the first ``size`` bytes, at least one; and all others."""
    while size < len(data):
        first = _first_rows(data[:size], whole=False, limit=HEAD_ROWS)
        if first:
            return data[: first.end], data[first.end :]
        size *= 4
    return data, b""


def _no_bom(data: bytes) -> bytes:
    """The same records; the parser would drop a mark that is only at the beginning of these."""
    return b"\n" + data if data.startswith(_BOM) else data


def _drop_undecodable(data: bytes) -> tuple[bytes, np.ndarray[Any, Any] | None, list[Bad]]:
    """``data`` without the records that are not UTF-8; where the others stood (None: as before)."""
    try:
        if not data.isascii():  # that needs no memory
            data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        return data, None, []
    good: list[bytes] = []
    positions: list[int] = []
    bad: list[Bad] = []
    for span in cut(scan(io.BytesIO(data)), 0, 1, len(data) + 1):
        record = data[span.start : span.end]
        try:
            record.decode("utf-8")
        except UnicodeDecodeError as error:
            text = record.strip(b"\r\n").decode("utf-8", "backslashreplace")
            bad.append((span.first_row, f"not valid UTF-8 ({error.reason})", text, None))
        else:
            good.append(record)
            positions.append(span.first_row)
    return b"".join(good), np.array(positions, dtype=np.int64), bad


def _parse(
    path: Place | str, data: bytes, columns: list[str], types: dict[str, str], names: list[str]
) -> tuple[pa.Table, list[Bad]]:
    """Parse with the given types, or, where a value does not fit its type, all as texts."""
    wanted = {name: TYPES[types[name]] for name in names}
    is_own = "own" in types.values()
    if not data.strip(b"\r\n"):
        return pa.schema(list(wanted.items())).empty_table(), []
    try:
        found = _arrow(data, columns, wanted, is_own=is_own)
    except pa.ArrowInvalid:
        found = None
    try:
        if found is not None and not _holds_hexadecimals(data, columns, wanted):
            return found
        return _arrow(data, columns, dict.fromkeys(names, pa.string()), is_own=is_own)
    except pa.ArrowInvalid as error:
        raise errors.DatasetError(f"{path}: cannot be read as CSV: {error}") from error


def _arrow(
    data: bytes, columns: list[str], types: dict[str, Any], *, is_own: bool = False
) -> tuple[pa.Table, list[Bad]]:
    bad: list[Bad] = []

    def note(row: Any) -> str:
        message = f"{row.actual_columns} fields where the header has {row.expected_columns}"
        bad.append((row.number - 1, message, row.text, None))
        return "skip"

    if data.startswith(_BOM):  # of a row, as where files were put together; Arrow drops one
        data = _BOM + data
    table = arrow_csv.read_csv(
        pa.BufferReader(data),
        # One block: otherwise rows are numbered from the start of each block.
        arrow_csv.ReadOptions(
            use_threads=False, column_names=columns, block_size=len(data) + 1
        ),
        arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
        arrow_csv.ConvertOptions(
            column_types=types, include_columns=list(types), strings_can_be_null=is_own,
            quoted_strings_can_be_null=not is_own, null_values=[""] if is_own else None,
        ),
    )
    return table.combine_chunks(), bad


def _holds_hexadecimals(data: bytes, columns: list[str], types: dict[str, Any]) -> bool:
    """True if one of the columns of whole numbers does: Arrow takes 0x10, which is no number in any
    other column or format, and 0xFFFFFFFFFFFFFFFF for -1."""
    whole = [name for name, dtype in types.items() if dtype == pa.int64()]
    if not whole or (b"0x" not in data and b"0X" not in data):
        return False
    texts, _ = _arrow(data, columns, dict.fromkeys(whole, pa.string()))
    found = (pc.match_substring_regex(texts[name], _HEXADECIMAL) for name in whole)
    return any(pc.any(one).as_py() for one in found)


def _convert(
    table: pa.Table, types: dict[str, str], id_column: str | None
) -> tuple[pa.Table, np.ndarray[Any, Any], list[Bad]]:
    """Give columns that were read as texts their types; rows with misfits are taken out."""
    kept = np.ones(table.num_rows, dtype=bool)
    converted = table
    bad: dict[int, str] = {}
    for index, name in enumerate(table.column_names):
        target = TYPES[types[name]]
        if table.schema.field(index).type == target:
            continue
        values, misfits = _cast(table[name].combine_chunks(), target)
        converted = converted.set_column(index, name, values)
        for at in misfits:
            found = table[name][at].as_py()[:80]
            bad.setdefault(at, f"column {name!r}: {found!r} is not {_KINDS[types[name]]}")
    if not bad:
        return converted, kept, []
    kept[list(bad)] = False
    rows: list[Bad] = []
    for at, message in bad.items():
        row = table.slice(at, 1).to_pylist()[0]
        named = None
        if id_column is not None:
            value = converted[id_column][at].as_py()
            named = row[id_column] if value is None else value
        rows.append((at, message, json.dumps(row, ensure_ascii=False, default=str), named))
    return converted.filter(pa.array(kept)), kept, rows


def _cast(texts: pa.Array, target: Any) -> tuple[pa.Array, list[int]]:
    texts = pc.utf8_trim_whitespace(texts)
    is_null = pc.is_in(texts, value_set=kinds.NULLS)
    texts = pc.if_else(is_null, pa.scalar(None, pa.string()), texts)
    if target == pa.int64():
        texts = _without_fractions(texts)
    misfits = list(_misfits(texts, target, 0))
    if misfits:
        mask = np.zeros(len(texts), dtype=bool)
        mask[misfits] = True
        texts = pc.if_else(pa.array(mask), pa.scalar(None, pa.string()), texts)
    return texts.cast(target), misfits


def _without_fractions(texts: pa.Array) -> pa.Array:
    """Whole numbers that are written as fractions, as 3.0 or 1e+05, as such: pandas writes the one
    where a number is missing, R the other. Hexadecimal ones become no number."""
    for found, wanted in (
        (r"^\+([0-9])", r"\1"), (r"^(-?[0-9]+)\.0*$", r"\1"), (_HEXADECIMAL, "-"),
    ):
        texts = pc.replace_substring_regex(texts, found, wanted)
    is_scientific = pc.fill_null(pc.match_substring_regex(texts, _SCIENTIFIC), False)
    if not is_scientific.true_count:
        return texts
    numbers = [Decimal(text) for text in texts.filter(is_scientific).to_pylist()]
    whole = [str(int(one)) if one == one.to_integral_value() else str(one) for one in numbers]
    return pc.replace_with_mask(texts, is_scientific, pa.array(whole, pa.string()))


def _misfits(texts: pa.Array, target: Any, offset: int) -> Iterator[int]:
    """Positions that do not cast, found by halving."""
    try:
        texts.cast(target)
    except pa.ArrowInvalid:
        if len(texts) == 1:
            yield offset
            return
        half = len(texts) // 2
        yield from _misfits(texts.slice(0, half), target, offset)
        yield from _misfits(texts.slice(half), target, offset + half)


def _with_floats(
    data: bytes, columns: list[str], types: dict[str, Any]
) -> dict[str, pa.ChunkedArray] | None:
    """Columns of these types, but texts of those with a number so large that it may have been
    rounded; None if a value does not have its type."""
    try:
        table, _ = _arrow(data, columns, types)
    except pa.ArrowInvalid:
        return None
    found = {name: table[name] for name in types}
    large = [name for name in types if types[name] == pa.float64() and _is_large(found[name])]
    if large:
        texts, _ = _arrow(data, columns, dict.fromkeys(large, pa.string()))
        found |= {name: texts[name] for name in large}
    return found


def _is_large(floats: pa.ChunkedArray) -> bool:
    ends = pc.min_max(floats).as_py()
    return any(end is not None and not abs(end) < _EXACT for end in ends.values())


def _is_borne_out(values: pa.ChunkedArray, kind: str) -> bool:
    """True if values, parsed as ``kind`` or as texts, all are of that kind."""
    if values.type == TYPES[kind]:
        return True
    if kind == "int" and _is_unchanged(values):  # ten times as fast as the pattern
        return True
    matches = pc.match_substring_regex(_filled(values), kinds.PATTERNS[kind])
    return bool(pc.all(matches, min_count=0).as_py())


def _is_unchanged(texts: pa.ChunkedArray) -> bool:
    try:
        return bool(pc.all(pc.equal(texts.cast(pa.int64()).cast(pa.string()), texts)).as_py())
    except pa.ArrowInvalid:
        return False


def _filled(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    return texts.filter(pc.invert(pc.is_in(texts, value_set=kinds.NULLS)))
