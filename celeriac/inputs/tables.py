"""Tables of a dataset: checked and converted column by column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from celeriac import errors, images
from celeriac.inputs.collated import ARRAYS, Collated
from celeriac.inputs.items import Limits, listed
from celeriac.registry.manifest import Column, InputSchema

_TEXT_COLUMN = "text"
IMAGE_COLUMN = "image"
"""Column of a dataset that holds the bytes of image files."""
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""What some programs write between the columns of a CSV file instead of commas."""


def columns_needed(
    schema: InputSchema, available: Sequence[str], text_column: str | None = None,
    called: str = "the dataset",
) -> list[str]:
    """The columns of a dataset that the model reads, in the model's order.

    ``text_column`` names the one that a text model reads. Raises DatasetError, which lists what
    is missing, in what is ``called`` so, and what there is.
    """
    if schema.kind == "any":
        return list(available)
    wanted = _wanted(schema, available, text_column)
    missing = [name for name in wanted if name not in available]
    if missing:
        hint = _why_columns_lack(available, schema, missing)
        raise errors.DatasetError(
            f"{called} lacks {listed(missing)}; it has: {listed(available)}{hint}"
        )
    return wanted


def _why_columns_lack(
    available: Sequence[str], schema: InputSchema, missing: Sequence[str]
) -> str:
    """What to do about missing columns, if that can be guessed; begins with a semicolon."""
    for separator, name in _SEPARATORS.items():
        if len(available) == 1 and separator in available[0]:
            return f"; it looks separated by {name}: write it with commas"
    if schema.kind == "text":
        return "; name the column that holds the text"
    if "x0" in missing and schema.kind == "table":
        return (
            "; the examples of this model were an array, so its columns are x0, x1 and so on, in "
            "their order: rename these, or register it with a frame as examples"
        )
    return ""


def _wanted(
    schema: InputSchema, available: Sequence[str], text_column: str | None
) -> list[str]:
    if schema.kind == "text":
        return [text_column or (schema.columns[0].name if schema.columns else _TEXT_COLUMN)]
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
    if wanted.nullable:
        return _nullable_texts(column, wanted.name)
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


def _nullable_texts(column: Any, name: str) -> tuple[Any, Any]:
    import numpy as np

    texts = _as_text(column, name).to_pandas().astype("str")  # of nulls alone it would be objects
    return texts, np.zeros(len(texts), dtype=bool)


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
