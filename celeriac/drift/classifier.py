"""Can a classifier tell the reference from the current rows? If not, all features together have
not changed, in no combination that it could see (classifier two-sample test, C2ST).

The classifier is a logistic regression on the ranks of the features, their squares and products,
so that it also sees changed spreads and correlations. It is judged on rows that it has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import expit, ndtr, ndtri

from celeriac.drift.performance import auc
from celeriac.drift.profile import FeatureProfile

Array = np.ndarray[Any, Any]
MOST_PRODUCTS_OF = 12
"""Features whose products are looked at; with more, there would be too many."""
RIDGE = 1.0
STEPS = 12
BLOCKS = 8
"""Stretches of rows, which go to the two folds by turns."""
LEAST_ROWS = 100
LEAST_LOSS = 0.005
LEAST_INDEPENDENT_ROWS = 50
"""Neighbours that are alike lie in both folds: with fewer, a classifier learns them by heart."""


@dataclass(frozen=True)
class TwoSamples:
    """How well the two can be told apart."""

    auc: float
    """0.5: not at all; 1: always."""
    p_value: float
    features: tuple[tuple[str, float], ...]
    """Those that give them away, with the AUC that is lost without each; the largest first. Where
    each could do without any other: with what each tells alone, beyond 0.5."""


@dataclass(frozen=True)
class _Design:
    columns: Array
    """``(rows, columns)``."""
    owners: list[tuple[int, ...]]
    """Features that each column is made of."""


def two_samples(
    features: Sequence[FeatureProfile], reference: Array, current: Array, dependence: float = 1.0,
    other: float = 1.0,
) -> TwoSamples | None:
    """Of two sets of rows ``(rows, features)`` of bin numbers; None if there are too few.

    ``dependence`` and ``other``: how many rows of each tell as much as one that stands alone.
    """
    alone = len(reference) / dependence, len(current) / other
    if min(len(reference), len(current)) < LEAST_ROWS or not features:
        return None
    if min(alone) < LEAST_INDEPENDENT_ROWS:
        return None
    design = _design(features, np.vstack([reference, current]))
    if not design.owners:
        return None
    is_current = np.arange(len(reference) + len(current)) >= len(reference)
    fold = np.concatenate([_folds(len(reference)), _folds(len(current))])
    areas, losses, gains = [], np.zeros(len(features)), np.zeros(len(features))
    for held in (0, 1):
        seen, test = fold != held, fold == held
        weights = _fit(design.columns[seen], is_current[seen])
        parts = design.columns[test] * weights
        scores = parts.sum(axis=1)
        area = auc(scores, is_current[test])
        areas.append(area)
        for number in range(len(features)):
            own = [at for at, owners in enumerate(design.owners) if number in owners]
            if own and np.abs(weights[own]).max() > 1e-3:
                part = parts[:, own].sum(axis=1)
                losses[number] += (area - auc(scores - part, is_current[test])) / 2
                gains[number] += (auc(part, is_current[test]) - 0.5) / 2
    area = float(np.mean(areas))
    if losses.max() <= LEAST_LOSS:  # each could do without any other
        losses = gains
    named = [(features[at].name, float(losses[at])) for at in np.argsort(-losses)]
    return TwoSamples(
        auc=area, p_value=_p_value(area, *alone),
        features=tuple((name, loss) for name, loss in named if loss > LEAST_LOSS)[:10],
    )


def _p_value(area: float, rows: float, others: float) -> float:
    """``rows`` and ``others`` that stand alone."""
    spread = np.sqrt((rows + others + 1) / (12 * rows * others))
    return float(ndtr(-(area - 0.5) / spread))


def _folds(rows: int) -> Array:
    return np.arange(rows) * BLOCKS // rows % 2


def _design(features: Sequence[FeatureProfile], codes: Array) -> _Design:
    columns: list[Array] = []
    owners: list[tuple[int, ...]] = []
    ranks: dict[int, Array] = {}
    for number, feature in enumerate(features):
        is_null = codes[:, number] == feature.bins - 1
        own = [is_null.astype(float)]
        if feature.kind == "number":
            ranks[number] = _normal_ranks(feature)[codes[:, number]]
            own += [ranks[number], ranks[number] ** 2]
        else:
            own += _categories(feature, codes[:, number])
        columns += own
        owners += [(number,)] * len(own)
    if len(ranks) <= MOST_PRODUCTS_OF:
        for one, other in combinations(ranks, 2):
            columns.append(ranks[one] * ranks[other])
            owners.append((one, other))
    return _standardised(columns, owners)


def _categories(feature: FeatureProfile, codes: Array) -> list[Array]:
    """A column for each that is surely common, for the others together, and for new ones: what was
    chosen with luck would tell the reference from all others."""
    other = len(feature.categories)
    merged = np.where((codes >= feature.sure) & (codes < other), other, codes)
    return [(merged == at).astype(float) for at in (*range(feature.sure), other, other + 1)]


def _standardised(columns: list[Array], owners: list[tuple[int, ...]]) -> _Design:
    whole = np.column_stack(columns)
    spread = whole.std(axis=0)
    used = spread > 1e-9
    scaled = (whole[:, used] - whole[:, used].mean(axis=0)) / spread[used]
    return _Design(scaled, [one for one, is_used in zip(owners, used, strict=True) if is_used])


def _normal_ranks(feature: FeatureProfile) -> Array:
    """What a normal variable would be at the rank of each bin; nulls are in the middle."""
    counts = np.asarray(feature.counts, dtype=float)
    values = counts[:-1]
    if not values.sum():
        return np.zeros(len(counts))
    middle = (np.cumsum(values) - values / 2) / values.sum()
    edge = 0.5 / (values.sum() + 1)
    return np.append(ndtri(np.clip(middle, edge, 1 - edge)), 0.0)


def _fit(columns: Array, is_current: Array) -> Array:
    """Weights of a ridge logistic regression, both sides weighing the same (Newton's steps)."""
    share = is_current.mean()
    weight = np.where(is_current, 0.5 / share, 0.5 / (1 - share))
    design = np.column_stack([columns, np.ones(len(columns))])
    penalty = np.diag([*[RIDGE] * columns.shape[1], 1e-9])
    found = np.zeros(design.shape[1])
    for _ in range(STEPS):
        expected = expit(design @ found)
        slope = design.T @ (weight * (is_current - expected)) - penalty @ found
        curve = (design * (weight * expected * (1 - expected))[:, None]).T @ design + penalty
        step = np.linalg.solve(curve, slope)
        found += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-4:
            break
    weights: Array = found[:-1]
    return weights


__all__ = ["TwoSamples", "two_samples"]
