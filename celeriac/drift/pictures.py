"""What is drawn of a feature: shares of the reference and of the current rows on one axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from celeriac.drift.profile import FeatureProfile
from celeriac.drift.records import Picture

Array = np.ndarray[Any, Any]
BINS = 30
MOST_VALUES = 50_000
_FARTHEST = 1e300
"""Beyond it, widths of bars would be no numbers."""
SHOWN_CHARS = 40


def picture(feature: FeatureProfile, values: Array, counts: Array) -> Picture | None:
    """None where there is nothing to draw."""
    if not counts[:-1].sum():
        return None
    if feature.kind == "category":
        return _of_category(feature, counts)
    with np.errstate(over="ignore", invalid="ignore"):  # ends too far apart are found below
        return _of_number(feature, values)


def _of_category(feature: FeatureProfile, counts: Array) -> Picture:
    labels = [value[:SHOWN_CHARS] or "(empty)" for value in feature.categories]
    whole = [*labels, "other values", "never seen before"]
    reference, current = np.asarray(feature.counts[:-1], dtype=float), counts[:-1].astype(float)
    keep = [
        number for number in range(len(whole))
        if number < len(labels) or reference[number] or current[number]
    ]
    return Picture(
        labels=tuple(whole[number] for number in keep),
        reference=_rounded(reference[keep] / max(reference.sum(), 1)),
        current=_rounded(current[keep] / max(current.sum(), 1)),
    )


def _of_number(feature: FeatureProfile, values: Array) -> Picture | None:
    finite = values[np.isfinite(values)]
    finite = finite[:: max(1, len(finite) // MOST_VALUES)]
    edges = np.asarray(feature.edges)
    if not len(finite):
        return None
    if not len(edges):
        edges = np.array([finite.min()])
    low, high = _axis(edges[min(1, len(edges) - 1) :], finite)
    if not (max(abs(low), abs(high)) < _FARTHEST and low < high):
        return None
    drawn = np.linspace(low, high, BINS + 1)
    current, _ = np.histogram(np.clip(finite, low, high), drawn)
    return Picture(
        edges=tuple(drawn.tolist()), reference=_reference(feature, edges, drawn),
        current=_rounded(current / len(finite)),
    )


def _axis(edges: Array, finite: Array) -> tuple[float, float]:
    """From nearly the smallest to nearly the largest of both; far ends are in the outer bars."""
    first, last = (float(np.quantile(finite, rank)) for rank in (0.005, 0.995))
    low, high = min(edges[0], first), max(edges[-1], last)
    if len(edges) > 8:  # the last quantile may hold a long tail
        spread = edges[-3] - edges[2]
        low = min(max(low, edges[2] - 1.5 * spread), first) if spread > 0 else low
        high = max(min(high, edges[-3] + 1.5 * spread), last) if spread > 0 else high
    if low == high:
        half = abs(low) / 2 or 0.5
        return low - half, high + half
    return float(low), float(high)


def _reference(feature: FeatureProfile, edges: Array, drawn: Array) -> tuple[float, ...]:
    counts = np.asarray(feature.counts[:-1], dtype=float)
    if not counts.sum() or len(counts) != len(edges) + 1:
        return _rounded(np.zeros(BINS))
    below = np.cumsum(counts)[:-1] / counts.sum()
    if len(edges) <= BINS:  # few values: each stays where it is
        heights = np.histogram(np.clip(edges, drawn[0], drawn[-1]), drawn, weights=counts[:-1])[0]
        return _rounded(heights / counts.sum())
    inner = np.interp(drawn[1:-1], edges, below, left=0.0, right=1.0)
    return _rounded(np.diff(np.concatenate([[0.0], inner, [1.0]])))


def _rounded(values: Array) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)
