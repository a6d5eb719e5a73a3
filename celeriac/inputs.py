"""From items and tables to what a model takes: decoded, checked by the schema, whole arrays.

One bad item never spoils the others: it gets an error of its own, and the rest goes on.
pandas, pyarrow and numpy are imported only where a schema needs them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from celeriac import alike, errors, images
from celeriac.messages import decode_item
from celeriac.registry.manifest import Column, InputSchema

TEXT_COLUMN = "text"
IMAGE_COLUMN = "image"
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""What some programs write between the columns of a CSV file instead of commas."""
"""Column of a dataset that holds the bytes of image files."""
ARRAYS = ("array", "image")
"""Kinds of which the model is given one array."""


@dataclass(frozen=True)
class Collated:
    """Items as a model takes them."""

    inputs: Any
    """A list, an array ``(n, *shape)``, or a pandas frame of ``n`` rows."""
    index: Sequence[int]
    """Position of each of the ``n`` among the items or rows that came in."""
    errors: dict[int, errors.CeleriacError] = field(default_factory=dict)
    """What is wrong with the others, by position."""


def take(inputs: Any, start: int, stop: int) -> Any:
    """Rows ``start`` to ``stop`` of collated inputs, of whatever kind."""
    return inputs.iloc[start:stop] if hasattr(inputs, "iloc") else inputs[start:stop]


# --- items -------------------------------------------------------------------------------------


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
            check_size(item, limits.item_bytes)
            good.append(_checked(decode_item(item), schema, limits))
            index.append(position)
        except (errors.InvalidItem, errors.PayloadTooLarge) as error:
            bad[position] = error
        except MemoryError:
            bad[position] = errors.ResourceExhausted("not enough memory to decode this item")
    return _build(good, index, bad, schema)


def check_size(item: Any, limit: int) -> None:
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
    check_size(item, limit)
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
        "the model takes an image: the bytes of a PNG, JPEG, WEBP or GIF file, or an array of "
        f"shape {list(schema.shape)}; found {_found(item)}"
    )


def _any(item: Any, _schema: InputSchema) -> Any:
    return item


def _row(item: Any, schema: InputSchema) -> list[Any]:
    values = _row_values(item, schema.columns)
    return [
        value if type(value) is float and column.dtype == "float" and math.isfinite(value)
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
        raise errors.InvalidItem(f"the item lacks {_names(missing)}; it has: {_listed(item)}")
    if len(item) != len(columns):
        extra = item.keys() - {column.name for column in columns}
        raise errors.InvalidItem(
            f"the item has columns that the model does not take: {_listed(extra)}"
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
    return _listed(column.name for column in columns)


def _listed(names: Iterable[str]) -> str:
    every = [repr(str(name)) for name in names]
    shown = ", ".join(every[:10]) or "nothing"
    return shown if len(every) <= 10 else f"{shown} and {len(every) - 10} more"


# --- tables ------------------------------------------------------------------------------------


def columns_needed(
    schema: InputSchema, available: Sequence[str], text_column: str | None = None
) -> list[str]:
    """The columns of a dataset that the model reads, in the model's order.

    ``text_column`` names the one that a text model reads. Raises DatasetError, which lists what
    is missing and what there is.
    """
    if schema.kind == "any":
        return list(available)
    wanted = _wanted(schema, available, text_column)
    missing = [name for name in wanted if name not in available]
    if missing:
        hint = _why_columns_lack(available, schema)
        raise errors.DatasetError(
            f"the dataset lacks {_listed(missing)}; it has: {_listed(available)}{hint}"
        )
    return wanted


def _why_columns_lack(available: Sequence[str], schema: InputSchema) -> str:
    """What to do about missing columns, if that can be guessed; begins with a semicolon."""
    for separator, name in _SEPARATORS.items():
        if len(available) == 1 and separator in available[0]:
            return f"; it looks separated by {name}: write it with commas"
    return "; name the column that holds the text" if schema.kind == "text" else ""


def _wanted(
    schema: InputSchema, available: Sequence[str], text_column: str | None
) -> list[str]:
    if schema.kind == "text":
        return [text_column or (schema.columns[0].name if schema.columns else TEXT_COLUMN)]
    if text_column is not None:
        raise errors.DatasetError(f"a text column ({text_column!r}) is for models that take text")
    if schema.kind == "image" and not schema.columns and "x0" not in available:
        return [IMAGE_COLUMN]
    if schema.kind in ARRAYS and not schema.columns:
        return [f"x{number}" for number in range(math.prod(schema.shape))]
    return [column.name for column in schema.columns]


def collate_table(
    table: Any, schema: InputSchema, *, text_column: str | None = None,
    limits: Limits | None = None,
) -> Collated:
    """Check and convert a whole pyarrow table, column by column.

    A bad row gets an InvalidItem. Raises DatasetError if a column is missing or of a wrong type.
    """
    names = columns_needed(schema, table.column_names, text_column)
    if schema.kind == "any":
        return Collated(table.to_pylist(), range(table.num_rows))
    if schema.kind == "text":
        return _text_table(table.column(names[0]), names[0])
    if names == [IMAGE_COLUMN]:
        return _image_table(table.column(IMAGE_COLUMN), schema, limits or Limits())
    columns = schema.columns if schema.kind == "table" else [Column(name=name) for name in names]
    return _column_table(table, columns, schema)


def _text_table(column: Any, name: str) -> Collated:
    column = _as_text(column, name)
    texts = column.drop_null().to_pylist()
    if not column.null_count:
        return Collated(texts, range(len(texts)))
    valid = column.is_valid().to_pylist()
    return Collated(
        texts, [row for row, is_valid in enumerate(valid) if is_valid],
        {row: _empty(name) for row, is_valid in enumerate(valid) if not is_valid},
    )


def _image_table(column: Any, schema: InputSchema, limits: Limits) -> Collated:
    """Files of images; how large one may be, its pixels say."""
    import numpy as np
    import pyarrow as pa

    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise _wrong_type(IMAGE_COLUMN, "the bytes of image files", column.type)
    pixels: list[Any] = []
    index: list[int] = []
    bad: dict[int, errors.CeleriacError] = {}
    for row, content in enumerate(column.to_pylist()):
        if content is None:
            bad[row] = _empty(IMAGE_COLUMN)
            continue
        try:
            pixels.append(images.decode_bytes(content, schema, limits.image_pixels))
            index.append(row)
        except (errors.InvalidItem, errors.PayloadTooLarge) as error:
            bad[row] = error
    stack = np.stack(pixels) if pixels else np.empty((0, *schema.shape), dtype=np.uint8)
    return Collated(images.scaled(stack, schema), index, bad)


def _column_table(table: Any, columns: Sequence[Column], schema: InputSchema) -> Collated:
    import numpy as np

    good = _number_table(table, columns, schema)
    if good is not None:
        return Collated(good, range(table.num_rows))
    wrong = np.zeros((len(columns), table.num_rows), dtype=bool)
    values = {}
    for number, column in enumerate(columns):
        values[column.name], wrong[number] = _cells(table.column(column.name), column, schema)
    keep = ~wrong.any(axis=0)
    bad: dict[int, errors.CeleriacError] = {
        row: _bad_cell(columns[int(wrong[:, row].argmax())], schema)
        for row in np.flatnonzero(~keep).tolist()
    }
    index = np.flatnonzero(keep).tolist() if bad else range(table.num_rows)
    return Collated(_together(values, keep if bad else None, schema), index, bad)


def _number_table(table: Any, columns: Sequence[Column], schema: InputSchema) -> Any:
    """Columns of floating numbers as one array; None if it takes more than that, or a cell is bad.

    What nearly all rows of nearly all tables are is worth a way without copies and masks for each
    column.
    """
    import numpy as np
    import pyarrow as pa

    cells = [table.column(column.name) for column in columns]
    if schema.frame or any(column.dtype != "float" for column in columns) or any(
        not pa.types.is_floating(column.type) for column in cells
    ):
        return None
    rows = np.empty((table.num_rows, len(cells)), dtype=schema.dtype)
    with np.errstate(over="ignore"):
        for number, column in enumerate(cells):
            start = 0
            for chunk in column.chunks:
                rows[start : start + len(chunk), number] = chunk.to_numpy(zero_copy_only=False)
                start += len(chunk)
    is_good = np.isfinite(rows).all() if schema.kind in ARRAYS else not np.isinf(rows).any()
    if not is_good:
        return None
    return rows.reshape(len(rows), *schema.shape) if schema.kind in ARRAYS else rows


def _together(values: dict[str, Any], keep: Any, schema: InputSchema) -> Any:
    if schema.frame:
        import pandas as pd

        frame = pd.DataFrame(values)
        return frame if keep is None else frame[keep].reset_index(drop=True)
    import numpy as np

    rows = np.column_stack(list(values.values()))
    rows = (rows if keep is None else rows[keep]).astype(schema.dtype, copy=False)
    return rows.reshape(len(rows), *schema.shape) if schema.kind in ARRAYS else rows


def _cells(column: Any, wanted: Column, schema: InputSchema) -> tuple[Any, Any]:
    """One column as an array, and a mask of its bad cells."""
    read = {"float": _float_cells, "int": _int_cells, "bool": _bool_cells, "text": _text_cells}
    return read[wanted.dtype](column, wanted.name, schema)


def _float_cells(column: Any, name: str, schema: InputSchema) -> tuple[Any, Any]:
    import numpy as np
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
            or pa.types.is_null(kind)):
        raise _wrong_type(name, "numbers", kind)
    values = column.cast(pa.float64(), safe=False).to_numpy()
    with np.errstate(over="ignore"):
        wrong = np.isinf(values if schema.frame else values.astype(schema.dtype))
    return values, wrong if schema.kind == "table" else wrong | np.isnan(values)


def _int_cells(column: Any, name: str, _schema: InputSchema) -> tuple[Any, Any]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise _wrong_type(name, "whole numbers", kind)
    wrong = column.is_null(nan_is_null=True).to_numpy()
    if pa.types.is_floating(kind):
        values = column.to_numpy()
        with np.errstate(invalid="ignore"):
            wrong = wrong | (np.floor(values) != values) | (np.abs(values) >= 2.0**63)
        return np.where(wrong, 0, values).astype(np.int64), wrong
    if pa.types.is_uint64(kind):
        wrong = wrong | pc.greater(column.fill_null(0), pa.scalar(2**63 - 1, kind)).to_numpy()
    column = column.cast(pa.int64(), safe=False)
    return column.fill_null(0).to_numpy(), wrong


def _bool_cells(column: Any, name: str, _schema: InputSchema) -> tuple[Any, Any]:
    import pyarrow as pa

    if not (pa.types.is_boolean(column.type) or pa.types.is_null(column.type)):
        raise _wrong_type(name, "true or false", column.type)
    filled = column.cast(pa.bool_()).fill_null(False)
    return filled.to_numpy(), column.is_null().to_numpy()


def _text_cells(column: Any, name: str, _schema: InputSchema) -> tuple[Any, Any]:
    column = _as_text(column, name)
    return column.fill_null("").to_pandas(), column.is_null().to_numpy()


def _as_text(column: Any, name: str) -> Any:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    texts = (pa.string(), pa.large_string(), pa.string_view(), pa.null())
    if kind not in texts:
        raise _wrong_type(name, "text", column.type)
    return column if column.type == pa.string() else column.cast(pa.large_string())


def _wrong_type(name: str, wanted: str, found: Any) -> errors.DatasetError:
    return errors.DatasetError(
        f"column {name!r} of the dataset is of type {found}; the model takes {wanted}"
    )


def _empty(name: str) -> errors.InvalidItem:
    return errors.InvalidItem(f"column {name!r} is empty in this row")


def _bad_cell(column: Column, schema: InputSchema) -> errors.InvalidItem:
    if column.dtype == "float":
        limits = "NaN, infinity" if schema.kind in ARRAYS else "infinity"
        empty = "empty, " if schema.kind in ARRAYS else ""
        return errors.InvalidItem(
            f"column {column.name!r} is {empty}{limits} or beyond the model's numbers in this row"
        )
    if column.dtype == "int":
        return errors.InvalidItem(f"column {column.name!r} is no whole number in this row")
    return _empty(column.name)
