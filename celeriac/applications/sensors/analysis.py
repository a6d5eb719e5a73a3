"""A batch of one sensor's readings: what is usual, does it rise, what is missing?

The trend of a channel is Theil's slope (H. Theil 1950, the incomplete method: each reading beside
the one half a batch later), which outliers do not move. Its significance is that of Mann and
Kendall (Kendall's tau of values and times), with the variance that neighbours which resemble each
other make larger (K. Hamed and A. R. Rao 1998, "A modified Mann-Kendall trend test for
autocorrelated data", J. Hydrology 204): without it, every slow wave would be a trend.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from celeriac.applications.sensors import rows

Array = np.ndarray[Any, Any]

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
SIGNIFICANT = 0.01
"""A trend with a smaller p is called one."""
LEAST_FOR_TREND = 20
GAP_FACTOR = 3.0
"""A pause so many times as long as usual is a missing period."""
MOST_GAPS = 10
"""Missing periods that are named; all are counted."""
_HUGE = 1e150
_DISTINCT_SHARE = 0.5
"""With fewer different values than this share of the readings, the mode is the most frequent."""

Direction = Literal["increasing", "decreasing", "none"]


@dataclass(frozen=True, kw_only=True)
class Trend:
    """Does a channel rise or fall over the batch?"""

    slope_per_hour: float
    p: float
    """How often chance alone would show as much."""
    direction: Direction
    """``none`` unless ``p`` is below :data:`SIGNIFICANT`."""


@dataclass(frozen=True, kw_only=True)
class ChannelAnalysis:
    """One number of the readings."""

    mean: float
    std: float
    median: float
    mode: float
    mode_is: Literal["most frequent", "densest"]
    """The value that came most often; or, where values hardly repeat, where they lie closest."""
    min: float
    max: float
    quantiles: dict[str, float]
    trend: Trend | None
    """None: too few readings, or all of one value."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A missing period."""

    after_ms: int
    before_ms: int
    missing: int
    """Readings that would have come at the usual interval."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What a batch says."""

    readings: int
    from_ms: int
    to_ms: int
    interval_s: float | None
    """Between readings, as a rule (the median)."""
    anomalies: int
    judged: int
    worst_score: float | None
    worst_at_ms: int | None
    gaps: tuple[Gap, ...]
    """The longest, by time."""
    gap_count: int
    missing: int
    """Readings that all gaps lack."""
    channels: tuple[ChannelAnalysis, ...]


def analyse(readings: Array, previous_ms: int | None = None) -> Analysis:
    """Look at at least one reading, as :mod:`celeriac.applications.sensors.rows` has them.

    ``previous_ms`` is the newest reading of the batches before: what lacks between two is a gap,
    too. Of readings that were overtaken by a whole batch no gap is told: that batch has the others.
    """
    readings = readings[np.argsort(readings["at_ms"], kind="stable")]
    at_ms, score = readings["at_ms"], readings["score"]
    judged = readings["verdict"] != rows.UNJUDGED
    worst = int(np.where(judged, score, -np.inf).argmax()) if judged.any() else None
    interval_s, gaps = _gaps(at_ms, previous_ms)
    longest = sorted(gaps, key=lambda gap: gap.after_ms - gap.before_ms)[:MOST_GAPS]
    return Analysis(
        readings=len(readings), from_ms=int(at_ms[0]), to_ms=int(at_ms[-1]), interval_s=interval_s,
        anomalies=int((readings["verdict"] == rows.ANOMALY).sum()), judged=int(judged.sum()),
        worst_score=None if worst is None else float(score[worst]),
        worst_at_ms=None if worst is None else int(at_ms[worst]),
        gaps=tuple(sorted(longest, key=lambda gap: gap.after_ms)), gap_count=len(gaps),
        missing=sum(gap.missing for gap in gaps),
        channels=tuple(_channel(at_ms, values) for values in readings["values"].T),
    )


def _gaps(at_ms: Array, previous_ms: int | None) -> tuple[float | None, list[Gap]]:
    times = at_ms if previous_ms is None else np.r_[previous_ms, at_ms[at_ms > previous_ms]]
    between = np.diff(times)
    between = between[between > 0]
    if not len(between):
        return None, []
    usual_ms = float(np.median(between))
    starts = np.flatnonzero(np.diff(times) > GAP_FACTOR * usual_ms)
    gaps = [
        Gap(
            after_ms=int(times[at]), before_ms=int(times[at + 1]),
            missing=max(1, round((times[at + 1] - times[at]) / usual_ms) - 1),
        )
        for at in starts
    ]
    return usual_ms / 1_000, gaps


def _channel(at_ms: Array, values: Array) -> ChannelAnalysis:
    mode, mode_is = mode_of(values)
    least, most = float(values.min()), float(values.max())
    largest = max(-least, most)
    unit = largest if largest > _HUGE else 1.0  # sums of such numbers would not be finite
    scaled = values / unit

    def inside(value: Any) -> float:
        return min(max(float(value) * unit, least), most)

    return ChannelAnalysis(
        mean=inside(scaled.mean()), std=_finite(float(scaled.std()) * unit),
        median=inside(np.median(scaled)), mode=mode, mode_is=mode_is, min=least, max=most,
        quantiles={
            f"{share:g}": inside(found)
            for share, found in zip(QUANTILES, np.quantile(scaled, QUANTILES), strict=True)
        },
        trend=trend_of(at_ms, scaled, unit),
    )


def _finite(value: float) -> float:
    most = float(np.finfo(np.float64).max)
    return min(max(value, -most), most)


def mode_of(values: Array) -> tuple[float, Literal["most frequent", "densest"]]:
    """The most frequent value; where values hardly repeat, the half-sample mode (D. Bickel and
    R. Fruehwirth 2006): the half of the values that lie closest, of that again the half ..."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= max(1, _DISTINCT_SHARE * len(values)):
        return float(distinct[counts.argmax()]), "most frequent"
    ordered = np.sort(values)
    while len(ordered) > 2:
        half = (len(ordered) + 1) // 2
        widths = ordered[half - 1 :] / 2 - ordered[: len(ordered) - half + 1] / 2
        start = int(widths.argmin())
        ordered = ordered[start : start + half]
    middle = ordered[0] / 2 + ordered[-1] / 2  # half of the least number there is, is none
    return float(min(max(middle, ordered[0]), ordered[-1])), "densest"


def trend_of(at_ms: Array, values: Array, unit: float = 1.0) -> Trend | None:
    """The trend of values, which stand for ``unit`` times as much; times rise."""
    count = len(values)
    if count < LEAST_FOR_TREND or values.min() == values.max() or at_ms[0] == at_ms[-1]:
        return None
    half = count // 2
    hours = (at_ms[count - half :] - at_ms[:half]) / 3_600_000
    apart = hours > 0
    slope = float(np.median((values[count - half :] - values[:half])[apart] / hours[apart]))
    p = _significance(at_ms, values, slope)
    direction: Direction = "none"
    if p < SIGNIFICANT and slope:
        direction = "increasing" if slope > 0 else "decreasing"
    return Trend(slope_per_hour=_finite(slope * unit), p=p, direction=direction)


def _significance(at_ms: Array, values: Array, slope: float) -> float:
    from scipy import stats

    tau = float(stats.kendalltau(at_ms, values).statistic)
    if math.isnan(tau):
        return 1.0
    rest = stats.rankdata(values - slope * (at_ms - at_ms[0]) / 3_600_000)
    inflation = _inflation(rest)
    variance = _variance(values) * inflation  # made larger by what neighbours share
    return float(2 * stats.norm.sf(abs(tau) / math.sqrt(variance)))


def _variance(values: Array) -> float:
    """Of tau-b beside times that are all different, where nothing depends on anything: values that
    are equal make it larger (Kendall)."""
    count = len(values)
    ties = np.unique(values, return_counts=True)[1].astype(float)
    pairs = count * (count - 1) / 2
    untied = pairs - float((ties * (ties - 1)).sum()) / 2
    lost = float((ties * (ties - 1) * (2 * ties + 5)).sum())
    return (2 * pairs * (2 * count + 5) - lost) / (18 * pairs * untied)


def _inflation(ranks: Array) -> float:
    """By how much likeness of neighbours makes the variance of tau larger (Hamed and Rao)."""
    count = len(ranks)
    centred = ranks - ranks.mean()
    power = float(centred @ centred)
    if power == 0:
        return 1.0
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(centred, size)) ** 2
    likeness = np.fft.irfft(spectrum, size)[1 : count - 2] / power
    lags = np.arange(1, count - 2)
    # Beyond the first lag that chance explains, and every later one, there is but noise.
    limit = 1.96 / math.sqrt(count)
    faint = np.flatnonzero(likeness < limit)
    end = int(faint[0]) if len(faint) else len(likeness)
    lags, likeness = lags[:end], likeness[:end]
    weights = (count - lags) * (count - lags - 1) * (count - lags - 2)
    total = 2 / (count * (count - 1) * (count - 2)) * float((weights * likeness).sum())
    return max(1.0, 1.0 + total)
