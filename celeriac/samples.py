"""Examples of a model's input, as somebody has them in a notebook: what they say of its schema."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from celeriac import errors
from celeriac.messages import encode_item
from celeriac.registry.manifest import Column, InputSchema


@dataclass(frozen=True)
class Samples:
    """A few examples, three times."""

    raw: Any
    """As the model in memory takes them."""
    items: list[Any]
    """As they travel on the wire."""
    schema: InputSchema


def as_samples(
    examples: Any, *, count: int, text_column: str = "text",
    names: Sequence[str] | None = None, dtype: Literal["float32", "float64"] | None = None,
) -> Samples:
    """Pick ``count`` examples, evenly spread, and infer the input schema from all of them.

    ``names`` are the columns that the model knows, if it was fitted on a frame. ``dtype`` is what
    the model wants its numbers in, if it wants one (then it wants no frame).

    Takes a list of texts, a pandas frame, a list of dicts, or an array (a list of lists, a torch
    tensor) whose first axis counts the examples. Raises RegistryError for anything else.
    """
    if not hasattr(examples, "__len__") or isinstance(examples, dict):
        raise _not_examples(type(examples).__name__)
    if not hasattr(examples, "columns") and len(examples) == 0:
        raise _no_examples()
    examples = _as_numpy(examples)
    if hasattr(examples, "iloc") and not hasattr(examples, "columns"):  # a pandas series
        examples = examples.tolist()
    if hasattr(examples, "columns"):
        return _from_frame(examples, count, dtype)
    if isinstance(examples, (list, tuple)) and examples and isinstance(examples[0], dict):
        return _from_records(examples, count, dtype)
    if _are_texts(examples):
        texts = [str(text) for text in _spread(examples, count)]
        column = Column(name=text_column, dtype="text")
        return Samples(texts, texts, InputSchema(kind="text", columns=(column,)))
    return _from_array(examples, count, names, dtype)


def as_items(examples: Any, *, count: int, schema: InputSchema) -> Samples:
    """Pick ``count`` examples of a schema that is given. Raises RegistryError or InvalidItem."""
    chosen = _spread(_as_numpy(examples), count)
    rows = chosen.to_dict("records") if hasattr(chosen, "to_dict") else list(chosen)
    return Samples(chosen, [encode_item(_without_nan(row)) for row in rows], schema)


def _as_numpy(examples: Any) -> Any:
    """A torch tensor as an array; anything else as it is."""
    return examples.detach().cpu().numpy() if hasattr(examples, "detach") else examples


def _spread(examples: Any, count: int) -> Any:
    total = len(examples)
    if total == 0:
        raise _no_examples()
    count = max(1, min(count, total))
    step = max(1, (total - 1) // max(1, count - 1))
    positions = [number * step for number in range(count)]
    if hasattr(examples, "iloc"):
        return examples.iloc[positions].reset_index(drop=True)
    return [examples[p] for p in positions] if isinstance(examples, (list, tuple)) else (
        examples[positions]
    )


def _not_examples(found: str) -> errors.RegistryError:
    return errors.RegistryError(
        "examples are a list of texts, a frame, or an array whose first axis counts them; "
        f"found {found}"
    )


def _no_examples() -> errors.RegistryError:
    return errors.RegistryError("give at least one example of the model's input")


def _are_texts(examples: Any) -> bool:
    if getattr(examples, "ndim", 1) != 1 or hasattr(examples, "tocsr"):
        return False
    return len(examples) > 0 and all(isinstance(text, str) for text in examples)


def _from_records(examples: Sequence[Any], count: int, dtype: Any) -> Samples:
    import pandas as pd

    return _from_frame(pd.DataFrame(list(examples)), count, dtype)


def _from_frame(
    examples: Any, count: int, dtype: Literal["float32", "float64"] | None
) -> Samples:
    if not examples.columns.is_unique:
        twice = examples.columns[examples.columns.duplicated()][0]
        raise errors.RegistryError(f"two columns of the examples are named {twice!r}: rename one")
    columns = tuple(_frame_column(name, examples[name]) for name in examples.columns)
    frame = _with_missing(_spread(examples, count), examples, columns)
    items = [encode_item(_without_nan(row)) for row in frame.to_dict("records")]
    if dtype is None:
        return Samples(frame, items, InputSchema(kind="table", columns=columns, frame=True))
    texts = [column.name for column in columns if column.dtype == "text"]
    if texts:
        raise errors.RegistryError(f"column {texts[0]!r} holds text; the model takes numbers only")
    schema = InputSchema(kind="table", columns=columns, dtype=dtype)
    return Samples(frame.to_numpy(dtype=dtype), items, schema)


def _with_missing(chosen: Any, examples: Any, columns: Sequence[Column]) -> Any:
    """With an example more for each column of texts that lacks one, if none of ``chosen`` does:
    what the model makes of that is tried, too."""
    import pandas as pd

    for name in (column.name for column in columns if column.nullable):
        if not chosen[name].isna().any():
            lacking = examples[examples[name].isna()].head(1)
            chosen = pd.concat([chosen, lacking], ignore_index=True)
    return chosen


def _frame_column(name: Any, series: Any) -> Column:
    import pandas as pd

    if not isinstance(name, str):
        raise errors.RegistryError(f"columns need names that are texts; found {name!r}")
    kinds: tuple[tuple[Any, Literal["float", "int", "bool", "text"]], ...] = (
        (pd.api.types.is_bool_dtype, "bool"), (pd.api.types.is_integer_dtype, "int"),
        (pd.api.types.is_float_dtype, "float"), (pd.api.types.is_string_dtype, "text"),
    )
    present = series.dropna() if series.dtype == object and not series.isna().all() else series
    for is_kind, dtype in kinds:
        if is_kind(series.dtype if dtype != "text" else present):
            nullable = dtype == "text" and bool(series.isna().any())
            return Column(name=name, dtype=dtype, nullable=nullable)
    raise errors.RegistryError(
        f"column {name!r} is of type {series.dtype}; a model's columns hold numbers, "
        "true and false, or text: convert it in the pipeline's input"
    )


def _from_array(
    examples: Any, count: int, names: Sequence[str] | None,
    dtype: Literal["float32", "float64"] | None,
) -> Samples:
    import numpy as np

    try:
        array = np.asarray(examples)
    except ValueError as error:
        raise errors.RegistryError("the examples differ in length") from error
    if array.dtype.kind not in "iufb" or array.ndim < 2:
        raise _not_examples(
            f"{type(examples).__name__} of shape {array.shape} and type {array.dtype}"
        )
    found: Literal["float32", "float64"] = "float32" if array.dtype == np.float32 else "float64"
    chosen = _spread(array.astype(dtype) if dtype else array, count)
    if array.ndim > 2:
        schema = InputSchema(kind="array", shape=array.shape[1:], dtype=dtype or found)
        return Samples(chosen, [encode_item(item) for item in chosen], schema)
    if names is not None and dtype is None:
        import pandas as pd

        return _from_frame(pd.DataFrame(chosen, columns=list(names)), count, None)
    cell: Literal["bool", "float"] = "bool" if array.dtype.kind == "b" else "float"
    columns = tuple(Column(name=f"x{number}", dtype=cell) for number in range(array.shape[1]))
    schema = InputSchema(kind="table", columns=columns, dtype=dtype or found)
    rows = [encode_item([_without_nan(value) for value in row]) for row in chosen.tolist()]
    return Samples(chosen, rows, schema)


def _without_nan(value: Any) -> Any:
    """``value`` with None for NaN, in a dict too."""
    if isinstance(value, dict):
        return {key: _without_nan(cell) for key, cell in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
