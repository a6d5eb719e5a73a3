"""How far two sets of counts lie apart, and whether chance can do that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy.special import chdtrc, chdtri, kolmogi, kolmogorov

Array = np.ndarray[Any, Any]
Kind = Literal["number", "category"]


def shares(counts: Array) -> Array:
    """Counts ``(..., bins)`` as shares of their sum; zeros if there is nothing."""
    total = counts.sum(axis=-1, keepdims=True)
    found: Array = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    return found


def distance(kind: Kind, reference: Array, current: Array) -> Array:
    """Between shares ``(..., bins)``, 0 to 1.

    Numbers: the largest difference of the cumulated shares (Kolmogorov and Smirnov's D).
    Categories: the share of rows that would have to change theirs (total variation).
    """
    difference = current - reference
    if kind == "number":
        found: Array = np.abs(np.cumsum(difference, axis=-1)).max(axis=-1)
    else:
        found = np.abs(difference).sum(axis=-1) / 2
    return np.minimum(found, 1.0)


def ordered(counts: Array) -> Array:
    """Counts whose last bin is that of nulls, with it in front: nulls are the smallest numbers."""
    return np.roll(counts, 1, axis=-1)


def jensen_shannon(reference: Array, current: Array) -> float:
    """Distance of shares, 0 to 1: the root of the divergence in bits."""
    middle = (reference + current) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(p > 0, p * np.log2(p / middle), 0.0).sum() for p in (reference, current)]
    return float(np.sqrt(np.clip(sum(parts) / 2, 0.0, 1.0)))


def stability_index(reference: Array, current: Array) -> float:
    """Population stability index (PSI) of two sets of counts; half a row more in each bin keeps
    it finite."""
    used = (reference + current) > 0
    p, q = (shares(counts[used] + 0.5) for counts in (reference, current))
    return float(((q - p) * np.log(q / p)).sum()) if used.any() else 0.0


def wasserstein(edges: Array, reference: Array, current: Array, beyond: float = 0.0) -> float:
    """Mean way from one to the other, in the feature's unit.

    ``reference`` and ``current`` are shares of the ``len(edges) + 1`` bins; within a bin values
    are taken to be spread evenly. ``beyond``: mean way of the current rows that lie outside of
    the edges to the nearest one.
    """
    if len(edges) < 2:
        return beyond
    gaps = np.abs(np.cumsum(current - reference))[:-1]
    with np.errstate(over="ignore", invalid="ignore"):
        inner = np.diff(edges) * (gaps[:-1] + gaps[1:]) / 2
    return float(inner.sum()) + beyond


# --- chance --------------------------------------------------------------------------------------


def distance_p(value: float, rows: float, other_rows: float) -> float:
    """How often two samples of the same number, of so many independent rows, lie so far apart."""
    if rows <= 0 or other_rows <= 0:
        return 1.0
    root = np.sqrt(rows * other_rows / (rows + other_rows))
    return float(kolmogorov(root * value))


def distance_of_chance(share: float, rows: float, other_rows: float) -> float:
    """The distance that chance alone exceeds in ``share`` of all such pairs of samples."""
    if rows <= 0 or other_rows <= 0:
        return 1.0
    return min(1.0, float(kolmogi(share) * np.sqrt(1 / rows + 1 / other_rows)))


def rows_beyond_chance(value: float, share: float, rows: float) -> float:
    """So many other rows are needed for chance alone to exceed the distance ``value`` in only
    ``share`` of all such pairs; infinity if no number of them will do."""
    left = (value / float(kolmogi(share))) ** 2 - 1 / max(rows, 1e-9)
    return 1 / left if left > 0 else float("inf")


def chi_square(
    reference: Array, current: Array, dependence: float, other: float
) -> tuple[float, int]:
    """Chi-square of two sets of counts that came from one, and its degrees of freedom.

    ``dependence`` and ``other``: how many rows of each tell as much as one that stands alone
    (Rao and Scott's correction, by the mean).
    """
    used = (reference + current) > 0
    p, q = shares(reference[used]), shares(current[used])
    rows, other_rows = reference.sum() / dependence, current.sum() / other
    if rows <= 0 or other_rows <= 0 or used.sum() < 2:
        return 0.0, 0
    pooled = (rows * p + other_rows * q) / (rows + other_rows)
    few = pooled * min(rows, other_rows) < 5
    if few.any() and not few.all():  # too small to be judged alone
        p, q, pooled = (np.append(one[~few], one[few].sum()) for one in (p, q, pooled))
    weight = rows * other_rows / (rows + other_rows)
    degrees = int((pooled > 0).sum()) - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(pooled > 0, (q - p) ** 2 / pooled, 0.0)
    return float(weight * terms.sum()), degrees


def chi_square_p(value: float, degrees: int) -> float:
    return float(chdtrc(degrees, value)) if degrees > 0 else 1.0


def variation_of_chance(
    share: float, bins: int, rows: float, other_rows: float, luck: float = 0.0
) -> float:
    """As :func:`distance_of_chance`, of the total variation, or a little more: by chi-square, which
    bounds it (Cauchy and Schwarz). ``luck``: of bins that were chosen
    (:attr:`FeatureProfile.luck_of_variation`)."""
    return min(1.0, _root_of_chance(share, bins, rows, other_rows) / 2 + luck)


def jensen_shannon_of_chance(
    share: float, bins: int, rows: float, other_rows: float, luck: float = 0.0
) -> float:
    """The same of :func:`jensen_shannon`. ``luck``: as chi-square
    (:attr:`FeatureProfile.luck`)."""
    root = _root_of_chance(share, bins, rows, other_rows) + math.sqrt(luck)
    return min(1.0, root / math.sqrt(8 * math.log(2)))


def _root_of_chance(share: float, bins: int, rows: float, other_rows: float) -> float:
    """The root of the chi-square of two sets of shares."""
    if rows <= 0 or other_rows <= 0 or bins < 2:
        return math.inf
    return math.sqrt(chdtri(bins - 1, share) * (1 / rows + 1 / other_rows))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted so that the chance of a single false finding is at most the level (Holm)."""
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    raised = np.maximum.accumulate(np.asarray(p_values, dtype=float)[order] * factors)
    return _back(raised, order)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted so that the share of false findings is at most the level."""
    order = np.argsort(p_values)
    count = len(p_values)
    raised = np.asarray(p_values, dtype=float)[order] * count / np.arange(1, count + 1)
    return _back(np.minimum.accumulate(raised[::-1])[::-1], order)


def _back(values: Array, order: Array) -> list[float]:
    found = np.empty(len(values))
    found[order] = np.minimum(values, 1.0)
    return [float(value) for value in found]
