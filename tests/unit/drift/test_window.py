"""Windows, thresholds, and what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from celeriac.drift import bins, calibration, window
from celeriac.drift.profile import FeatureProfile, ReferenceProfile

RULE = window.WindowRule(rows=100, rows_between_alarms=10_000)


def series(rows: int, phi: float = 0.0, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(rows + 500) * math.sqrt(1 - phi**2)
    return lfilter([1], [1, -phi], noise)[500:]


def profiled(values: np.ndarray, rows: int = 1_000) -> FeatureProfile:
    feature = bins.number_feature("x", values)
    codes = bins.codes(feature, values)
    tau = calibration.autocorrelation_rows(calibration.series(feature, codes))
    feature = feature.model_copy(update={"autocorrelation_rows": tau})
    found = calibration.calibrate(feature, codes, window_rows=rows)
    return feature.model_copy(update={"calibration": found})


@pytest.mark.parametrize(("phi", "expected"), [(0.0, 1.0), (0.5, 3.0), (0.9, 19.0)])
def test_autocorrelation_time(phi: float, expected: float) -> None:
    found = calibration.autocorrelation_rows(series(40_000, phi))
    assert found == pytest.approx(expected, rel=0.25)


def test_autocorrelation_time_of_odd_series() -> None:
    for values in (np.zeros(100), np.array([]), np.arange(5.0), np.arange(1_000.0)):
        found = calibration.autocorrelation_rows(values)
        assert 1 <= found <= max(1, len(values) / 2)


@pytest.mark.parametrize("phi", [0.0, 0.9])
def test_clean_streams_alarm_as_rarely_as_stated(phi: float) -> None:
    """60 streams of 20,000 rows: 12 alarms are expected at one in 100,000 rows."""
    alarms = 0
    for number in range(20):
        feature = profiled(series(10_000, phi, seed=number))
        values = np.stack([series(20_000, phi, seed=1_000 + 3 * number + one) for one in range(3)])
        assert feature.calibration is not None
        limit = calibration.threshold(feature.calibration, rows_between_alarms=100_000)
        found = largest_distances(feature, values)
        alarms += int((found > limit).sum())
    assert alarms <= 24


def largest_distances(feature: FeatureProfile, values: np.ndarray) -> np.ndarray:
    looks = []
    for stream in values:
        codes = bins.codes(feature, stream)
        stops = range(1_000, len(codes) + 1, 50)
        counts = [np.bincount(codes[at - 1_000 : at], minlength=feature.bins) for at in stops]
        looks.append([window.statistic(feature, one) for one in counts])
    return np.array(looks).max(axis=1)


def test_thresholds_grow_with_what_is_asked_of_them() -> None:
    found = profiled(series(10_000)).calibration
    assert found is not None
    limits = [
        calibration.threshold(found, rows_between_alarms=rows, features=features)
        for rows, features in ((1e4, 1), (1e5, 1), (1e5, 10), (1e6, 100))
    ]
    assert limits == sorted(limits)
    assert 0 < limits[0] < limits[-1] < 0.2
    more = calibration.threshold(found, rows_between_alarms=1e5, window_rows=4_000)
    assert more == pytest.approx(limits[1] / 2)


def test_small_windows_alarm_as_rarely_as_stated() -> None:
    """100 rows where 1,000 were calibrated: 4 alarms are expected in 20 streams of 20,000 rows."""
    alarms = 0
    for number in range(20):
        feature = profiled(series(5_000, seed=number))
        assert feature.calibration is not None
        limit = calibration.threshold(
            feature.calibration, rows_between_alarms=100_000, window_rows=100,
            reference_rows=feature.independent_rows,
        )
        codes = bins.codes(feature, series(20_000, seed=1_000 + number))
        counts = calibration.windows_of(calibration.by_step(codes[None], 5, feature.bins), 20)[0]
        alarms += any(window.statistic(feature, one) > limit for one in counts)
    assert alarms <= 9


def test_autocorrelation_raises_the_threshold() -> None:
    plain, linked = profiled(series(10_000)), profiled(series(10_000, 0.9))
    assert plain.calibration is not None
    assert linked.calibration is not None
    assert calibration.threshold(linked.calibration, rows_between_alarms=1e5) > 2 * (
        calibration.threshold(plain.calibration, rows_between_alarms=1e5)
    )


@pytest.mark.parametrize("rows", [250, 4_000])
def test_of_windows_of_another_size_the_threshold_is_about_what_a_simulation_says(
    rows: int,
) -> None:
    """Neighbours are alike: one row tells as much as a seventh of another one, here and there."""
    values = series(5_000, 0.8)
    feature, own = profiled(values), profiled(values, rows)
    rule = window.WindowRule(rows=rows)
    found, simulated = (window.window_threshold(one, rule, 1, rows) for one in (feature, own))
    assert found == pytest.approx(simulated, rel=0.25)


def test_a_reference_that_is_too_short_has_no_threshold() -> None:
    assert profiled(np.arange(20.0)).calibration is None
    assert profiled(series(300, 0.9)).calibration is None


def profile(feature: FeatureProfile) -> ReferenceProfile:
    return ReferenceProfile(rows=feature.rows, rows_given=feature.rows, features=(feature,))


def bucket(start_s: float, feature: FeatureProfile, values: np.ndarray) -> window.Bucket:
    return window.Bucket(start_s=start_s, counts={"x": bins.counts(feature, values)})


def test_a_window_is_the_newest_rows() -> None:
    feature = profiled(series(5_000), 100)
    buckets = [bucket(at, feature, series(40, seed=at)) for at in range(10)]
    found = window.newest(buckets, RULE, now_s=10)
    assert found is not None
    assert (found.rows("x"), found.start_s, found.end_s) == (120, 7, 9)
    assert window.newest([], RULE, now_s=10) is None


def test_buckets_of_a_clock_that_jumped_and_old_ones_are_left_out() -> None:
    feature = profiled(series(5_000), 100)
    buckets = [bucket(at, feature, series(40)) for at in (-1e9, 1.0, 2.0, 1e9)]
    found = window.newest(buckets, RULE, now_s=3)
    assert found is not None
    assert (found.rows("x"), found.start_s) == (80, 1.0)


def test_counts_of_another_profile_are_not_added_up() -> None:
    feature = profiled(series(5_000), 100)
    other = window.Bucket(start_s=5, counts={"x": np.array([1, 2, 3])})
    found = window.newest([bucket(6, feature, series(40)), other], RULE, now_s=7)
    assert found is not None
    assert found.rows("x") == 40
    (look,) = window.look_at(profile(feature), window.newest([other], RULE, now_s=7), RULE)
    assert (look.rows, look.statistic) == (0, None)


def test_a_look_sees_a_shift_and_says_when_there_is_too_little() -> None:
    feature = profiled(series(5_000), 100)
    shifted = [bucket(at, feature, series(50, seed=at) + 1) for at in range(2)]
    (look,) = window.look_at(profile(feature), window.newest(shifted, RULE, now_s=2), RULE)
    assert look.statistic is not None
    assert look.statistic > look.threshold
    (look,) = window.look_at(
        profile(feature), window.newest([bucket(0, feature, series(10))], RULE, now_s=2), RULE
    )
    assert look.statistic is None
    (look,) = window.look_at(profile(feature), None, RULE)
    assert (look.statistic, look.rows) == (None, 0)


def test_a_window_full_of_nulls_is_far_from_a_reference_without() -> None:
    feature = profiled(series(5_000), 100)
    assert window.statistic(feature, bins.counts(feature, np.full(100, np.nan))) == 1
