"""Items as they came over the wire: decoded and checked one by one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from celeriac import errors, images
from celeriac.inputs import alike
from celeriac.inputs.collated import ARRAYS, Collated
from celeriac.messages import decode_item
from celeriac.registry.manifest import Column, InputSchema


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one item may be, at most."""

    item_bytes: int = 1_000_000
    """On the wire."""
    image_pixels: int = 25_000_000


def collate(items: Sequence[Any], schema: InputSchema, limits: Limits | None = None) -> Collated:
    """Decode and check items as they came over the wire."""
    limits = limits or Limits()
    if schema.kind == "text":
        return _texts(items, limits.item_bytes)
    if schema.kind in ARRAYS:
        stacked = alike.stacked(items, schema, limits.item_bytes)
        if stacked is not None:
            return _finite(stacked, range(len(items)), {}, schema)
    good: list[Any] = []
    index: list[int] = []
    bad: dict[int, errors.CeleriacError] = {}
    for position, item in enumerate(items):
        try:
            _check_size(item, limits.item_bytes)
            good.append(_checked(decode_item(item), schema, limits))
            index.append(position)
        except (errors.InvalidItem, errors.PayloadTooLarge) as error:
            bad[position] = error
        except MemoryError:
            bad[position] = errors.ResourceExhausted("not enough memory to decode this item")
    return _build(good, index, bad, schema)


def _check_size(item: Any, limit: int) -> None:
    """Raises PayloadTooLarge if ``item`` has more than ``limit`` bytes on the wire."""
    if isinstance(item, str) and len(item) * _MOST_BYTES + 2 <= limit:
        return
    try:
        size = len(_json(item))
    except (ValueError, TypeError, RecursionError):
        size = len(json.dumps(item))
    if size > limit:
        raise errors.PayloadTooLarge(
            f"the item has {size:,} bytes on the wire; at most {limit:,} are allowed "
            "([realtime] max_item_bytes): score large data as a dataset (celeriac batch submit)"
        )


_json = msgspec.json.Encoder().encode
_MOST_BYTES = 6
"""Bytes of one character in JSON, at most: a control character is written as an escape."""


def _texts(items: Sequence[Any], limit: int) -> Collated:
    texts = [item for item in items if type(item) is str]
    fits = max(map(len, texts), default=0) * _MOST_BYTES + 2 <= limit
    if len(texts) == len(items) and fits:
        return Collated(texts, range(len(items)))
    texts, index = [], []
    bad: dict[int, errors.CeleriacError] = {}
    for position, item in enumerate(items):
        try:
            texts.append(_only_text(item, limit))
            index.append(position)
        except (errors.InvalidItem, errors.PayloadTooLarge) as error:
            bad[position] = error
    return Collated(texts, index, bad)


def _only_text(item: Any, limit: int) -> str:
    if type(item) is not str:
        raise errors.InvalidItem(f"the model takes text; found {_found(item)}")
    _check_size(item, limit)
    return item


def _checked(item: Any, schema: InputSchema, limits: Limits) -> Any:
    if schema.kind == "image":
        return _image(item, schema, limits)
    return _CHECKS[schema.kind](item, schema)


def _image(item: Any, schema: InputSchema, limits: Limits) -> Any:
    if isinstance(item, bytes):
        return images.decode(item, schema, limits.image_pixels)
    if isinstance(item, list) or hasattr(item, "__array_interface__"):
        return _array(item, schema)
    raise errors.InvalidItem(
        "the model takes an image: the bytes of a PNG, JPEG, WEBP or GIF file (in JSON "
        f'{{"$bytes": BASE64}}), or an array of shape {list(schema.shape)}; found {_found(item)}'
    )


def _any(item: Any, _schema: InputSchema) -> Any:
    return item


def _row(item: Any, schema: InputSchema) -> list[Any]:
    values = _row_values(item, schema.columns)
    return [
        value if type(value) is float and column.dtype == "float" and math.isfinite(value)
        else None if value is None and column.nullable
        else _CELLS[column.dtype](value, column.name)
        for value, column in zip(values, schema.columns, strict=True)
    ]


def _row_values(item: Any, columns: Sequence[Column]) -> Sequence[Any]:
    if isinstance(item, dict):
        return _by_name(item, columns)
    if hasattr(item, "ndim") and item.ndim == 1:
        item = item.tolist()
    if not isinstance(item, list):
        raise errors.InvalidItem(
            f"the model takes an object of columns, or a list in their order; found {_found(item)}"
        )
    if len(item) != len(columns):
        raise errors.InvalidItem(
            f"the model takes {len(columns)} columns ({_names(columns)}); found {_count(item)}"
        )
    return item


def _count(values: Sequence[Any]) -> str:
    return f"{len(values)} value{'' if len(values) == 1 else 's'}"


def _by_name(item: dict[str, Any], columns: Sequence[Column]) -> list[Any]:
    missing = [column for column in columns if column.name not in item]
    if missing:
        raise errors.InvalidItem(f"the item lacks {_names(missing)}; it has: {listed(item)}")
    if len(item) != len(columns):
        extra = item.keys() - {column.name for column in columns}
        raise errors.InvalidItem(
            f"the item has columns that the model does not take: {listed(extra)}"
        )
    return [item[column.name] for column in columns]


def _float(value: Any, name: str) -> float:
    if value is None:
        return math.nan
    if type(value) not in (int, float):
        raise _wrong(name, "a number or null", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise errors.InvalidItem(f"column {name!r}: infinity is not a value; send null if missing")
    return number


def _int(value: Any, name: str) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise _wrong(name, "a whole number", value)
    if not -(2**63) <= value < 2**63:
        raise errors.InvalidItem(f"column {name!r}: the whole number does not fit 64 bits")
    return value


def _bool(value: Any, name: str) -> bool:
    if type(value) is not bool:
        raise _wrong(name, "true or false", value)
    return value


def _text(value: Any, name: str) -> str:
    if type(value) is not str:
        raise _wrong(name, "text", value)
    return value


def _wrong(name: str, wanted: str, value: Any) -> errors.InvalidItem:
    return errors.InvalidItem(f"column {name!r}: the model takes {wanted}; found {_found(value)}")


_CELLS: dict[str, Callable[[Any, str], Any]] = {
    "float": _float, "int": _int, "bool": _bool, "text": _text,
}


def _array(item: Any, schema: InputSchema) -> Any:
    import numpy as np

    wanted = f"an array of numbers of shape {list(schema.shape)}"
    if isinstance(item, list) and not _all_numbers(item):
        raise errors.InvalidItem(
            f"the model takes {wanted}; the lists hold something else than numbers"
        )
    if not isinstance(item, list) and not hasattr(item, "__array_interface__"):
        raise errors.InvalidItem(f"the model takes {wanted}; found {_found(item)}")
    try:
        array = np.asarray(item)
    except (ValueError, OverflowError):
        raise errors.InvalidItem(
            f"the model takes {wanted}; the lists differ in length"
        ) from None
    if array.dtype.kind not in "iuf" and array.size:
        raise errors.InvalidItem(f"the model takes {wanted}; found values of type {array.dtype}")
    if array.shape != schema.shape:
        raise errors.InvalidItem(f"the model takes {wanted}; found shape {list(array.shape)}")
    with np.errstate(over="ignore"):
        return array.astype(schema.dtype, copy=False)


def _all_numbers(nested: list[Any]) -> bool:
    kinds = set(map(type, nested))
    if kinds == {list}:
        return all(map(_all_numbers, nested))
    return kinds <= {int, float}


_CHECKS: dict[str, Callable[[Any, InputSchema], Any]] = {
    "any": _any, "table": _row, "array": _array,
}


def _build(
    good: list[Any], index: list[int], bad: dict[int, errors.CeleriacError], schema: InputSchema
) -> Collated:
    if schema.kind == "any":
        return Collated(good, index, bad)
    import numpy as np

    if schema.kind in ARRAYS:
        empty = np.empty((0, *schema.shape), dtype=schema.dtype)
        return _finite(np.stack(good) if good else empty, index, bad, schema)
    if schema.frame:
        return Collated(_frame(good, schema.columns), index, bad)
    with np.errstate(over="ignore"):
        rows = np.array(good, dtype=schema.dtype).reshape(len(good), len(schema.columns))
    return _without_infinity(rows, index, bad, schema)


def _finite(
    arrays: Any, index: Sequence[int], bad: dict[int, errors.CeleriacError], schema: InputSchema
) -> Collated:
    """Arrays without those that hold NaN or infinity."""
    import numpy as np

    finite = np.isfinite(arrays)
    if finite.all():
        return Collated(arrays, index, bad)
    keep = finite.reshape(len(arrays), -1).all(axis=1)
    for row in np.flatnonzero(~keep).tolist():
        bad[index[row]] = errors.InvalidItem(
            f"the model takes an array of numbers of shape {list(schema.shape)}; found NaN, "
            f"infinity or a number beyond {schema.dtype}"
        )
    return Collated(arrays[keep], [index[row] for row in np.flatnonzero(keep).tolist()], bad)


def _frame(rows: list[list[Any]], columns: Sequence[Column]) -> Any:
    import numpy as np
    import pandas as pd

    dtypes: dict[str, Any] = {"float": np.float64, "int": np.int64, "bool": np.bool_, "text": "str"}
    values = zip(*rows, strict=True) if rows else ([] for _ in columns)
    return pd.DataFrame({
        column.name: pd.Series(list(cells), dtype=dtypes[column.dtype])
        for column, cells in zip(columns, values, strict=True)
    })


def _without_infinity(
    rows: Any, index: Sequence[int], bad: dict[int, errors.CeleriacError], schema: InputSchema
) -> Collated:
    import numpy as np

    infinite = np.isinf(rows)
    if not infinite.any():
        return Collated(rows, index, bad)
    keep = ~infinite.any(axis=1)
    for row in np.flatnonzero(~keep).tolist():
        name = schema.columns[int(infinite[row].argmax())].name
        bad[index[row]] = errors.InvalidItem(
            f"column {name!r}: infinity, or a number beyond {schema.dtype}; "
            "leave the cell empty if the value is missing"
        )
    return Collated(rows[keep], [index[row] for row in np.flatnonzero(keep).tolist()], bad)


def _found(value: Any) -> str:
    """What came instead, shortly, as a JSON writer would call it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value) if abs(value) < 10**30 else "a huge number"
    for kind, name in ((str, "text"), (dict, "an object"), (list, "a list"), (bytes, "bytes")):
        if isinstance(value, kind):
            return name
    return "an array" if hasattr(value, "ndim") else type(value).__name__


def _names(columns: Iterable[Column]) -> str:
    return listed(column.name for column in columns)


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    every = [repr(str(name)) for name in names]
    shown = ", ".join(every[:10]) or "nothing"
    return shown if len(every) <= 10 else f"{shown} and {len(every) - 10} more"
