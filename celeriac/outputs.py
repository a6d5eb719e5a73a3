"""From a model's raw output to answers: one dict per item, or whole columns for a dataset."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from celeriac import errors
from celeriac.messages import encode_item
from celeriac.registry.manifest import OutputSchema

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Output:
    """Raw answers of one forward pass over ``n`` items.

    ``values`` has shape ``(n,)`` or ``(n, outputs)``: labels of a classifier, numbers of a
    regressor; for the kind ``any`` it is a list. ``probabilities`` is ``(n, labels)``, one such
    array per output for several outputs, or None.
    """

    values: Any
    probabilities: np.ndarray[Any, Any] | list[np.ndarray[Any, Any]] | None = None


@dataclass(frozen=True)
class TableAnswers:
    """Answers to the rows of a table."""

    columns: dict[str, Any]
    """pyarrow arrays, one value per row that came in; null where the row failed."""
    errors: dict[int, errors.CeleriacError] = field(default_factory=dict)
    """Why a row failed, by its position."""


def concat(parts: Sequence[Output]) -> Output:
    """The output of several passes over neighbouring items as one."""
    import numpy as np

    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    if isinstance(first.values, list):
        return Output(values=[value for part in parts for value in part.values])
    probabilities: Any = None
    if isinstance(first.probabilities, list):
        columns = zip(*[part.probabilities or [] for part in parts], strict=True)
        probabilities = [np.concatenate(list(column)) for column in columns]
    elif first.probabilities is not None:
        probabilities = np.concatenate([part.probabilities for part in parts])
    return Output(
        values=np.concatenate([part.values for part in parts]), probabilities=probabilities
    )


def in_order(output: Output, order: np.ndarray[Any, Any]) -> Output:
    """The answers at the positions ``order``, one after the other."""
    values = output.values
    if isinstance(values, list):
        return Output(values=[values[at] for at in order.tolist()])
    probabilities: Any = output.probabilities
    if isinstance(probabilities, list):
        probabilities = [column[order] for column in probabilities]
    elif probabilities is not None:
        probabilities = probabilities[order]
    return Output(values=values[order], probabilities=probabilities)


def from_logits(
    logits: np.ndarray[Any, Any], labels: list[Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Labels, and probabilities ``(n, labels)``, from logits.

    Logits are ``(n, labels)``; for two labels also ``(n,)`` or ``(n, 1)``, of the second. Raises
    ValueError if they have another shape.
    """
    import numpy as np

    logits = logits.astype(np.float64)
    if len(labels) == 2 and (logits.ndim == 1 or logits.shape[1] == 1):
        positive = logits.reshape(-1)
        logits = np.column_stack([np.zeros_like(positive), positive])  # softmax of it is sigmoid
    if logits.ndim != 2 or logits.shape[1] != len(labels):
        raise ValueError(f"the model gave shape {logits.shape} for {len(labels)} labels")
    with np.errstate(invalid="ignore", over="ignore"):
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = powers / powers.sum(axis=1, keepdims=True)
    names = np.empty(len(labels), dtype=object)
    names[:] = labels
    return names[logits.argmax(axis=1)], probabilities


# --- one dict per item ---------------------------------------------------------------------------


def answers(output: Output, schema: OutputSchema, model: str, version: int) -> list[dict[str, Any]]:
    """The wire form of each answer: a prediction, or ``{"error": {"code", "message"}}``."""
    named = {"model": model, "version": version}
    if schema.kind == "any":
        return [_any_answer(value, named) for value in output.values]
    columns = _columns(output, schema)
    if schema.outputs == 1:
        return [_answer(column_values, named) for column_values in _rows(columns[0])]
    each = [_rows(column) for column in columns]
    return [_several(row, named) for row in zip(*each, strict=True)]


def _any_answer(value: Any, named: Mapping[str, Any]) -> dict[str, Any]:
    answer = {**named}
    try:
        answer["value"] = encode_item(value)
        msgspec.json.encode(answer)  # what fails here would fail in a reply, with all beside it
    except (errors.InvalidItem, UnicodeEncodeError):
        return _error(_not_json())
    return answer


def _answer(values: dict[str, Any] | errors.ItemError, named: Mapping[str, Any]) -> dict[str, Any]:
    return _error(values) if isinstance(values, errors.ItemError) else {**named, **values}


def _several(
    row: Sequence[dict[str, Any] | errors.ItemError], named: Mapping[str, Any]
) -> dict[str, Any]:
    answer: dict[str, Any] = dict(named)
    for values in row:
        if isinstance(values, errors.ItemError):
            return _error(values)
        for key, value in values.items():
            answer.setdefault(key, []).append(value)
    return answer


def _error(error: errors.ItemError) -> dict[str, Any]:
    return {"error": error.to_wire()}


@dataclass(frozen=True)
class _Column:
    """One output: labels with the probability of each, or numbers."""

    labels: list[Any] | None
    values: Any
    """Position of each label (-1: not one of them), or the number."""
    probability: Any = None
    """Of the predicted label, by item."""


def _columns(output: Output, schema: OutputSchema) -> list[_Column]:
    import numpy as np

    values = np.asarray(output.values)
    if schema.outputs == 1:
        return [_column(values, output.probabilities, list(schema.labels), schema)]
    given: Any = output.probabilities
    probabilities = [None] * schema.outputs if given is None else given
    labels = [list(of_one) for of_one in schema.labels] or [[]] * schema.outputs
    return [
        _column(values[:, number], probabilities[number], labels[number], schema)
        for number in range(schema.outputs)
    ]


def _column(values: Any, probabilities: Any, labels: list[Any], schema: OutputSchema) -> _Column:
    import numpy as np

    if schema.kind == "regressor":
        return _Column(None, values.astype(np.float64, copy=False))
    found = _positions(values, labels)
    if probabilities is None:
        return _Column(labels, found)
    return _Column(labels, found, probabilities[np.arange(len(found)), found].astype(np.float64))


def _positions(values: Any, labels: list[Any]) -> Any:
    """Position of each value among the labels; -1: it is none of them."""
    import numpy as np

    known = np.asarray(labels)
    if len(values) >= _MANY and values.dtype.kind in "iu" and known.dtype.kind in "iu":
        order = known.argsort()
        nearest = np.searchsorted(known, values, sorter=order).clip(max=len(known) - 1)
        found = order[nearest]
        return np.where(known[found] == values, found, -1)
    position = {label: number for number, label in enumerate(labels)}
    return np.array([position.get(value, -1) for value in values.tolist()], dtype=np.int64)


_MANY = 256
"""Values from which on arrays are faster than a dict."""


def _rows(column: _Column) -> list[dict[str, Any] | errors.ItemError]:
    if column.labels is None:
        return [
            {"value": value} if math.isfinite(value) else _not_finite()
            for value in column.values.tolist()
        ]
    labels = [*column.labels, None]  # -1 is the last
    if column.probability is None:
        return [
            _unknown_label() if position < 0 else {"label": labels[position]}
            for position in column.values.tolist()
        ]
    return [
        {"label": labels[position], "probability": probability}
        if position >= 0 and math.isfinite(probability)
        else (_unknown_label() if position < 0 else _not_finite())
        for position, probability in zip(
            column.values.tolist(), column.probability.tolist(), strict=True
        )
    ]


def _not_finite() -> errors.ItemError:
    return errors.NonFiniteOutput()


def _not_json() -> errors.ItemError:
    return errors.NonFiniteOutput("the model answered with what JSON cannot hold")


def _json_text(value: Any) -> str | None:
    """None for what JSON cannot hold: NaN, or half of a surrogate pair, say."""
    try:
        text = json.dumps(encode_item(value), ensure_ascii=False)
        text.encode()
    except (errors.InvalidItem, UnicodeEncodeError):
        return None
    return text


def _unknown_label() -> errors.ItemError:
    return errors.ModelFailed("the model answered with a label that is not one of its own")


# --- whole columns -------------------------------------------------------------------------------


def answer_columns(schema: OutputSchema) -> list[str]:
    """Names of the columns that a dataset gets, in order."""
    suffixes = [""] if schema.outputs == 1 else [f"_{number}" for number in range(schema.outputs)]
    kinds = ["prediction"]
    if schema.kind == "classifier" and schema.probabilities:
        kinds.append("probability")
    return [f"{kind}{suffix}" for suffix in suffixes for kind in kinds]


def table_answers(
    output: Output | None,
    schema: OutputSchema,
    index: Sequence[int],
    failed: Mapping[int, errors.CeleriacError],
    rows: int,
) -> TableAnswers:
    """Answers for a table of ``rows`` rows.

    ``output`` (None: no row could be scored) belongs to the rows ``index``; the others are in
    ``failed``. Types of columns depend on the schema alone, so all parts of a dataset agree.
    """
    import numpy as np
    import pyarrow as pa

    bad = dict(failed)
    where = np.arange(rows) if index == range(rows) else np.asarray(index, dtype=np.int64)
    if schema.kind == "any":
        texts: list[str | None] = [None] * rows
        for row, value in zip(index, output.values if output else [], strict=True):
            texts[row] = _json_text(value)
            if texts[row] is None:
                bad[row] = _not_json()
        return TableAnswers({"prediction": pa.array(texts, pa.string())}, bad)
    columns = _columns(output, schema) if output else _no_columns(schema)
    good = np.ones(len(where), dtype=bool)
    for column in columns:
        good &= _mark_bad(column, where, bad)
    names, arrays = answer_columns(schema), []
    for column in columns:
        arrays.append(_predictions(column, where[good], good, rows))
        if schema.kind == "classifier" and schema.probabilities:
            arrays.append(_scatter(column.probability[good], where[good], rows))
    return TableAnswers(dict(zip(names, arrays, strict=True)), bad)


def together(parts: Sequence[TableAnswers]) -> TableAnswers:
    """Answers to neighbouring slices of a table as one."""
    import pyarrow as pa

    columns = {
        name: pa.concat_arrays([part.columns[name] for part in parts]) for name in parts[0].columns
    }
    bad: dict[int, errors.CeleriacError] = {}
    start = 0
    for part in parts:
        bad.update((start + row, error) for row, error in part.errors.items())
        start += len(next(iter(part.columns.values())))
    return TableAnswers(columns, bad)


def _no_columns(schema: OutputSchema) -> list[_Column]:
    import numpy as np

    nothing = np.empty(0)
    several = schema.outputs > 1
    return [
        _Column(list(schema.labels[number] if several else schema.labels), nothing, nothing)
        if schema.kind == "classifier" else _Column(None, nothing)
        for number in range(schema.outputs)
    ]


def _mark_bad(column: _Column, where: Any, bad: dict[int, errors.CeleriacError]) -> Any:
    import numpy as np

    unknown = np.zeros(len(where), dtype=bool)
    numbers = column.values
    if column.labels is not None:
        unknown = column.values < 0
        numbers = column.probability if column.probability is not None else column.values
    infinite = ~np.isfinite(numbers)
    bad.update((row, _not_finite()) for row in where[infinite].tolist())
    bad.update((row, _unknown_label()) for row in where[unknown].tolist())
    return ~(unknown | infinite)


def _predictions(column: _Column, where: Any, good: Any, rows: int) -> Any:
    import numpy as np
    import pyarrow as pa

    if column.labels is None:
        return _scatter(column.values[good], where, rows)
    if rows and len(where) == rows:  # each row, in order
        return _label_array(column.labels).take(pa.array(column.values))
    positions = np.full(rows, -1, dtype=np.int64)
    positions[where] = column.values[good]
    return _label_array(column.labels).take(pa.array(positions, mask=positions < 0))


def _label_array(labels: list[Any]) -> Any:
    import pyarrow as pa

    kinds = {type(label) for label in labels}
    if len(kinds) == 1 and kinds <= {str, int, bool, float}:
        return pa.array(labels)
    return pa.array([str(label) for label in labels], pa.string())


def _scatter(values: Any, where: Any, rows: int) -> Any:
    import numpy as np
    import pyarrow as pa

    if len(values) == rows:  # each row, in order
        return pa.array(values, pa.float64())
    whole, failed = np.zeros(rows, dtype=np.float64), np.ones(rows, dtype=bool)
    whole[where], failed[where] = values, False
    return pa.array(whole, mask=failed)
