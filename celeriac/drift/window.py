"""A window that slides over a stream, as counts of bins; the clock is passed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from celeriac.drift.calibration import WINDOW_ROWS, threshold
from celeriac.drift.episodes import Look
from celeriac.drift.profile import FeatureProfile, ReferenceProfile
from celeriac.drift.statistics import distance, ordered, shares

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class WindowRule:
    """What a window is, and when it raises an alarm."""

    rows: int = WINDOW_ROWS
    rows_between_alarms: float = 100_000.0
    """The stated rate: on a stream that does not drift, one false alarm of a model in so many
    rows, on the average, over all its features."""
    least_share: float = 0.5
    """A window with fewer of its rows says nothing."""
    most_age_s: float = 7 * 86_400.0
    """Older buckets are not looked at, however few rows there are."""
    clock_tolerance_s: float = 60.0
    """Buckets that lie further in the future come from a clock that jumped: they are left out."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Counts of the features of one stretch of time, added up over all workers."""

    start_s: float
    counts: Mapping[str, Array]
    """By feature, rows by bin."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The newest rows."""

    counts: Mapping[str, Array]
    start_s: float
    end_s: float
    """When the newest bucket began."""

    def rows(self, feature: str) -> int:
        counts = self.counts.get(feature)
        return int(counts.sum()) if counts is not None else 0


@dataclass(frozen=True, kw_only=True)
class FeatureLook:
    """One feature in the window."""

    feature: str
    rows: int
    statistic: float | None
    """None: not enough rows."""
    threshold: float

    def look(self, at_s: float) -> Look:
        return Look(at_s=at_s, statistic=self.statistic, threshold=self.threshold)


def newest(buckets: Sequence[Bucket], rule: WindowRule, now_s: float) -> Window | None:
    """The window that ends now: of each feature the newest buckets, until ``rule.rows`` are
    reached; None if there is no bucket.

    A bucket is taken whole, so that a window may hold more rows. A count that does not fit (other
    bins: of another profile) is not added up.
    """
    usable = sorted(
        (one for one in buckets
         if now_s - rule.most_age_s <= one.start_s <= now_s + rule.clock_tolerance_s),
        key=lambda one: one.start_s, reverse=True,
    )
    if not usable:
        return None
    sums: dict[str, Array] = {}
    start_s = usable[0].start_s
    for bucket in usable:
        for name, counts in bucket.counts.items():
            held = sums.get(name)
            if held is None:
                sums[name] = np.asarray(counts, dtype=np.int64)
            elif held.sum() < rule.rows and held.shape == np.shape(counts):
                sums[name] = held + counts
            else:
                continue
            start_s = bucket.start_s
    return Window(counts=sums, start_s=start_s, end_s=usable[0].start_s)


def look_at(
    profile: ReferenceProfile, window: Window | None, rule: WindowRule
) -> list[FeatureLook]:
    """Each feature of the profile that has a calibrated threshold, as the window shows it."""
    watched = [feature for feature in profile.features if feature.calibration is not None]
    return [_look(feature, window, rule, len(watched)) for feature in watched]


def window_threshold(feature: FeatureProfile, rule: WindowRule, features: int, rows: int) -> float:
    """Of a window of ``rows``, if ``features`` are watched together. Raises ValueError if the
    feature has no calibration."""
    if feature.calibration is None:
        raise ValueError(f"feature {feature.name!r} is not calibrated")
    found = threshold(
        feature.calibration, rows_between_alarms=rule.rows_between_alarms, features=features,
        window_rows=rows, reference_rows=feature.rows,
    )
    return min(1.0, found + feature.luck_of_variation)


def statistic(feature: FeatureProfile, counts: Array) -> float:
    """The distance of a window's counts from the reference, nulls among them."""
    reference = np.asarray(feature.counts, dtype=float)
    current = np.asarray(counts, dtype=float)
    if feature.kind == "number":
        reference, current = ordered(reference), ordered(current)
    return float(distance(feature.kind, shares(reference), shares(current)))


def _look(
    feature: FeatureProfile, window: Window | None, rule: WindowRule, features: int
) -> FeatureLook:
    counts = window.counts.get(feature.name) if window is not None else None
    rows = int(counts.sum()) if counts is not None and len(counts) == feature.bins else 0
    enough = rows >= max(1, rule.least_share * rule.rows)
    return FeatureLook(
        feature=feature.name, rows=rows,
        statistic=statistic(feature, counts) if enough and counts is not None else None,
        threshold=window_threshold(feature, rule, features, max(rows, 1)),
    )
