"""The pace of a queue: honest, and not moved by one hiccup."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from celeriac.batching.pace import Pace


def test_too_little_says_nothing() -> None:
    pace = Pace()
    pace.observe(10, 0.1)
    assert pace.item_s == 0
    pace.observe(10, 0.15)
    assert pace.item_s == pytest.approx(0.0125)


def test_it_follows_a_change() -> None:
    pace = Pace()
    for _ in range(100):
        pace.observe(10, 0.1)
    assert pace.item_s == pytest.approx(0.01)
    for _ in range(20):
        pace.observe(10, 0.5)
    assert pace.item_s == pytest.approx(0.05, rel=0.1)
    for _ in range(100):
        pace.observe(10, 0.1)
    assert pace.item_s == pytest.approx(0.01, rel=0.1)


def test_a_pause_is_no_pace() -> None:
    pace = Pace()
    for _ in range(100):
        pace.observe(10, 0.1)
    pace.observe(10, 60.0)
    assert pace.item_s < 0.015


@given(st.lists(st.tuples(st.integers(0, 500), st.floats(0, 100)), max_size=60))
def test_it_is_between_the_slowest_and_the_fastest(batches: list[tuple[int, float]]) -> None:
    pace = Pace()
    for items, seconds in batches:
        pace.observe(items, seconds)
    slowest = max((seconds / max(1, items) for items, seconds in batches), default=0.0)
    assert 0 <= pace.item_s <= slowest * 1.001
