"""Items of a batch that are alike: decoded and checked together, not one by one.

What is not alike, too large or not well formed is left to whoever looks at each item by itself and
says what is wrong with which: here that is None. What comes out is the same either way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

from celeriac import errors
from celeriac.messages import NUMBER_DTYPES, decode_base64
from celeriac.registry.manifest import InputSchema

_WRAPPING_BYTES = 200
"""Of a typed array on the wire, beside its data, about."""
_NUMBER_BYTES = 26
"""Of a number in a list on the wire with its comma, at most, if it is exact or was a float."""
_EXACT = 2.0**53
"""Whole numbers below it are the same as floats."""


def stacked(items: Sequence[Any], schema: InputSchema, limit: int) -> Any:
    """Items on the wire as one array ``(n, *shape)`` of the schema's dtype; None if not alike.

    They are typed arrays of one dtype, or lists of numbers, each of at most ``limit`` bytes.
    """
    if not items:
        return None
    if all(type(item) is list for item in items):
        return _lists(items, schema, limit)
    if schema.kind == "array":
        return _typed_arrays(items, schema, limit)
    return None


def _typed_arrays(items: Sequence[Any], schema: InputSchema, limit: int) -> Any:
    import numpy as np

    first = items[0]
    if not isinstance(first, dict) or "$array" not in first:
        return None
    dtype, shape = first.get("dtype"), list(schema.shape)
    if dtype not in NUMBER_DTYPES or any(
        not isinstance(item, dict) or item.get("dtype") != dtype or item.get("shape") != shape
        or len(str(item.get("$array"))) > limit - _WRAPPING_BYTES
        for item in items
    ):
        return None
    size = np.dtype(dtype).itemsize * math.prod(shape)
    try:
        data = [decode_base64(item.get("$array")) for item in items]
    except errors.InvalidItem:
        return None
    if any(len(one) != size for one in data):
        return None
    arrays = np.frombuffer(bytearray().join(data), dtype=dtype).reshape(len(items), *shape)
    with np.errstate(over="ignore"):
        return arrays.astype(schema.dtype, copy=False)


def _lists(items: Sequence[Any], schema: InputSchema, limit: int) -> Any:
    import numpy as np

    if _most_bytes(schema.shape) > limit:
        return None
    numbers = _flat(items, schema.shape)
    if numbers is None:
        return None
    kinds = set(map(type, numbers))
    if not kinds <= {int, float}:
        return None
    try:
        flat = np.array(numbers, dtype=np.float64)
    except OverflowError:
        return None
    if int in kinds and not (np.abs(flat) < _EXACT).all():
        return None  # alone, an item of whole numbers alone would not become floats
    with np.errstate(over="ignore"):
        return flat.astype(schema.dtype, copy=False).reshape(len(items), *schema.shape)


def _flat(items: Sequence[Any], shape: Sequence[int]) -> list[Any] | None:
    """The innermost values of nested lists, in order; None if a list has another length."""
    level: list[Any] = list(items)
    for depth, length in enumerate(shape):
        if depth and set(map(type, level)) != {list}:
            return None
        if set(map(len, level)) != {length}:
            return None
        level = list(chain.from_iterable(level))
    return level


def _most_bytes(shape: Sequence[int]) -> int:
    """What nested lists of this shape take on the wire, at most: numbers, brackets and commas."""
    lists, brackets = 1, 2
    for length in shape[:-1]:
        lists *= length
        brackets += 3 * lists
    return brackets + _NUMBER_BYTES * math.prod(shape)
