"""The cost line: right where sizes differ, sensible where they do not, never negative."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from celeriac.batching.cost import CostLine


def learnt(pairs: list[tuple[int, float]]) -> CostLine:
    line = CostLine()
    for items, seconds in pairs:
        line.observe(items, seconds)
    return line


def test_it_finds_a_line_through_noise() -> None:
    chance = random.Random(1)
    sizes = [chance.choice([1, 4, 16, 32, 64]) for _ in range(300)]
    line = learnt([(n, (0.7e-3 + 0.05e-3 * n) * chance.uniform(0.8, 1.2)) for n in sizes])
    assert line.fixed_s == pytest.approx(0.7e-3, rel=0.3)
    assert line.item_s == pytest.approx(0.05e-3, rel=0.3)


def test_equal_sizes_are_split_evenly() -> None:
    line = learnt([(10, 0.02)] * 50)
    assert line.predicted(10) == pytest.approx(0.02)
    assert line.fixed_s == pytest.approx(0.01)
    assert line.item_s == pytest.approx(0.001)


def test_it_follows_a_model_that_becomes_slower() -> None:
    line = learnt([(n, 0.001 * n) for n in (1, 8, 32) * 50])
    for n in (1, 8, 32) * 150:
        line.observe(n, 0.01 * n)
    assert line.predicted(32) == pytest.approx(0.32, rel=0.1)


def test_one_long_pause_does_not_spoil_it() -> None:
    line = learnt([(n, 0.001 * n) for n in (1, 8, 32) * 50])
    line.observe(8, 10.0)
    assert line.predicted(8) < 0.02


def test_what_fits_a_budget() -> None:
    line = learnt([(n, 0.01 + 0.001 * n) for n in (1, 10, 100) * 100])
    assert line.largest(0.005) == 0
    assert line.largest(0.06) == pytest.approx(50, abs=2)
    assert line.useful(0.5) == pytest.approx(10, abs=1)
    assert line.useful(0.1) == pytest.approx(90, abs=3)


def test_nothing_known_bounds_nothing() -> None:
    line = CostLine()
    assert (line.known, line.predicted(100)) == (False, 0.0)
    assert line.largest(0.0) > 100_000
    assert line.useful(0.05) > 100_000


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 100)), min_size=1, max_size=60))
def test_it_is_never_negative_and_never_falls(pairs: list[tuple[int, float]]) -> None:
    line = learnt(pairs)
    assert line.fixed_s >= 0
    assert line.item_s >= 0
    assert 0 < line.predicted(1) <= line.predicted(2) <= line.predicted(500) < float("inf")
    budget_s = line.predicted(7)
    assert line.predicted(min(line.largest(budget_s), 10_000)) <= budget_s * 1.001
