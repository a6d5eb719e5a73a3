"""Every value has a bin, whatever it is."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

from celeriac.drift import bins

NUMBERS = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=200)


def texts(*values: str | None) -> np.ndarray:
    return np.array(values, dtype=object)


def test_bins_of_a_number() -> None:
    values = np.arange(1_000.0)
    feature = bins.number_feature("x", values)
    assert feature.rows == 1_000
    assert feature.counts[0] == feature.counts[-2] == feature.nulls == 0
    assert set(feature.counts[1:-2]) == {25}
    found = bins.codes(feature, np.array([-0.1, 0, 999, 999.1, np.nan, np.inf, -np.inf]))
    assert found.tolist() == [0, 1, 40, 41, 42, 41, 0]


def test_a_common_value_has_its_own_bin() -> None:
    values = np.concatenate([np.zeros(900), np.arange(1.0, 101.0)])
    feature = bins.number_feature("x", values)
    assert feature.counts[1] == 900


def test_a_constant_tells_smaller_from_larger() -> None:
    feature = bins.number_feature("x", np.full(50, 3.0))
    assert bins.counts(feature, np.array([2.9, 3.0, 3.1, np.nan])).tolist() == [1, 1, 1, 1]
    assert feature.std == 0


def test_a_number_without_any_value() -> None:
    feature = bins.number_feature("x", np.full(5, np.nan))
    assert feature.counts == (0, 5)
    assert bins.codes(feature, np.array([1.0, np.nan])).tolist() == [0, 1]


def test_bins_of_a_category() -> None:
    feature = bins.category_feature("x", texts("a", "a", "a", "b", "b", None))
    assert feature.categories == ("a", "b")
    assert feature.counts == (3, 2, 0, 0, 1)
    assert bins.codes(feature, texts("b", "new", None)).tolist() == [1, 3, 4]


def test_a_category_that_came_once_has_no_bin_however_few_there_are() -> None:
    values = texts("a", "a", "b")
    feature = bins.category_feature("x", values)
    assert (feature.categories, feature.counts) == (("a",), (2, 0, 1, 0))
    assert bins.codes(feature, texts("b", "new")).tolist() == [1, 2]
    assert bins.reference_codes(feature, values).tolist() == [0, 0, 2]


def test_rare_categories_say_how_often_one_is_new() -> None:
    common = [f"c{number}" for number in range(bins.TOP)] * 10
    rare = [*(f"once{number}" for number in range(30)), *["stretch", None] * 2]
    values = texts("twice", *common, *rare, "twice")
    feature = bins.category_feature("x", values)
    assert feature.counts[bins.TOP :] == (2, 32, 2)
    assert bins.reference_codes(feature, values)[-6:].tolist() == [21, 21, 22, 21, 22, 20]
    found = bins.codes(feature, texts("twice", "once7", "stretch", "never"))
    assert found.tolist() == [bins.TOP, bins.TOP, bins.TOP, bins.TOP + 1]


def test_values_of_another_kind_are_nulls() -> None:
    number = bins.number_feature("x", np.arange(10.0))
    category = bins.category_feature("y", texts("a"))
    assert bins.codes(number, texts("a", None)).tolist() == [number.bins - 1] * 2
    assert bins.codes(category, np.array([1.0])).tolist() == [category.bins - 1]


@example([-sys.float_info.max], [])
@example([np.inf], [])
@given(NUMBERS, NUMBERS)
def test_no_number_is_lost(reference: list[float], current: list[float]) -> None:
    feature = bins.number_feature("x", np.array(reference, dtype=float))
    assert feature.rows == len(reference)
    if feature.edges and -sys.float_info.max not in reference:  # there is a number below
        assert feature.counts[0] == sum(value == -np.inf for value in reference)
    counts = bins.counts(feature, np.array(current, dtype=float))
    assert (counts.sum(), counts[-1]) == (len(current), int(np.isnan(current).sum()))


@given(st.lists(st.one_of(st.none(), st.text()), max_size=100))
def test_no_category_is_lost(values: list[str | None]) -> None:
    feature = bins.category_feature("x", texts(*values))
    assert feature.rows == len(values)
    again = bins.counts(feature, texts(*values))
    assert again.sum() == len(values)
    assert again[-2] == 0  # nothing of the reference is unseen


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 299))
def test_counts_of_parts_add_up(values: list[float], cut: int) -> None:
    array = np.array(values)
    feature = bins.number_feature("x", array)
    parts = bins.counts(feature, array[:cut]) + bins.counts(feature, array[cut:])
    assert parts.tolist() == list(feature.counts)


def test_a_profile_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="counts"):
        bins.number_feature("x", np.arange(5.0)).model_validate(
            {"name": "x", "kind": "number", "edges": [1, 2], "counts": [1]}
        )
