"""What is wrong with a feature without any distribution: missing, of another type, empty, new."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import bdtrc, ndtri

from celeriac.drift import bins
from celeriac.drift.features import Feature
from celeriac.drift.profile import FeatureProfile
from celeriac.drift.records import Finding
from celeriac.reports.charts import number, share

Array = np.ndarray[Any, Any]
LEAST_RISE = 0.05
"""Of the share of nulls, or of unseen values."""
CHANCE = 1e-4
FAR = 3.0
"""Ranges of the reference beyond its ends."""
LEAST_CONSTANT = 100
_TURING = 4.0
"""Good and Turing's estimate is not as sure as a count: its variance is that of those that came
once, and twice that of those that came twice."""


def of_feature(feature: FeatureProfile, one: Feature | None, counts: Array) -> list[Finding]:
    """``bad``: the data are broken; ``look``: odd, and perhaps right. ``counts``: of its bins."""
    if one is None:
        return [Finding(level="bad", what=feature.name, text="is missing")]
    if one.wrong:
        return [Finding(level="bad", what=feature.name, text=one.wrong)]
    if not len(one.values):
        return []
    is_other = bins.is_number(one.values) != (feature.kind == "number")
    if is_other and _any_present(one.values):
        words = {"number": "numbers", "category": "texts"}
        now = words["number" if bins.is_number(one.values) else "category"]
        text = f"has changed its type: the reference holds {words[feature.kind]}, now it is {now}"
        return [Finding(level="bad", what=feature.name, text=text)]
    return [
        *_of_nulls(feature, counts), *_of_new_values(feature, counts),
        *_of_one_value(feature, one.values, counts),
        *([] if is_other else _of_range(feature, one.values)),
    ]


def rise_of_counts(
    feature: FeatureProfile, counts: Array, chance: float
) -> tuple[float, str]:
    """By how much the share of nulls, or of new values, has risen, and what is to be said of it:
    nothing if chance gives as much more often than in ``chance`` of all cases.

    All that is known of a stream are its counts.
    """
    nulls, rows = int(counts[-1]), int(counts.sum())
    rise = nulls / max(rows, 1) - feature.nulls / max(feature.rows, 1)
    if feature.kind == "category":
        new, present = int(counts[-2]), int(counts[:-1].sum())
        before = feature.counts[-2] / max(feature.rows - feature.nulls, 1)
        rise = max(rise, new / max(present, 1) - before)
    said = [*_of_nulls(feature, counts, chance), *_of_new_values(feature, counts, chance)]
    return rise, next((finding.text for finding in said if finding.level == "bad"), "")


def _any_present(values: Array) -> bool:
    if bins.is_number(values):
        return not np.isnan(values).all()
    return any(value is not None for value in values.tolist())


def _of_nulls(
    feature: FeatureProfile, counts: Array, chance: float = CHANCE
) -> Iterator[Finding]:
    nulls, rows = int(counts[-1]), int(counts.sum())
    before = feature.nulls / max(feature.rows, 1)
    tau = max(feature.autocorrelation_rows, feature.null_autocorrelation_rows)
    if _has_risen((nulls, rows), (feature.nulls, feature.rows), tau, chance):
        now = "every value is null" if nulls == rows else f"{share(nulls, rows)} are null"
        text = f"{now}; in the reference {share(before, 1) if before else 'none was'}"
        yield Finding(level="bad", what=feature.name, text=text)
    elif _has_fallen(feature, nulls, rows):
        now = share(nulls, rows) if nulls else "no value"
        text = f"{now} is null; in the reference {share(before, 1)}"
        yield Finding(level="look", what=feature.name, text=text)


def _of_new_values(
    feature: FeatureProfile, counts: Array, chance: float = CHANCE
) -> Iterator[Finding]:
    if feature.kind != "category":
        return
    unseen, rows = int(counts[-2]), int(counts[:-1].sum())
    before = feature.counts[-2], feature.rows - feature.nulls
    if _has_risen((unseen, rows), before, feature.autocorrelation_rows, chance, _TURING):
        text = f"{share(unseen, rows)} of its values were never seen in the reference"
        yield Finding(level="bad", what=feature.name, text=text)


def _of_one_value(feature: FeatureProfile, values: Array, counts: Array) -> Iterator[Finding]:
    rows = int(counts[:-1].sum())
    biggest = max(feature.counts[:-1], default=0) / max(feature.rows - feature.nulls, 1)
    had_several = int((np.asarray(feature.counts[:-1]) > 0).sum()) > 2 and biggest < 0.9
    is_one_bin = int((counts[:-1] > 0).sum()) == 1 and rows >= LEAST_CONSTANT
    if had_several and is_one_bin and _are_alike(values):
        text = f"all {rows:,} values are alike; in the reference they differ"
        yield Finding(level="bad", what=feature.name, text=text)


def _are_alike(values: Array) -> bool:
    if bins.is_number(values):
        return bool(np.nanmin(values) == np.nanmax(values))
    return len(set(values.tolist()) - {None}) == 1


def _of_range(feature: FeatureProfile, values: Array) -> Iterator[Finding]:
    if feature.kind != "number" or len(feature.edges) < 2:
        return
    low, high = feature.ends
    reach = FAR * (high - low)
    with np.errstate(invalid="ignore", over="ignore"):
        far = values[(values > high + reach) | (values < low - reach)]
    if not len(far):
        return
    worst = float(far[np.abs(far).argmax()])
    some = "one value lies" if len(far) == 1 else f"{len(far):,} values lie"
    text = (
        f"{some} far outside of the reference ({number(low)} to {number(high)}): {number(worst)}"
    )
    yield Finding(level="look", what=feature.name, text=text)


def _has_risen(
    now: tuple[int, int], reference: tuple[int, int], tau: float, chance: float, doubt: float = 1.0
) -> bool:
    """More than chance and a little give. ``now`` and ``reference``: so many of so many rows, of
    which ``tau`` tell as much as one that stands alone; ``doubt``: how many times the variance of a
    share that of the reference has."""
    (found, rows), (before, others) = now, reference
    rise = found / max(rows, 1) - before / max(others, 1)
    if rise < LEAST_RISE:
        return False
    expected = (before + 1) / (others + 2)
    own = math.sqrt(doubt * expected * (1 - expected) * tau / max(others, 1))
    if rise < -float(ndtri(chance)) * own:  # the reference itself is a sample
        return False
    alone, trials = max(1, round(found / tau)), max(1, round(rows / tau))
    return float(bdtrc(alone - 1, trials, expected)) < chance


def _has_fallen(feature: FeatureProfile, found: int, rows: int) -> bool:
    before = feature.nulls / max(feature.rows, 1)
    return rows >= LEAST_CONSTANT and before - found / rows >= max(0.2, before / 2)
