"""Periods: dates of a column, cut to the day, week, month, quarter or year that they lie in; and
the periods of pandas, as text."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from celeriac import errors
from celeriac.datasets.records import Period

_MILLISECONDS_FROM = 1e11
"""Larger numbers are milliseconds: as seconds they would lie after the year 5138."""
_PANDAS = "pandas.period"
_RENAMED = {"A": "Y", "H": "h", "T": "min", "S": "s", "L": "ms", "U": "us", "N": "ns"}
"""Frequencies as pandas wrote them before 2.2."""
_LEAST_S, _MOST_S = -62_135_596_800, 253_402_300_799
"""Of the years 1 to 9999."""


def in_periods(column: pa.ChunkedArray, period: Period) -> pa.ChunkedArray:
    """The first day of the period of each value, UTC; null for what is no date.

    Dates are dates, times, texts of ISO 8601 (``2025-03-31``, ``2025-03-31T08:00:00+02:00``), or
    numbers: Unix time in seconds or, from 10^11 on, in milliseconds.
    """
    return pc.cast(pc.floor_temporal(_days(column), unit=period), pa.date32())


def frequency_of(field: pa.Field) -> str:
    """Of a column of pandas' periods, as ``M``; empty for any other column.

    A process knows the type if it has loaded pandas; a file says it all the same.
    """
    if getattr(field.type, "extension_name", "") == _PANDAS:
        return str(field.type.freq)
    about = field.metadata or {}
    if about.get(b"ARROW:extension:name") != _PANDAS.encode():
        return ""
    return str(json.loads(about[b"ARROW:extension:metadata"])["freq"])


def periods_as_text(column: pa.ChunkedArray, frequency: str) -> pa.Array:
    """As pandas prints them (``2026Q1``): the numbers that they are kept as say nothing without
    their frequency. Raises DatasetError if this pandas does not know that."""
    import pandas as pd  # few datasets have any

    today = re.sub(r"[A-Z]+", lambda name: _RENAMED.get(name[0], name[0]), frequency, count=1)
    try:
        dtype = pd.PeriodDtype(today)
    except ValueError as error:
        raise errors.DatasetError(
            f"periods of the frequency {frequency!r} cannot be read by pandas {pd.__version__}; "
            "write them as text"
        ) from error
    kept = [getattr(chunk, "storage", chunk) for chunk in column.chunks]
    numbers = pa.chunked_array(kept, pa.int64())
    periods = pd.Series(pd.arrays.PeriodArray(numbers.fill_null(0).to_numpy(), dtype=dtype))
    texts = periods.astype(str).to_numpy(dtype=object)
    return pa.array(texts, pa.string(), mask=numbers.is_null().to_numpy())


def _days(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_timestamp(kind):
        return pc.cast(column, pa.timestamp(kind.unit)).cast(pa.date32(), safe=False)
    if pa.types.is_date(kind):
        return column.cast(pa.date32())
    known: dict[Any, date | None] = {}
    days = [
        known[value] if value in known else known.setdefault(value, _date(value))
        for value in (column.to_pylist() if not pa.types.is_nested(kind) else [None] * len(column))
    ]
    return pa.chunked_array([pa.array(days, pa.date32())])


def _date(value: Any) -> date | None:
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value.strip())
            return (at.astimezone(UTC) if at.tzinfo else at).date()
        except (ValueError, OverflowError):
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    seconds = value / 1_000 if abs(value) >= _MILLISECONDS_FROM else value
    if not _LEAST_S <= seconds <= _MOST_S:
        return None
    return datetime.fromtimestamp(seconds, UTC).date()
