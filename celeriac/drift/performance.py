"""How good answers are, where somebody knows the truth."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np

from celeriac.drift.features import Features
from celeriac.drift.profile import Performance
from celeriac.drift.records import LEAST_LABELLED
from celeriac.registry.manifest import OutputSchema

Array = np.ndarray[Any, Any]
FAR_SHARE = 0.2
"""Of a reference's numbers, those that are far off."""
SHOWN_LABELS = 5


def labels_of(output: OutputSchema) -> tuple[Any, ...]:
    """What :func:`performance` takes as labels: those of a classifier with one output."""
    return output.labels if output.kind == "classifier" and output.outputs == 1 else ()


def performance(answers: Features, truth: Any, labels: tuple[Any, ...] = ()) -> Performance | None:
    """Of answers to rows whose true labels or numbers are ``truth``; None if nothing can be said.

    ``labels``: those of a classifier. Of two, with probabilities, the AUC; of others, the
    accuracy; of numbers, the mean absolute error. A truth that is no label is a wrong answer; if
    none of them is one, they are no truth (:func:`misfit` says so).
    """
    given = answers.get("prediction")
    if given is None or len(given.values) != len(truth):
        return None
    known = np.array([is_known(value) for value in truth], dtype=bool)
    if not labels:
        numbers = [_plain(value) for value, there in zip(truth, known, strict=True) if there]
        return _error_of_numbers(given.values[known], np.asarray(numbers))
    if not _any_label(truth, labels):
        return None
    known &= np.array([is_known(value) for value in given.values.tolist()], dtype=bool)
    if not known.any():
        return None
    right, found = (
        np.array([_text(value) for value, there in zip(values, known, strict=True) if there])
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
        measure="accuracy", value=share, error=_error_of_share(share, len(found)), rows=len(found)
    )


def _error_of_share(share: float, rows: int) -> float:
    """Standard error, as if two more were right and two more wrong (Agresti and Coull, 1998): who
    was right in all of a hundred rows is not always right."""
    likely = (share * rows + 2) / (rows + 4)
    return float(np.sqrt(likely * (1 - likely) / (rows + 4)))


def misfit(truth: Iterable[Any], labels: tuple[Any, ...] = ()) -> str:
    """Why these values say nothing of how good answers are, in words; empty: they do."""
    known = [value for value in truth if is_known(value)]
    if not known:
        return "no value is known"
    if labels and not _any_label(known, labels):
        more = ", ..." if len(labels) > SHOWN_LABELS else ""
        some = ", ".join(repr(label) for label in labels[:SHOWN_LABELS])
        return f"none of its values is a label of this version ({some}{more}), as {known[0]!r}"
    if not labels and np.asarray([_plain(value) for value in known]).dtype.kind not in "iufb":
        return f"its values are no numbers, as {known[0]!r}"
    return ""


def _any_label(truth: Iterable[Any], labels: tuple[Any, ...]) -> bool:
    classes = {_text(label) for label in labels}
    return any(_text(value) in classes for value in truth if is_known(value))


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def fell(reference: Performance, current: Performance) -> bool:
    """True if answers are worse now by more than chance (three standard errors) explains. Of few
    rows the standard error itself is chance: one wrong answer alone has none."""
    if reference.measure != current.measure or min(reference.rows, current.rows) < LEAST_LABELLED:
        return False
    worse = reference.value - current.value
    if not reference.more_is_better:
        worse = -worse
    return worse > 3 * float(np.hypot(reference.error, current.error))


def auc(scores: Array, positive: Array) -> float:
    """Chance that a positive has a higher score than a negative; ties count half."""
    positives = int(positive.sum())
    negatives = len(scores) - positives
    above = _ranks(scores)[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def _ranks(scores: Array) -> Array:
    """From 1; equal ones share theirs."""
    order = np.argsort(scores, kind="stable")
    _, starts, counts = np.unique(scores[order], return_index=True, return_counts=True)
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat(starts + (counts + 1) / 2, counts)
    return ranks


def _auc(scores: Array, positive: Array) -> Performance | None:
    """Its variance is that of the places of the positives among the negatives, and the other way
    round (DeLong and others, 1988)."""
    if positive.all() or not positive.any():
        return None
    own, other = (_error_of_places(_places(scores, of)) for of in (positive, ~positive))
    return Performance(
        measure="AUC", value=auc(scores, positive), error=float(np.hypot(own, other)),
        rows=len(scores),
    )


def _places(scores: Array, of: Array) -> Array:
    """Of each row that is one ``of`` them, the share of the others with a lower score."""
    found: Array = (_ranks(scores)[of] - _ranks(scores[of])) / (~of).sum()
    return found


def _error_of_places(places: Array) -> float:
    """Standard error of their mean, as if one more stood below all others and one above all
    (Agresti and Caffo, 2000): classes that few rows keep apart wholly are not always kept apart."""
    likely = np.append(places, [0.0, 1.0])
    return float(likely.std() / np.sqrt(len(likely)))


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


def is_known(value: Any) -> bool:
    """False of None and NaN: nobody knows the truth."""
    return value is not None and not (isinstance(value, (float, np.floating)) and np.isnan(value))


def _text(value: Any) -> str:
    """Labels as the columns of answers have them: numbers became floats, truths texts."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, (int, float, np.integer, np.floating, Decimal)):
        return f"{float(value):.15g}"
    return str(value)
