"""Statistics of counts, beside scipy's of the values themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from celeriac.drift import statistics

COUNTS = st.lists(st.integers(0, 1_000), min_size=2, max_size=30)


def binned(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)


def test_beside_scipy_on_fine_bins() -> None:
    chance = np.random.default_rng(1)
    one, other = chance.normal(size=3_000), chance.normal(0.3, 1.2, size=2_000)
    edges = np.linspace(-5, 6, 400)
    p, q = (statistics.shares(binned(values, edges)) for values in (one, other))
    exact = stats.ks_2samp(one, other)
    found = float(statistics.distance("number", p, q))
    assert found == pytest.approx(exact.statistic, abs=0.01)
    assert statistics.distance_p(exact.statistic, 3_000, 2_000) == pytest.approx(
        exact.pvalue, rel=0.5
    )
    assert statistics.wasserstein(edges, p, q) == pytest.approx(
        stats.wasserstein_distance(one, other), rel=0.02
    )


def test_chi_square_beside_scipy() -> None:
    counts = np.array([[120, 300, 80, 500], [100, 340, 60, 520]])
    exact = stats.chi2_contingency(counts, correction=False)
    value, degrees = statistics.chi_square(*counts, 1.0, 1.0)
    assert (value, degrees) == (pytest.approx(exact.statistic), 3)
    assert statistics.chi_square_p(value, degrees) == pytest.approx(exact.pvalue)
    assert statistics.chi_square(*counts, 2.0, 2.0)[0] == pytest.approx(exact.statistic / 2)


def test_corrections_beside_scipy_and_by_hand() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005]
    assert statistics.holm(p_values) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.benjamini_hochberg(p_values) == pytest.approx(
        stats.false_discovery_control(p_values)
    )
    assert statistics.holm([]) == statistics.benjamini_hochberg([]) == []


def test_what_chance_exceeds_as_often_as_stated() -> None:
    chance = np.random.default_rng(2)
    p = np.full(20, 0.05)
    pairs = [chance.multinomial(rows, p, size=2_000) for rows in (1_000, 3_000)]
    one, other = (statistics.shares(counts) for counts in pairs)
    bound = statistics.jensen_shannon_of_chance(0.05, 20, 1_000, 3_000)
    found = [statistics.jensen_shannon(a, b) > bound for a, b in zip(one, other, strict=True)]
    assert np.mean(found) == pytest.approx(0.05, abs=0.015)
    bound = statistics.variation_of_chance(0.05, 20, 1_000, 3_000)
    found = [statistics.distance("category", a, b) > bound for a, b in zip(one, other, strict=True)]
    assert np.mean(found) <= 0.05  # it is a bound
    bound = statistics.distance_of_chance(0.05, 1_000, 3_000)
    assert np.mean(statistics.distance("number", one, other) > bound) <= 0.05  # of bins: less


@given(COUNTS, st.data())
def test_distances_lie_between_nothing_and_all(counts: list[int], data: st.DataObject) -> None:
    others = data.draw(st.lists(st.integers(0, 1_000), min_size=len(counts), max_size=len(counts)))
    reference, current = np.array(counts), np.array(others)
    p, q = statistics.shares(reference), statistics.shares(current)
    for kind in ("number", "category"):
        assert 0 <= statistics.distance(kind, p, q) <= 1
        assert statistics.distance(kind, p, p) == 0
    assert 0 <= statistics.jensen_shannon(p, q) <= 1
    assert statistics.stability_index(reference, current) >= 0
    value, degrees = statistics.chi_square(reference, current, 1.0, 1.0)
    assert value >= 0
    assert 0 <= statistics.chi_square_p(value, degrees) <= 1


def test_nulls_go_in_front() -> None:
    assert statistics.ordered(np.array([1, 2, 3, 9])).tolist() == [9, 1, 2, 3]


def test_far_outliers_count_by_their_way() -> None:
    edges, p = np.array([0.0, 1.0]), np.array([0.0, 1.0, 0.0])
    q = np.array([0.0, 0.9, 0.1])
    assert statistics.wasserstein(edges, p, q, beyond=10.0) == pytest.approx(10.05)
    assert statistics.wasserstein(np.array([]), np.array([1.0]), np.array([1.0])) == 0
