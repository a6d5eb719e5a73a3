"""Rows in little: what statistics need of each value, at most some hundred bytes of it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from celeriac import images

TEXT_CHARS = 60
"""A text that is longer is told from others by its beginning and its length."""
TEXT, CHARS = "text", "chars"
_PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
ITEMS, BYTES, WIDTH, HEIGHT = "items", "bytes", "width", "height"


def condense(table: pa.Table) -> pa.Table:
    """The same rows and names. Numbers, booleans and times stay, durations become
    seconds; texts become their beginning and
    their length, lists their length, binary values their size and, of images, width and height.
    Of anything else remains whether there is a value."""
    columns = [
        column if _stays(column.type) else _condensed(_plain(column)) for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)


def row_bytes(dtypes: list[str]) -> int:
    """How large a condensed row with columns of these types (Arrow's, or of a plan) may be."""
    return sum(16 if _is_small(dtype) else 2 * TEXT_CHARS for dtype in dtypes)


def _is_small(dtype: str) -> bool:
    return not ("string" in dtype or dtype in ("text", "json"))


def _plain(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # without rows
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array


def _stays(dtype: pa.DataType) -> bool:
    """True for most columns of most tables."""
    is_type = pa.types
    return (
        (is_type.is_floating(dtype) and not is_type.is_float16(dtype))
        or is_type.is_integer(dtype) or is_type.is_boolean(dtype)
    )


def _condensed(values: pa.Array) -> pa.Array:
    dtype, is_type = values.type, pa.types
    if is_type.is_string(dtype) or is_type.is_large_string(dtype) or is_type.is_string_view(dtype):
        texts = values.cast(pa.string()) if is_type.is_string_view(dtype) else values
        short = pc.utf8_slice_codeunits(texts, 0, TEXT_CHARS).cast(pa.string())
        return _record(values, {TEXT: short, CHARS: pc.utf8_length(texts).cast(pa.int32())})
    if is_type.is_decimal(dtype) or is_type.is_float16(dtype):
        return values.cast(pa.float64())
    if _stays(dtype):
        return values
    if is_type.is_duration(dtype):
        counts = values.cast(pa.int64()).cast(pa.float64(), safe=False)
        return pc.divide(counts, _PER_SECOND[dtype.unit])
    if is_type.is_temporal(dtype) or is_type.is_null(dtype):
        return values
    if is_type.is_binary(dtype) or is_type.is_large_binary(dtype):
        return _sizes(values)
    if is_type.is_list(dtype) or is_type.is_large_list(dtype):
        return _record(values, {ITEMS: pc.list_value_length(values).cast(pa.int64())})
    return _record(values, {})


def _sizes(values: pa.Array) -> pa.Array:
    found = {BYTES: pc.binary_length(values).cast(pa.int64())}
    sizes = [None if data is None else images.size_of(data) for data in values.to_pylist()]
    if any(size is not None for size in sizes):
        found[WIDTH] = pa.array([size[0] if size else None for size in sizes], pa.int32())
        found[HEIGHT] = pa.array([size[1] if size else None for size in sizes], pa.int32())
    return _record(values, found)


def _record(values: pa.Array, fields: dict[str, Any]) -> pa.Array:
    """A struct that is null where the value is."""
    fields = fields or {"value": pc.is_valid(values)}
    return pa.StructArray.from_arrays(
        list(fields.values()), names=list(fields), mask=pc.is_null(values)
    )
