"""From the values of a feature to bins, and from bins to counts: sums of counts are counts again,
so what many workers have seen adds up.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from celeriac.drift.profile import FeatureProfile, Known

Array = np.ndarray[Any, Any]
QUANTILES = 40
"""Bins of a number, about as many."""
TOP = 20
"""Categories with a bin of their own."""
CATEGORY_CHARS = 60
"""A longer category is known by its beginning."""
MOST_KNOWN = 50_000
STRETCH = 0.05
"""Of a reference's rows. A value that comes only within so short a stretch came once, in however
many rows: neighbours are alike. A longer one is no stretch: of a reference that is sorted by a few
values nothing would be known."""


def is_number(values: Array) -> bool:
    """Numbers are floats, with NaN for null; categories are texts, with None for null."""
    return bool(values.dtype.kind == "f")


def edges_of(values: Array) -> tuple[float, ...]:
    """Quantiles of the finite values; an edge below the smallest makes room for what is smaller.

    Each edge is a value that was seen: a value that comes often ends a bin of its own.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return ()
    ranks = -(-np.arange(1, QUANTILES + 1) * len(finite) // QUANTILES) - 1
    found = np.unique(np.partition(finite, np.unique(ranks))[ranks])
    with np.errstate(over="ignore"):
        below = np.nextafter(finite.min(), -np.inf)
    return (*([float(below)] if np.isfinite(below) else []), *found.tolist())


def codes(feature: FeatureProfile, values: Array) -> Array:
    """The number of the bin of each value, as int64. Values of another kind than the feature's
    are nulls: who wants to know asks :func:`is_number`.
    """
    if feature.kind == "number":
        if not is_number(values):
            return np.full(len(values), feature.bins - 1)
        return _number_codes(np.asarray(feature.edges), values)
    if is_number(values):
        return np.full(len(values), feature.bins - 1)
    return _category_codes(feature.categories, feature.known_values, values)


def reference_codes(feature: FeatureProfile, values: Array) -> Array:
    """The same of the reference itself, as its counts have it: a rare category that came once
    counts as unseen there, as others like it will be elsewhere.
    """
    found = codes(feature, values)
    if feature.kind != "category" or not feature.counts[-2]:
        return found
    shortened = _shortened(values)
    once = _once(shortened)
    is_once = np.array([value in once for value in shortened], dtype=bool)
    return np.where(is_once, len(feature.categories) + 1, found)


def _shortened(values: Array) -> list[str | None]:
    return [None if value is None else value[:CATEGORY_CHARS] for value in values.tolist()]


def _once(values: list[str | None]) -> set[str]:
    """Values that came once: in one row, or in one short stretch."""
    last = {value: at for at, value in enumerate(values)}
    first = {value: -at for at, value in enumerate(reversed(values), 1 - len(values))}
    longest = STRETCH * len(values)
    return {
        value for value, at in first.items()
        if value is not None and last[value] - at <= longest
    }


def counts(feature: FeatureProfile, values: Array) -> Array:
    """Rows by bin, as int64."""
    return np.bincount(codes(feature, values), minlength=feature.bins)


def _number_codes(edges: Array, values: Array) -> Array:
    found = np.searchsorted(edges, values, side="left")
    is_null = np.isnan(values)
    if is_null.any():
        found = np.where(is_null, len(edges) + 1, found)
    return found


def _category_codes(categories: tuple[str, ...], known: Known | None, values: Array) -> Array:
    top = {name: number for number, name in enumerate(categories)}
    other = len(categories)
    found: dict[Any, int] = {None: other + 2}
    for value in set(values.tolist()) - {None}:
        short = value[:CATEGORY_CHARS]
        place = top.get(short)
        if place is None:
            place = other if known is not None and short in known else other + 1
        found[value] = place
    return np.fromiter((found[value] for value in values.tolist()), np.int64, len(values))


def number_feature(name: str, values: Array, **fields: Any) -> FeatureProfile:
    """The profile of a number, without what its order says."""
    edges = edges_of(values)
    finite = values[np.isfinite(values)]
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = (float(finite.mean()), float(finite.std())) if len(finite) else (0.0, 0.0)
    is_known = bool(len(finite)) and bool(np.isfinite([mean, std]).all())
    found = _number_codes(np.asarray(edges), values)
    return FeatureProfile(
        name=name, kind="number", edges=edges,
        counts=tuple(np.bincount(found, minlength=len(edges) + 2).tolist()),
        mean=mean if is_known else None, std=std if is_known else None, **fields,
    )


def category_feature(name: str, values: Array, **fields: Any) -> FeatureProfile:
    """The profile of a category, without what its order says.

    How often a value is new is estimated by the share of rows whose value came once (Good and
    Turing): they count as unseen, and have no bin, however few categories there are.
    """
    shortened = _shortened(values)
    found = Counter(value for value in shortened if value is not None)
    nulls = len(shortened) - found.total()
    single = _once(shortened)
    ranked = sorted(found.items(), key=lambda one: (one[0] in single, -one[1], one[0]))
    several = min(TOP, len(found) - len(single))
    top, rest = ranked[:several], ranked[several:]
    once = sum(count for value, count in rest if value in single)
    others = sum(count for _, count in rest) - once
    return FeatureProfile(
        name=name, kind="category", categories=tuple(value for value, _ in top),
        known=Known.of(value for value, _ in ranked[:MOST_KNOWN]).text() if rest else "",
        counts=(*(count for _, count in top), others, once, nulls), **fields,
    )
