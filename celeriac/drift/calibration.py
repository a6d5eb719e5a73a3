"""How far chance alone moves a window: thresholds by a moving-block bootstrap of the reference.

Streams are simulated from blocks of the reference, long enough to keep its autocorrelation, and
the largest distance of each is noted. ``window_rows * distance ** 2`` has a tail like that of an
exponential distribution, so its maxima follow Gumbel's; two numbers of it give the threshold for
any stated expected run time between false alarms, and for any number of features.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from celeriac.drift.profile import Calibration, FeatureProfile
from celeriac.drift.statistics import Kind, distance, ordered, shares

Array = np.ndarray[Any, Any]
WINDOW_ROWS = 1_000
HORIZON_WINDOWS = 10
STREAMS = 100
LOOKS_PER_WINDOW = 20
"""A threshold is for looks as dense as that; whoever looks less often has fewer false alarms."""
BLOCK = 8
"""Autocorrelation times in a block."""
LEAST_BLOCKS = 8
"""With fewer in the reference, there is nothing to draw from."""
LEAST_INDEPENDENT_ROWS = 500
"""With fewer, thresholds are uncertain: a warning says so."""
LEAST_MOVED = 10
"""Rows of a window: fewer are never drift. A reference in which a feature is constant has no chance
of its own, and knows nothing of values that come once in as many rows as it has."""
EULER = 0.5772156649


def autocorrelation_rows(values: Array) -> float:
    """Integrated autocorrelation time, at least 1: of a series ``(rows,)``, or of several
    ``(series, rows)`` together, whose autocovariances add up.

    The sum ends where it has gone on for five times its own value (Sokal's window).
    """
    every = np.atleast_2d(values)
    count = every.shape[1]
    size = 1 << (2 * count - 1).bit_length()
    power = np.zeros(size // 2 + 1)
    for one in every:
        if count >= 8 and one.min() < one.max():
            power += np.abs(np.fft.rfft(one - one.mean(), size)) ** 2
    if not power.any():
        return 1.0
    correlation = np.fft.irfft(power, size)[:count]
    times = 2 * np.cumsum(correlation / correlation[0]) - 1
    ends = np.flatnonzero(np.arange(count) >= 5 * times)
    found = float(times[ends[0]]) if len(ends) else float(times.max())
    return float(min(max(found, 1.0), count / 2))


def series(feature: FeatureProfile, codes: Array) -> Array:
    """What the autocorrelation of a feature is measured on: ranks ``(rows,)``; of a category, for
    each bin which rows are in it, ``(bins, rows)``."""
    if feature.kind == "category":
        is_in: Array = codes == np.arange(feature.bins)[:, None]
        return is_in
    counts = np.asarray(feature.counts, dtype=float)
    cumulated = np.cumsum(ordered(counts))
    middle = np.roll(cumulated - ordered(counts) / 2, -1)
    found: Array = middle[codes] / max(counts.sum(), 1.0)
    return found


def calibrate(
    feature: FeatureProfile, codes: Array, *, seed: int = 0, window_rows: int = WINDOW_ROWS,
    streams: int = STREAMS,
) -> Calibration | None:
    """What chance does to a window of ``window_rows``; None if the reference is too short to say.

    ``codes``: the reference in its order, as numbers of bins.
    """
    count, tau = len(codes), feature.autocorrelation_rows
    block = min(math.ceil(BLOCK * tau), window_rows * HORIZON_WINDOWS)
    if count < LEAST_BLOCKS * block:
        return None
    chance = np.random.default_rng(seed)
    step = max(1, window_rows // LOOKS_PER_WINDOW)
    drawn = _streams(codes, chance, streams, window_rows * HORIZON_WINDOWS, block)
    counts = by_step(drawn, step, feature.bins)
    windows = windows_of(counts, window_rows // step)
    reference = _references(feature, chance, streams)
    found = distance(feature.kind, reference[:, None, :], shares(_laid_out(feature.kind, windows)))
    largest = window_rows * found.max(axis=1) ** 2
    location, scale = _gumbel(largest)
    return Calibration(
        window_rows=window_rows, horizon_rows=step * windows.shape[1], location=location,
        scale=scale,
    )


def threshold(
    calibration: Calibration, *, rows_between_alarms: float, features: int = 1,
    window_rows: int | None = None, reference_rows: float = math.inf,
) -> float:
    """The distance that a window exceeds by chance once in ``rows_between_alarms`` rows, if
    ``features`` are watched together (Sidak).

    ``window_rows``: of the window at hand, if it is not the one that was calibrated;
    ``reference_rows``: of the reference, which has chance of its own. Both depend on each other
    alike, so rows may be counted as they are.
    """
    rows = window_rows or calibration.window_rows
    # A smaller window is another one sooner: as many of them as were simulated take fewer rows.
    horizon = calibration.horizon_rows * min(1.0, rows / calibration.window_rows)
    alarms = horizon / rows_between_alarms / max(features, 1)
    squared = calibration.location - calibration.scale * math.log(alarms)
    found = math.sqrt(max(squared, 0.0) / calibration.window_rows)
    if rows != calibration.window_rows:
        own = 1 / reference_rows
        found *= math.sqrt((1 / rows + own) / (1 / calibration.window_rows + own))
    return min(max(found, LEAST_MOVED / rows), 1.0)


def _streams(codes: Array, chance: Any, streams: int, rows: int, block: int) -> Array:
    """``(streams, rows)`` of blocks drawn from the reference; it goes on with its beginning."""
    blocks = -(-rows // block)
    starts = chance.integers(0, len(codes), (streams, blocks, 1))
    at = (starts + np.arange(block)) % len(codes)
    drawn: Array = codes[at.reshape(streams, -1)[:, :rows]]
    return drawn


def by_step(codes: Array, step: int, bins: int) -> Array:
    """Numbers of bins ``(streams, rows)`` as counts ``(streams, steps, bins)``."""
    streams, rows = codes.shape
    steps = rows // step
    place = np.arange(streams * steps).reshape(streams, steps, 1) * bins
    flat = codes[:, : steps * step].reshape(streams, steps, step) + place
    return np.bincount(flat.ravel(), minlength=streams * steps * bins).reshape(streams, steps, bins)


def windows_of(counts: Array, steps: int) -> Array:
    """Sums of ``steps`` neighbours: ``(streams, looks, bins)``."""
    sums = np.cumsum(counts, axis=1)
    windows = sums[:, steps - 1 :].copy()
    windows[:, 1:] -= sums[:, :-steps]
    return windows


def _references(feature: FeatureProfile, chance: Any, streams: int) -> Array:
    """Shares of references that chance could have given instead, one for each stream."""
    own = np.asarray(feature.counts, dtype=float)
    rows = max(1, round(feature.independent_rows))
    found = chance.multinomial(rows, own / own.sum(), size=streams)
    return shares(_laid_out(feature.kind, found))


def _laid_out(kind: Kind, counts: Array) -> Array:
    return ordered(counts) if kind == "number" else counts


def _gumbel(largest: Array) -> tuple[float, float]:
    """Location and scale by probability-weighted moments, which single values hardly move."""
    rising = np.sort(largest)
    ranks = np.arange(len(rising)) / max(len(rising) - 1, 1)
    mean, weighted = rising.mean(), (ranks * rising).mean()
    scale = max((2 * weighted - mean) / math.log(2), 1e-9)
    return float(mean - EULER * scale), float(scale)
