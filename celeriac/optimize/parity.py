"""Whether two forms of a model say the same. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from celeriac import errors
from celeriac.outputs import Output
from celeriac.registry.manifest import OutputSchema

_JUST = 1.0001
"""This share of what is allowed is still that, in sums of float32: a probability of a forest of 100
trees goes in steps of 0.01, which is just what is allowed."""


_ROUNDING = 1e-9
"""A spread of this share of an output's values is none: that output is constant."""


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """How far another form may be from the original."""

    agreement: float = 1.0
    """Share of the samples that get the same label, at least."""
    error: float = 0.01
    """Of any probability; of a regressor's values, in shares of their output's standard
    deviation. Also what R2 may lose: values so near may be a little farther from the truth."""
    metric_drop: float = 0.0
    """Accuracy, or R2 beyond ``error``, on the samples' own labels that may be lost."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What was found on the samples."""

    samples: int
    agreement: float | None = None
    """None: the model has no labels."""
    error: float | None = None
    """None: it has neither probabilities nor values."""
    metric: float | None = None
    """If the samples have labels: accuracy, or R2 of a regressor."""
    metric_before: float | None = None
    metric_name: str = "accuracy"
    problem: str = ""
    """Why it is not the same model; "": it is."""


def compare(
    original: Output, other: Output, schema: OutputSchema, allowed: Allowed,
    labels: Sequence[Any] | None = None,
) -> Parity:
    """Compare the answers of both to the same samples."""
    before, after = _values(original), _values(other)
    if before.shape != after.shape:
        return Parity(samples=len(before), problem=f"gives {len(after)} answers")
    if schema.kind == "regressor":
        found = Parity(
            samples=len(before), error=_value_error(before, after), metric_name="R2",
            metric=_r2(after, labels), metric_before=_r2(before, labels),
        )
        allowed = replace(allowed, metric_drop=allowed.metric_drop + allowed.error)
    else:
        found = Parity(
            samples=len(before), agreement=float(np.mean(before == after)),
            error=_probability_error(original.probabilities, other.probabilities),
            metric=_accuracy(after, labels), metric_before=_accuracy(before, labels),
        )
    return _judged(found, allowed)


def golden_problem(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], allowed: Allowed
) -> str:
    """Why answers to the golden examples, as callers get them, are not those of the same model; "":
    they are. Values of a regressor say nothing without their spread."""
    pairs = [*zip(before, after, strict=True)]
    for number, (one, new) in enumerate(pairs, start=1):
        if "error" in new and "error" not in one:
            return f"golden example {number} fails: {new['error']['message']}"
    other = sum(one.get("label") != new.get("label") for one, new in pairs)
    if other > math.ceil((1 - allowed.agreement) * len(pairs)):
        return f"other labels for {other} of {len(pairs)} golden examples"
    error = max((
        float(np.abs(np.subtract(one["probability"], new["probability"])).max())
        for one, new in pairs if "probability" in one and one["label"] == new["label"]
    ), default=0.0)
    if error > allowed.error * _JUST:
        return f"off by {error:.2g} with a golden example; {allowed.error:g} is allowed"
    return ""


def check_labels(schema: OutputSchema, labels: Sequence[Any]) -> None:
    """Raises RequestError unless answers of ``schema`` can be held against ``labels``."""
    if schema.outputs > 1:
        raise errors.RequestError(
            f"labels are for models of one output, and this one has {schema.outputs}"
        )
    wrong = [label for label in labels if _number(label) is None]
    if schema.kind == "regressor" and wrong:
        raise errors.RequestError(
            f"the labels of a regressor are numbers, and one of these is {wrong[0]!r}"
        )


def _judged(found: Parity, allowed: Allowed) -> Parity:
    problem = ""
    if found.agreement is not None and found.agreement < allowed.agreement:
        other = round((1 - found.agreement) * found.samples)
        problem = f"other labels for {other} of {found.samples} samples"
    elif found.error is not None and not found.error <= allowed.error * _JUST:  # NaN too
        problem = f"off by {found.error:.2g}; {allowed.error:g} is allowed"
    elif (found.metric is not None and found.metric_before is not None
          and found.metric < found.metric_before - allowed.metric_drop - 1e-12):
        problem = f"{found.metric_name} falls from {found.metric_before:.4f} to {found.metric:.4f}"
    return replace(found, problem=problem)


def _values(output: Output) -> Any:
    return np.asarray(output.values)


def _value_error(before: Any, after: Any) -> float:
    before, after = before.astype(float), after.astype(float)
    spread = np.std(before, axis=0)
    is_constant = spread <= _ROUNDING * np.abs(before).max(axis=0, initial=0.0)
    off = np.abs(before - after) / np.where(is_constant, 1.0, spread)
    return float(off.max(initial=0.0))


def _probability_error(before: Any, after: Any) -> float | None:
    if before is None or after is None:
        return None if before is None and after is None else float("nan")
    if isinstance(before, list):
        each = zip(before, after, strict=True)
        return max(float(np.abs(one - other).max(initial=0.0)) for one, other in each)
    return float(np.abs(before - after).max(initial=0.0))


def _accuracy(values: Any, labels: Sequence[Any] | None) -> float | None:
    if labels is None or values.ndim != 1:
        return None
    pairs = zip(values.tolist(), labels, strict=True)
    return float(np.mean([_is_same(value, label) for value, label in pairs]))


def _is_same(value: Any, label: Any) -> bool:
    """A file may have "1" or 1.0 for the label 1."""
    if str(value) == str(label):
        return True
    number = _number(value)
    return number is not None and number == _number(label)


def _r2(values: Any, labels: Sequence[Any] | None) -> float | None:
    """The share of the labels' variance that the values explain; None: there is none."""
    if labels is None or values.ndim != 1:
        return None
    right = np.array([_number(label) for label in labels], dtype=float)
    whole = float(np.sum((right - right.mean()) ** 2))
    left = float(np.sum((right - values.astype(float)) ** 2))
    return 1.0 - left / whole if whole > 0 else None


def _number(label: Any) -> float | None:
    try:
        number = float(label)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
