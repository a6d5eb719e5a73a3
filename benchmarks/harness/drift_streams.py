"""Streams with and without drift, many at once, and detectors that run over all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.signal import lfilter

from celeriac.drift import bins, calibration, statistics
from celeriac.drift.features import Feature
from celeriac.drift.profile import FeatureProfile
from celeriac.drift.reference import make_profile
from celeriac.drift.window import WindowRule, window_threshold

Array = np.ndarray[Any, Any]
WINDOW, STEP = 1_000, 50
"""Rows of a window, and from one look to the next."""
TUTORIAL_STEP = 10
"""The tutorial looks at each row; looking at each tenth is fewer false alarms, and ten times
faster."""


def autoregressive(chance: np.random.Generator, phi: float, streams: int, rows: int) -> Array:
    """Normal values of variance 1, ``(streams, rows)``; neighbours correlate by ``phi``."""
    noise = chance.standard_normal((streams, rows + 500)) * np.sqrt(1 - phi**2)
    return np.asarray(lfilter([1], [1, -phi], noise, axis=1)[:, 500:])


def profiled(values: Array) -> FeatureProfile:
    """The profile of one feature, as registration makes it."""
    return make_profile({"x": Feature(values)}).features[0]


def distances(feature: FeatureProfile, streams: Array) -> Array:
    """Of each look at each stream, ``(streams, looks)``; the first one sees a full window."""
    codes = bins.codes(feature, streams.ravel()).reshape(streams.shape)
    counts = calibration.by_step(codes, STEP, feature.bins)
    windows = calibration.windows_of(counts, WINDOW // STEP)
    reference = statistics.ordered(np.asarray(feature.counts, dtype=float))
    return np.asarray(statistics.distance(
        feature.kind, statistics.shares(reference), statistics.shares(statistics.ordered(windows))
    ))


def limit(feature: FeatureProfile, rows_between_alarms: float, features: int = 1) -> float:
    """The threshold; nothing passes it where the reference is too short to have one."""
    if feature.calibration is None:
        return 1.0
    return window_threshold(
        feature, WindowRule(rows_between_alarms=rows_between_alarms), features, WINDOW
    )


def tutorial_alarms(reference: Array, streams: Array) -> Array:
    """When the tutorial's test first says drift, in rows of each stream; -1: never.

    ``ks_2samp`` of the newest 1,000 rows and a fixed reference, p < .05. Its statistic is exact
    here: the window's rows are counted between the values of the reference.
    """
    ordered = np.sort(reference)
    size = len(ordered)
    critical = 1.358 * np.sqrt((size + WINDOW) / (size * WINDOW))
    below, above = np.arange(size + 1) / size, np.arange(1, size + 2) / size
    return np.array([_first(np.searchsorted(ordered, one), below, above, critical)
                     for one in streams])


def _first(places: Array, below: Array, above: Array, critical: float) -> int:
    size = len(below)
    counts = np.bincount(places[:WINDOW], minlength=size)
    for at in range(WINDOW, len(places) + 1, TUTORIAL_STEP):
        cumulated = np.cumsum(counts) / WINDOW
        gaps = np.abs(cumulated - below).max(), np.abs(cumulated[:-1] - above[:-1]).max()
        if max(gaps) > critical:
            return at
        stop = min(at + TUTORIAL_STEP, len(places))
        counts += np.bincount(places[at:stop], minlength=size)
        counts -= np.bincount(places[at - WINDOW : stop - WINDOW], minlength=size)
    return -1


def first_alarms(found: Array, threshold: float) -> Array:
    """Rows of each stream at its first alarm; -1: none."""
    above = found > threshold
    first = WINDOW + above.argmax(axis=1) * STEP
    return np.where(above.any(axis=1), first, -1)


def rate(share: float, rows: int) -> float:
    """Alarms in 100,000 rows, if this share of streams of ``rows`` has at least one."""
    return float(-np.log(max(1 - share, 1e-3)) / rows * 100_000)
