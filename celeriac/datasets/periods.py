"""Dates of a column, cut to the day, week, month, quarter or year that they lie in."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from celeriac.datasets.records import Period

_MILLISECONDS_FROM = 1e11
"""Larger numbers are milliseconds: as seconds they would lie after the year 5138."""
_LEAST_S, _MOST_S = -62_135_596_800, 253_402_300_799
"""Of the years 1 to 9999."""
_MOST_DAYS = 11_000_000
"""From 1970: beyond some more Arrow knows no months."""


def in_periods(column: pa.ChunkedArray, period: Period) -> pa.ChunkedArray:
    """The first day of the period of each value, UTC; null for what is no date.

    Dates are dates, times, texts of ISO 8601 (``2025-03-31``, ``2025-03-31T08:00:00+02:00``), or
    numbers: Unix time in seconds or, from 10^11 on, in milliseconds.
    """
    days = _days(column)
    is_date = pc.less_equal(pc.abs(days.cast(pa.int32()).cast(pa.int64())), _MOST_DAYS)
    days = pc.if_else(is_date, days, pa.scalar(None, pa.date32()))
    return pc.cast(pc.floor_temporal(days, unit=period), pa.date32())


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
