"""Arrow types by their names, as plans have them: what files have in common, and casts to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa

from celeriac import errors

_ZONED = re.compile(r"timestamp\[(s|ms|us|ns), tz=(.+)\]")
_DECIMAL = re.compile(r"decimal128\((\d+), (-?\d+)\)")


def common(one: str, other: str) -> str | None:
    """The type that takes the values of both; None if there is none.

    A column without a value has a type of its own, a whole number that is missing somewhere makes
    pandas write fractions, and writers differ in how wide numbers are.

    >>> common("null", "string"), common("int64", "double"), common("string", "int64")
    ('string', 'double', None)
    >>> common("timestamp[us]", "timestamp[ns]")
    'timestamp[us]'
    """
    if one == other:
        return one
    first, second = named(one), named(other)
    if first is None or second is None:
        return None
    if pa.types.is_null(first) or pa.types.is_null(second):
        return other if pa.types.is_null(first) else one
    if _is_text(first) and _is_text(second):
        return "string"
    if pa.types.is_timestamp(first) and pa.types.is_timestamp(second):
        return _time(first, second)
    return _number(first, second)


def _time(first: Any, second: Any) -> str | None:
    """Spark writes microseconds, pandas nanoseconds, in which no year is beyond 2262."""
    if first.tz != second.tz:
        return None
    return str(pa.timestamp("us", first.tz))


def _is_text(dtype: Any) -> bool:
    return dtype in (pa.string(), pa.large_string())


def _number(first: Any, second: Any) -> str | None:
    kinds = (first, second)
    if not all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        return None
    if any(map(pa.types.is_floating, kinds)):
        return "double"
    return None if pa.uint64() in kinds else "int64"


@lru_cache(maxsize=256)
def named(dtype: str) -> Any:
    """The type of a name; None for those of lists, records and the like."""
    if zoned := _ZONED.fullmatch(dtype):
        return pa.timestamp(*zoned.groups())
    if decimal := _DECIMAL.fullmatch(dtype):
        return pa.decimal128(*map(int, decimal.groups()))
    try:
        return pa.type_for_alias(dtype)
    except ValueError:
        return None


def conformed(table: pa.Table, types: Mapping[str, str], path: str) -> pa.Table:
    """The table with the types of the plan, where those of its file are others.

    Raises UnreadableFile if a value does not fit: a whole number that a fraction would round, a
    time that microseconds would.
    """
    for at, field in enumerate(table.schema):
        wanted = types.get(field.name)
        if wanted is None or str(field.type) == wanted or named(wanted) is None:
            continue
        try:
            column = table[field.name].cast(named(wanted))
        except pa.ArrowInvalid as error:
            raise errors.UnreadableFile(
                f"{path}: column {field.name!r} is of type {field.type}, and {wanted} in other "
                f"files: {errors.told(error)}"
            ) from error
        table = table.set_column(at, field.name, column)
    return table
