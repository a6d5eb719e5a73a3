"""How values that CSV, JSON or Python lack are spelled: exactly, and the same in each format.

Python has no time beyond the years 1 to 9999 and none by the nanosecond, CSV neither bytes nor
durations, and no offset of a zone has seconds, as those of the 19th century have.
"""

from __future__ import annotations

from base64 import b64encode
from datetime import date
from functools import lru_cache
from itertools import chain, islice
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from celeriac.datasets.records import clip

_UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DAY_S = 86_400
_FIRST_DAY = (date(1, 1, 2) - date(1970, 1, 1)).days
_LAST_DAY = (date(9999, 12, 30) - date(1970, 1, 1)).days
"""Between them each zone's time is one of Python's."""
_WHOLE_OFFSETS_DAY = (date(1973, 1, 1) - date(1970, 1, 1)).days
"""From here on offsets are whole minutes."""
_MOST_DAYS = 999_999_999
"""Of a duration in Python."""
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as Python values that ``msgspec`` writes as JSON without a loss."""
    nested: dict[str, list[Any]] = {}
    for at, field in enumerate(table.schema):
        column = table[at]
        if not pa.types.is_nested(field.type):
            column = _spelled(column)
        elif _holds_times(field.type):
            nested[field.name] = values_of(column)
            column = pa.nulls(table.num_rows)  # its place
        if column is not table[at]:
            table = table.set_column(at, field.name, column)
    rows: list[dict[str, Any]] = table.to_pylist()
    for name, values in nested.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    return rows


def values_of(column: Any) -> list[Any]:
    """The values of one column, as :func:`rows_of` has them."""
    if not pa.types.is_nested(column.type):
        found: list[Any] = _spelled(column).to_pylist()
        return found
    if not _holds_times(column.type):
        return list(column.to_pylist())
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return list(chain.from_iterable(map(_nested, chunks)))


def as_text(value: Any) -> str:
    """One of those values as JSON lines have it, at most 4 kB: a text without its quotes."""
    plain = msgspec.to_builtins(value, enc_hook=str)
    return clip(plain if isinstance(plain, str) else msgspec.json.encode(plain).decode())


def for_csv(table: pa.Table) -> pa.Table:
    """The table with texts where Arrow's writer of CSV would spoil a value: bytes are base64,
    durations ISO 8601 (a number would not tell seconds from milliseconds), as in JSON lines."""
    for at, field in enumerate(table.schema):
        column = _csv_column(table[at])
        if column is not table[at]:
            table = table.set_column(at, field.name, column)
    return table


def _csv_column(column: pa.ChunkedArray) -> Any:
    if any(is_kind(column.type) for is_kind in _BYTES):
        texts = [None if one is None else b64encode(one).decode() for one in column.to_pylist()]
        return pa.array(texts, pa.string())
    if pa.types.is_duration(column.type):
        return _durations(column)
    if not pa.types.is_timestamp(column.type):
        return column
    column = _in_known_zone(column)
    odd = _odd_offsets(column)
    return column if odd is None else _zoned(column, odd)


def _spelled(column: Any) -> Any:
    """A column of no nested type; texts in place of what Python lacks. What needs none looks as it
    does in Python, so that no value hangs on what else is in its chunk."""
    dtype, kinds = column.type, pa.types
    if kinds.is_duration(dtype):
        most = _MOST_DAYS * _DAY_S * _UNITS[dtype.unit]
        fits = dtype.unit != "ns" and _are_within(column, -most, most)
        return column if fits else _durations(column)
    if kinds.is_time64(dtype) and dtype.unit == "ns":
        plain = _in_microseconds(column)
        return _iso(column.cast(pa.string())) if plain is None else plain
    if kinds.is_date32(dtype):
        return column if _are_within(column, _FIRST_DAY, _LAST_DAY) else column.cast(pa.string())
    if kinds.is_date64(dtype):
        return _spelled(column.cast(pa.date32()))
    return _times(column) if kinds.is_timestamp(dtype) else column


def _times(column: Any) -> Any:
    column = _in_known_zone(column)
    dtype = column.type
    odd = _odd_offsets(column)
    a_day = _DAY_S * _UNITS[dtype.unit]
    if odd is None and _are_within(column, _FIRST_DAY * a_day, _LAST_DAY * a_day):
        plain = _in_microseconds(column) if dtype.unit == "ns" else column
        if plain is not None:
            return plain
    texts = _iso(column.cast(pa.string()) if odd is None else _zoned(column, odd))
    return texts if dtype.tz in (None, "UTC") else _by_python(column, texts, odd)


def _in_known_zone(column: Any) -> Any:
    """The same times in UTC if nobody here knows their zone, as ``utc`` or ``GMT+1``."""
    zone = column.type.tz
    return column if _is_known(zone) else column.cast(pa.timestamp(column.type.unit, "UTC"))


@lru_cache(maxsize=64)
def _is_known(zone: str | None) -> bool:
    times = pa.array([0], pa.timestamp("s", zone))
    try:
        times.cast(pa.string())
        times.to_pylist()
    except (pa.ArrowInvalid, LookupError, ValueError):
        return False
    return True


def _by_python(column: Any, texts: Any, odd: Any) -> Any:
    """The texts of times with those that Python has as it writes them: it knows when summer begins
    beyond 2037, too, where Arrow's rules end."""
    counts, unit = _numbers(column), _UNITS[column.type.unit]
    days = counts // (_DAY_S * unit)
    fits = (days >= _FIRST_DAY) & (days < _LAST_DAY) & np.asarray(column.is_valid())
    fits &= counts % max(1, unit // _UNITS["us"]) == 0
    if odd is not None:
        fits &= ~np.asarray(odd)
    times = column.filter(pa.array(fits)).cast(pa.timestamp("us", column.type.tz)).to_pylist()
    shown = pa.array([msgspec.to_builtins(one) for one in times], pa.string())
    whole = pa.concat_arrays(texts.chunks) if isinstance(texts, pa.ChunkedArray) else texts
    return pc.replace_with_mask(whole, pa.array(fits), shown)


def _in_microseconds(column: Any) -> Any:
    """None where that is not exact."""
    is_time = pa.types.is_time64(column.type)
    try:
        return column.cast(pa.time64("us") if is_time else pa.timestamp("us", column.type.tz))
    except pa.ArrowInvalid:
        return None


def _iso(texts: Any) -> Any:
    """Arrow's texts of times as Python writes them."""
    for found, wanted in (
        (r"^(-?\d+-\d\d-\d\d) ", r"\1T"), (r"\.0+(Z|[+-]\d{4})?$", r"\1"),
        (r"(\.\d{3})(Z|[+-]\d{4})?$", r"\1000\2"), (r"(\.\d{6})000", r"\1"),
        (r"([+-]\d\d)(\d\d)$", r"\1:\2"), (r"[+]00:00$", "Z"),
    ):
        texts = pc.replace_substring_regex(texts, found, wanted)
    return texts


def _odd_offsets(column: Any) -> Any:
    """Which times have an offset that is no whole number of minutes; None if there is none."""
    dtype = column.type
    per_day = _DAY_S * _UNITS[dtype.unit]
    if dtype.tz in (None, "UTC") or _are_within(column, _WHOLE_OFFSETS_DAY * per_day, 1 << 63):
        return None
    local = _numbers(pc.local_timestamp(column)) - _numbers(column)
    odd = local % (60 * _UNITS[dtype.unit]) != 0
    return pa.array(odd) if odd.any() else None


def _zoned(column: Any, odd: Any) -> Any:
    """Times as texts of Arrow; those that are ``odd`` in UTC."""
    everywhere = column.cast(pa.timestamp(column.type.unit, "UTC"))
    return pc.if_else(odd, everywhere.cast(pa.string()), column.cast(pa.string()))


def _numbers(column: Any) -> np.ndarray[Any, Any]:
    """What a column of times or durations is made of; 0 for null."""
    found: np.ndarray[Any, Any] = pc.fill_null(_counts(column), 0).to_numpy()
    return found


def _counts(column: Any) -> Any:
    return column.cast(pa.int32() if pa.types.is_date32(column.type) else pa.int64())


def _are_within(column: Any, least: int, most: int) -> bool:
    ends = pc.min_max(_counts(column)).as_py()
    return ends["min"] is None or least <= ends["min"] <= ends["max"] <= most


def _durations(column: Any) -> Any:
    unit = _UNITS[column.type.unit]
    counts = _counts(column).to_pylist()
    return pa.array([None if one is None else _duration(one, unit) for one in counts], pa.string())


def _duration(count: int, unit: int) -> str:
    """ISO 8601, as msgspec writes those of Python; ``unit``: how many are a second.

    >>> _duration(-90_000_500, 1_000), _duration(0, 1)
    ('-P1DT3600.5S', 'P0D')
    """
    seconds, rest = divmod(abs(count), unit)
    days, seconds = divmod(seconds, _DAY_S)
    fraction = f".{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else ""
    day = f"{days}D" if days or not (seconds or rest) else ""
    time = f"T{seconds}{fraction}S" if seconds or rest else ""
    return f"{'-' if count < 0 else ''}P{day}{time}"


def _holds_times(dtype: Any) -> bool:
    if pa.types.is_nested(dtype):
        return any(_holds_times(dtype.field(at).type) for at in range(dtype.num_fields))
    return bool(pa.types.is_temporal(dtype))


def _nested(array: Any) -> list[Any]:
    """The values of lists or records, all of what is in them spelled at once."""
    if pa.types.is_map(array.type):
        return [_pairs(one) for one in array]
    if pa.types.is_struct(array.type):
        names = [field.name for field in array.type]
        cells = zip(*map(values_of, array.flatten()), strict=True)
        rows = zip(array.is_valid().to_pylist(), cells, strict=True)
        return [dict(zip(names, row, strict=True)) if there else None for there, row in rows]
    values = iter(values_of(pc.list_flatten(array)))
    lengths = pc.list_value_length(array).to_pylist()
    return [None if length is None else list(islice(values, length)) for length in lengths]


def _pairs(cell: Any) -> Any:
    """Of a map, as Arrow has them."""
    if not cell.is_valid:
        return None
    keys, values = (values_of(cell.values.field(at)) for at in (0, 1))
    return list(zip(keys, values, strict=True))
