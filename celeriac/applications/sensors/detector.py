"""The robust detector: how far is a reading from the median of those before it?

The Hampel identifier (F. R. Hampel 1974, "The influence curve and its role in robust estimation",
JASA 69; L. Davies and U. Gather 1993, "The identification of multiple outliers", JASA 88) over a
moving window (R. K. Pearson 2002, "Outliers in process modeling and identification", IEEE TCST 10),
of readings that came before alone, so that it can answer at once:

    score = |x - median| / (1.4826 * MAD)

MAD is the median distance from the median; 1.4826 makes it the standard deviation of normal noise.
Median and MAD are right while fewer than half of the window are wrong. With the default window of
60 and threshold of 8, none of 20,000,000 readings of independent normal noise was called an
anomaly, and one of 1,400 where the noise has Laplace's heavier tails; docs/sensors.md has more
rates, on real weather too, and the command that measures them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

NORMAL = 1.4826
"""Standard deviations of normal noise in one MAD."""
LEAST_HISTORY = 20
"""With fewer readings before it, a reading is not judged."""
RELATIVE_SCALE = 1e-3
"""Of the median: less than this counts as no change where a sensor stood still."""
_MOST_SCORE = 1e300
_MOST_CELLS = 2_000_000
"""Numbers that are sorted at once."""


def scores(history: Array, values: Array, min_scale: float = 0.0) -> Array:
    """The score of each reading; of several channels, the largest.

    ``history`` is ``(readings, window, channels)`` with NaN where nothing came yet, ``values``
    ``(readings, channels)``. NaN: not judged (too little history, or one that stood at 0).
    """
    readings, window, channels = history.shape
    found = np.empty(readings)
    step = max(1, _MOST_CELLS // max(1, window * channels))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for start in range(0, readings, step):
            part = slice(start, start + step)
            each = [
                _of_channel(history[part, :, channel], values[part, channel], min_scale)
                for channel in range(channels)
            ]
            found[part] = np.fmax.reduce(each)
    return found


def _of_channel(history: Array, values: Array, min_scale: float) -> Array:
    count = (~np.isnan(history)).sum(axis=1)
    median = _median(history, count)
    away = np.abs(history - median[:, None])
    scale = NORMAL * _median(away, count)
    # More than half of the window is one value: then what counts is the largest step it has seen.
    still = scale == 0
    if still.any():
        scale[still] = np.fmax.reduce(away[still], axis=1)
    scale = np.fmax(scale, np.fmax(min_scale, np.where(
        scale == 0, RELATIVE_SCALE * np.abs(median), 0.0
    )))  # fmt: skip
    distance = np.abs(values - median)
    score = np.where(distance == 0, 0.0, np.fmin(distance / scale, _MOST_SCORE))
    return np.where((count >= LEAST_HISTORY) & ((scale > 0) | (distance == 0)), score, np.nan)


def _median(rows: Array, count: Array) -> Array:
    """Of the ``count`` numbers of each row; the others are NaN, which sorts to the end."""
    ordered = np.sort(rows, axis=1)
    place = np.arange(len(rows))
    top = np.maximum(count, 1)
    low, high = ordered[place, (top - 1) // 2], ordered[place, top // 2]
    middle: Array = low / 2 + high / 2
    return middle
