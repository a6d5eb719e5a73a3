"""JSON lines: an object a line; its columns, its chunks, and the rows of one chunk.

A line that cannot be read (not UTF-8, not an object, a value that does not fit its column's type)
becomes a RowError; the lines around it are read.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as arrow_json

from celeriac import errors
from celeriac.datasets.csv import HEAD_ROWS, Bad, check_count, row_errors
from celeriac.datasets.records import Chunk, DatasetColumn, RowError
from celeriac.datasets.scan import Span, cut, scan_lines, telling
from celeriac.datasets.streams import Head

TYPES = {
    "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "text": pa.string(),
    "json": pa.string(),
}
_WANTED = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "text": "a text",
}
_AS: dict[str, Callable[[Any], Any]] = {"int": int, "float": float, "bool": bool, "text": str}
_NUMBERS = ("int", "float")
_INT64 = 1 << 63
_EXACT = 1 << 53
"""Up to here each whole number is a float, too."""
_LONG = re.compile(rb"[:\s-]\d{16,}\s*[,}]")
"""Slow: for records that are known to hold large numbers."""
_BOM = b"\xef\xbb\xbf"
_ODD = (  # quick: each begins with one fixed byte
    re.compile(rb'}[ \t\r]*(?:{[ \t\r]*(?:"|}[ \t\r]*(?:\n|\Z))|null)'),
    re.compile(rb"\n[ \t\r]*null"),
    re.compile(rb"-NaN"),
    re.compile(rb"Inf[ \t\r]*[,}\]]"),
)
"""Two values on one line, which Arrow takes for two rows (and the count is right again if it passes
over a line of blanks elsewhere); ``null``, which it takes for a row, or at the very beginning ends
the process; numbers that only Arrow knows. (Texts hold such braces, as in TeX, but no quote that
is not escaped.)"""
_NULL_FIRST = re.compile(rb"\s*null")
_TOO_DEEP = "lists or objects are nested too deep"


def infer_types(head: Head) -> dict[str, str]:
    """The columns of the head's rows, in the order in which they come up, and their types.

    ``null`` where no row has a value, ``long`` for whole numbers that a float would round; ``json``
    where values differ in kind or hold lists or objects. Raises DatasetError if no line of the head
    is an object, or the file is one array.
    """
    kinds: dict[str, set[str]] = {}
    first_problem = ""
    data, _ = head_rows(head)
    for number, line in enumerate(_lines(data), start=1):
        row = _decoded(line)
        if isinstance(row, str):
            first_problem = first_problem or f"row {number}: {row}"
            continue
        for name, value in row.items():
            kinds.setdefault(name, set()).add(_kind(value))
    if _is_array(head, bool(kinds)):
        raise errors.DatasetError(
            f"{head.path}: is one JSON array, and JSON lines have an object on each line: take it "
            "apart, as by jq -c '.[]' FILE"
        )
    if not kinds:
        problem = first_problem or "it holds no object with a value"
        raise errors.DatasetError(f"{head.path}: cannot be read as JSON lines: {problem}")
    return {name: _common(found - {"null"} or {"null"}) for name, found in kinds.items()}


def _is_array(head: Head, has_rows: bool) -> bool:
    """True if the file is one list. Where some lines are rows, a first one like ``[1, 2]`` is a bad
    one among them; but one that is ``[`` alone, or goes on after a comma, begins a list."""
    first = head.data[data_start(head) :].lstrip().partition(b"\n")[0].rstrip()
    return first[:1] == b"[" and (not has_rows or first == b"[" or first[-1:] == b",")


def head_rows(head: Head, limit: int | None = None) -> tuple[bytes, int]:
    """The first complete lines, and how many rows they are."""
    data = head.data[data_start(head) :]
    if not head.is_whole:
        data = data[: data.rfind(b"\n") + 1]
    lines = _lines(data)
    if limit is not None and len(lines) > limit:
        lines = lines[:limit]
        data = b"\n".join(lines) + b"\n"
    return data, len(lines)


def data_start(head: Head) -> int:
    """Where the first line starts."""
    return len(_BOM) if head.data.startswith(_BOM) else 0


def look(data: bytes, guesses: dict[str, str]) -> dict[str, str]:
    """What becomes of guessed types by whole lines: each stays, or is wide enough for them.

    ``long`` among them is ``int`` that must not become ``float`` any more.
    """
    types = {name: "int" if kind == "long" else kind for name, kind in guesses.items()}
    table = _parse(data, types)
    if table is not None:
        large = {name for name in guesses if types[name] in _NUMBERS and _is_large(table[name])}
        if all(types[name] == "int" for name in large) or not _LONG.search(data):
            return {n: "long" if n in large and types[n] == "int" else guesses[n] for n in guesses}
    kinds = {name: {kind} for name, kind in guesses.items()}
    for line in _lines(data):
        row = _decoded(line)
        if isinstance(row, dict):
            for name in kinds.keys() & row.keys():
                kinds[name].add(_kind(row[name]))
    return {name: _common(found - {"null"}) for name, found in kinds.items()}


def _is_large(numbers: pa.ChunkedArray) -> bool:
    """True if there is one that may be no float, or, as a float, may have been rounded."""
    least = _EXACT + pa.types.is_integer(numbers.type)
    ends = pc.min_max(numbers).as_py()
    return any(end is not None and not abs(end) < least for end in ends.values())


def find_rows(
    stream: BinaryIO, start: int, limits: tuple[int, int], on_block: Callable[[bytes], None],
    on_end: Callable[[int], None],
) -> Iterator[Span]:
    """Cut the file, which stands at ``start``, into spans of at most ``limits`` rows and bytes."""
    ends = telling(scan_lines(stream, start, on_block=on_block), on_end)
    yield from cut(ends, start, *limits)


def whole_span(head: Head) -> Span | None:
    """All rows of a file whose head is all of it; None if there is none."""
    start = data_start(head)
    ends = scan_lines(io.BytesIO(head.data[start:]), start)
    return next(cut(ends, start, HEAD_ROWS, len(head.data)), None)


def read_rows(  # noqa: PLR0913, PLR0917 - a chunk, and what is wanted of it
    path: str, data: bytes, chunk: Chunk, columns: tuple[DatasetColumn, ...], names: list[str],
    id_column: str | None = None,
) -> tuple[pa.Table, np.ndarray[Any, Any], list[RowError]]:
    """The readable rows of a chunk, their numbers (from 1), and the errors of the others.

    ``id_column``, one of ``names``, gives errors their ids. Raises DatasetError if ``data`` does
    not hold the rows that the plan says.
    """
    dtypes = {column.name: column.dtype for column in columns}
    types = {name: dtypes[name] for name in names}
    table = _parse(data, types)
    first = chunk.first_row + 1
    if table is not None and table.num_rows == chunk.rows:
        return table, np.arange(chunk.rows) + first, []
    lines = _lines(data)
    check_count(path, chunk, len(lines))
    table, kept, bad = _parse_each(lines, types, id_column)
    return table, kept + first, row_errors(bad, first)


def _parse(data: bytes, types: dict[str, str]) -> pa.Table | None:
    """All rows at once; None if there is anything to look at line by line."""
    if "json" in types.values() or not types or _is_odd(data) or not _is_utf8(data):
        return None
    schema = pa.schema([(name, TYPES[dtype]) for name, dtype in types.items()])
    try:
        table = arrow_json.read_json(
            pa.BufferReader(data),
            arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            arrow_json.ParseOptions(
                explicit_schema=schema, newlines_in_values=False,
                unexpected_field_behavior="ignore",
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return table.select(list(types)).combine_chunks()


def _parse_each(
    lines: list[bytes], types: dict[str, str], id_column: str | None
) -> tuple[pa.Table, np.ndarray[Any, Any], list[Bad]]:
    values: dict[str, list[Any]] = {name: [] for name in types}
    kept: list[int] = []
    bad: list[Bad] = []
    for at, line in enumerate(lines):
        row = _decoded(line)
        cells = row if isinstance(row, str) else _cells(row, types)
        if isinstance(cells, str):
            named = row.get(id_column) if isinstance(row, dict) and id_column else None
            bad.append((at, cells, line.decode("utf-8", "backslashreplace"), named))
            continue
        kept.append(at)
        for name, value in zip(types, cells, strict=True):
            values[name].append(value)
    arrays = [pa.array(values[name], TYPES[dtype]) for name, dtype in types.items()]
    return pa.table(arrays, names=list(types)), np.array(kept, dtype=np.int64), bad


def _cells(row: dict[str, Any], types: dict[str, str]) -> list[Any] | str:
    """The values of a row, or what is wrong with it."""
    cells: list[Any] = []
    for name, dtype in types.items():
        value = row.get(name)
        if dtype == "json":
            is_null = value is None or (isinstance(value, float) and not math.isfinite(value))
            cells.append(None if is_null else msgspec.json.encode(value).decode())
        elif value is None or _fits(value, dtype):
            cells.append(value if value is None else _AS[dtype](value))
        else:
            found = json.dumps(value, ensure_ascii=False)[:80]
            return f"column {name!r}: {found} is not {_WANTED[dtype]}"
    return cells


def _fits(value: Any, dtype: str) -> bool:
    kind = _kind(value)
    if dtype == "float":
        return kind == "float" or (type(value) is int and abs(value) <= sys.float_info.max)
    if dtype == "int":  # as of single items, 3.0 is one
        whole = kind == "float" and value.is_integer() and -_INT64 <= value < _INT64
        return whole or kind in ("int", "long")
    return kind == dtype


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if -_EXACT <= value <= _EXACT:
            return "int"
        return "long" if -_INT64 <= value < _INT64 else "json"
    if isinstance(value, float):
        return "float"
    return "text" if isinstance(value, str) else "json"


def _common(kinds: set[str]) -> str:
    """``long``: whole numbers that a float would round."""
    if "long" in kinds:
        return "long" if kinds <= {"int", "long"} else "json"
    if len(kinds) <= 1:
        return next(iter(kinds), "text")
    return "float" if kinds == {"int", "float"} else "json"


def _decoded(line: bytes) -> dict[str, Any] | str:
    """The object of a line, or what is wrong with it."""
    try:
        row = msgspec.json.decode(line)
    except UnicodeDecodeError as error:
        return f"not valid UTF-8 ({error.reason})"
    except msgspec.DecodeError as error:
        row = _with_nan(line)
        if row is None:
            return f"not valid JSON ({error})"
    except RecursionError:
        return _TOO_DEEP
    return row if isinstance(row, dict) else "not a JSON object"


def _with_nan(line: bytes) -> Any:
    """A line with NaN or Infinity, which is no JSON, but which Python writes and Arrow reads. None
    if that is not all that is wrong with it."""
    if b"NaN" not in line and b"Infinity" not in line:
        return None
    try:
        row = json.loads(line.decode(), parse_float=_finite)
        msgspec.json.encode(row)  # half of a surrogate pair is no text
    except (ValueError, RecursionError):
        return None
    return row


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(text)
    return number


def _is_odd(data: bytes) -> bool:
    """True if lines must be looked at one by one, for Arrow sees other rows in them."""
    if data.startswith(_BOM) or _NULL_FIRST.match(data):  # a mark within the file is no JSON
        return True
    return any(odd.search(data) for odd in _ODD)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _lines(data: bytes) -> list[bytes]:
    """The lines that are records: by the rules of ``scan_lines``."""
    *ended, rest = data.split(b"\n")
    lines = [line for line in ended if line not in (b"", b"\r")]
    return [*lines, rest] if rest else lines
