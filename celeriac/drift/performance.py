"""How good answers are, where somebody knows the truth."""

from __future__ import annotations

from typing import Any

import numpy as np

from celeriac.drift.features import Features
from celeriac.drift.profile import Performance
from celeriac.registry.manifest import OutputSchema

Array = np.ndarray[Any, Any]
FAR_SHARE = 0.2
"""Of a reference's numbers, those that are far off."""


def labels_of(output: OutputSchema) -> tuple[Any, ...]:
    """What :func:`performance` takes as labels: those of a classifier with one output."""
    return output.labels if output.kind == "classifier" and output.outputs == 1 else ()


def performance(answers: Features, truth: Any, labels: tuple[Any, ...] = ()) -> Performance | None:
    """Of answers to rows whose true labels or numbers are ``truth``; None if nothing can be said.

    ``labels``: those of a classifier. Of two, with probabilities, the AUC; of others, the
    accuracy; of numbers, the mean absolute error.
    """
    given = answers.get("prediction")
    if given is None or len(given.values) != len(truth):
        return None
    known = np.array([_is_known(value) for value in truth], dtype=bool)
    if not labels:
        numbers = [value for value, is_known in zip(truth, known, strict=True) if is_known]
        return _error_of_numbers(given.values[known], np.asarray(numbers))
    known &= np.array([_is_known(value) for value in given.values.tolist()], dtype=bool)
    if not known.any():
        return None
    right, found = (
        np.array([_text(value) for value, is_known in zip(values, known, strict=True) if is_known])
        for values in (truth, given.values.tolist())
    )
    probability = answers.get("probability")
    if len(labels) == 2 and probability is not None:
        positive = _text(labels[1])
        sure = probability.values[known]
        scores = np.where(found == positive, sure, 1 - sure)
        measured = _auc(scores, right == positive)
        if measured is not None:
            return measured.model_copy(update={"accuracy": float((found == right).mean())})
    share = float((found == right).mean())
    return Performance(
        measure="accuracy", value=share, error=float(np.sqrt(share * (1 - share) / len(found))),
        rows=len(found),
    )


def fell(reference: Performance, current: Performance) -> bool:
    """True if answers are worse now by more than chance (three standard errors) explains."""
    if reference.measure != current.measure:
        return False
    worse = reference.value - current.value
    if not reference.more_is_better:
        worse = -worse
    return worse > 3 * float(np.hypot(reference.error, current.error))


def auc(scores: Array, positive: Array) -> float:
    """Chance that a positive has a higher score than a negative; ties count half."""
    order = np.argsort(scores, kind="stable")
    _, starts, counts = np.unique(scores[order], return_index=True, return_counts=True)
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat(starts + (counts + 1) / 2, counts)
    positives = int(positive.sum())
    negatives = len(scores) - positives
    above = ranks[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def _auc(scores: Array, positive: Array) -> Performance | None:
    positives = int(positive.sum())
    negatives = len(scores) - positives
    if not positives or not negatives:
        return None
    area = auc(scores, positive)
    # Hanley and McNeil, 1982
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (
        area * (1 - area) + (positives - 1) * (q1 - area**2) + (negatives - 1) * (q2 - area**2)
    ) / (positives * negatives)
    return Performance(
        measure="AUC", value=area, error=float(np.sqrt(max(variance, 0.0))), rows=len(scores)
    )


def _error_of_numbers(given: Array, truth: Array) -> Performance | None:
    if given.dtype == object or truth.dtype.kind not in "iufb":
        return None
    off = np.abs(given - truth.astype(float))
    off = off[np.isfinite(off)]
    if not len(off):
        return None
    return Performance(
        measure="mean absolute error", value=float(off.mean()),
        error=float(off.std() / np.sqrt(len(off))), rows=len(off),
        far=float(np.quantile(off, 1 - FAR_SHARE)),
    )


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, (float, np.floating)) and np.isnan(value))


def _text(value: Any) -> str:
    """Labels as the columns of answers have them: numbers became floats, truths texts."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, (int, float, np.integer, np.floating)):
        return f"{float(value):.15g}"
    return str(value)
