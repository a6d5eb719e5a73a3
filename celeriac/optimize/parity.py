"""Whether two forms of a model say the same. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from celeriac.outputs import Output
from celeriac.registry.manifest import OutputSchema


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """How far another form may be from the original."""

    agreement: float = 1.0
    """Share of the samples that get the same label, at least."""
    error: float = 0.01
    """Of any probability; of a regressor's values, in shares of their standard deviation."""
    metric_drop: float = 0.0
    """Accuracy on the samples' own labels that may be lost."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What was found on the samples."""

    samples: int
    agreement: float | None = None
    """None: the model has no labels."""
    error: float | None = None
    """None: it has neither probabilities nor values."""
    metric: float | None = None
    """Accuracy, if the samples have labels."""
    metric_before: float | None = None
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
        found = Parity(samples=len(before), error=_value_error(before, after))
    else:
        found = Parity(
            samples=len(before), agreement=float(np.mean(before == after)),
            error=_probability_error(original.probabilities, other.probabilities),
            metric=_accuracy(after, labels), metric_before=_accuracy(before, labels),
        )
    return _judged(found, allowed)


def _judged(found: Parity, allowed: Allowed) -> Parity:
    problem = ""
    if found.agreement is not None and found.agreement < allowed.agreement:
        other = round((1 - found.agreement) * found.samples)
        problem = f"other labels for {other} of {found.samples} samples"
    elif found.error is not None and not found.error <= allowed.error:  # NaN too
        problem = f"off by {found.error:.2g}; {allowed.error:g} is allowed"
    elif (found.metric is not None and found.metric_before is not None
          and found.metric < found.metric_before - allowed.metric_drop - 1e-12):
        problem = f"accuracy falls from {found.metric_before:.4f} to {found.metric:.4f}"
    return Parity(**{**found.__dict__, "problem": problem})


def _values(output: Output) -> Any:
    return np.asarray(output.values)


def _value_error(before: Any, after: Any) -> float:
    spread = float(np.std(before)) or 1.0
    return float(np.abs(before.astype(float) - after.astype(float)).max(initial=0.0)) / spread


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
    return float(np.mean([str(value) == str(label) for value, label in pairs]))
