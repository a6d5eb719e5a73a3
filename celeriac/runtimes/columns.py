"""What a network or a graph gave for a batch, one array for each of its outputs, as answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from celeriac.outputs import Output
from celeriac.registry.manifest import OutputSchema

Choose = Callable[[Any, list[Any]], tuple[Any, Any]]
"""From the scores of one output and its labels to the labels chosen and their probabilities."""


def classified(columns: Sequence[Any], schema: OutputSchema, choose: Choose) -> Output:
    """Answers of a classifier. Raises ValueError if it has another number of outputs."""
    several = schema.outputs > 1
    labels = schema.labels if several else (schema.labels,)
    if len(columns) != len(labels):
        raise ValueError(f"the model gave {len(columns)} outputs, not {len(labels)}")
    pairs = [choose(scores, list(of)) for scores, of in zip(columns, labels, strict=True)]
    if not several:
        return Output(values=pairs[0][0], probabilities=pairs[0][1])
    return Output(
        values=np.column_stack([values for values, _ in pairs]).astype(object),
        probabilities=[probabilities for _, probabilities in pairs],
    )


def values_of(columns: Sequence[Any]) -> Any:
    """Values of a regressor: ``(n,)``, or ``(n, outputs)`` of several."""
    values = np.column_stack(columns) if len(columns) > 1 else columns[0]
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def unless_finite(inputs: Any, run: Callable[[Any], list[Any]]) -> list[Any]:
    """What ``run`` makes of ``(n, ...)`` inputs, and NaN of items that hold NaN or infinity, which
    would be rounded to numbers."""
    if not isinstance(inputs, np.ndarray) or inputs.dtype.kind != "f":
        return run(inputs)
    sound = np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1)

    def where_sound(array: Any, other: float) -> Any:
        return np.where(sound.reshape(-1, *[1] * (array.ndim - 1)), array, array.dtype.type(other))

    columns = run(where_sound(inputs, 0.0))
    return [where_sound(one, np.nan) if one.dtype.kind == "f" else one for one in columns]
