"""What a batch of readings says."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from celeriac.applications.sensors import analysis, record, rows
from celeriac.applications.sensors.analysis import analyse, mode_of, trend_of

MINUTE = 60_000


def batch(values: Any, at_ms: Any = None, score: Any = None) -> Any:
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[:, None] if numbers.ndim == 1 else numbers
    at = np.arange(len(numbers)) * MINUTE if at_ms is None else np.asarray(at_ms)
    scores = np.full(len(numbers), np.nan) if score is None else np.asarray(score, dtype=float)
    return rows.of(at, scores, 8.0, numbers)


def test_the_usual_figures() -> None:
    values = [1.0, 2.0, 2.0, 3.0, 10.0]
    [channel] = analyse(batch(values)).channels
    assert channel.mean == pytest.approx(np.mean(values))
    assert channel.std == pytest.approx(np.std(values))
    assert (channel.median, channel.min, channel.max) == (2.0, 1.0, 10.0)
    assert channel.quantiles["0.25"] == pytest.approx(2.0)
    assert channel.trend is None, "too few to say"


def test_the_mode_is_the_most_frequent_value_or_where_values_lie_closest() -> None:
    assert mode_of(np.array([3.0, 1.0, 3.0, 2.0, 3.0, 2.0])) == (3.0, "most frequent")
    assert mode_of(np.array([7.0])) == (7.0, "most frequent")
    assert mode_of(np.array([-1.0, -5e-324, -5e-324])) == (-5e-324, "densest")  # half of it is 0
    rng = np.random.default_rng(5)
    mode, kind = mode_of(rng.gamma(5.0, 2.0, 4_000))  # whose mode is 8, whose mean is 10
    assert kind == "densest"
    assert mode == pytest.approx(8.0, abs=1.0)


def test_a_trend_has_a_slope_that_outliers_do_not_move() -> None:
    rng = np.random.default_rng(6)
    values = 5 + np.arange(600) / 60 * 0.5 + rng.normal(0, 0.3, 600)  # 0.5 an hour
    values[::50] = -1e4
    [channel] = analyse(batch(values)).channels
    assert channel.trend is not None
    assert channel.trend.slope_per_hour == pytest.approx(0.5, rel=0.05)
    assert channel.trend.direction == "increasing"
    assert channel.trend.p < 1e-6
    falling = trend_of(np.arange(600) * MINUTE, -values)
    assert falling is not None
    assert falling.direction == "decreasing"


def test_the_p_of_values_that_are_often_equal_is_as_stated() -> None:
    """Of a machine that is on or off by chance: one in a hundred is below 0.01."""
    rng = np.random.default_rng(0)
    at_ms = np.arange(500) * MINUTE
    trends = [trend_of(at_ms, (rng.random(500) < 0.3).astype(float)) for _ in range(400)]
    found = sum(trend is not None and trend.p < 0.01 for trend in trends)
    assert found <= 8


@pytest.mark.parametrize(("likeness", "most"), [(0.0, 0.03), (0.6, 0.05), (0.9, 0.09)])
def test_chance_is_seldom_called_a_trend(likeness: float, most: float) -> None:
    """Also where neighbours resemble each other: plain Mann-Kendall would be wrong in half of the
    cases at 0.9."""
    rng = np.random.default_rng(7)
    at_ms, found = np.arange(300) * MINUTE, 0
    for _ in range(200):
        steps = rng.normal(size=400)
        line = np.zeros(400)
        for at in range(1, 400):
            line[at] = likeness * line[at - 1] + steps[at]
        trend = trend_of(at_ms, line[100:])
        found += trend is not None and trend.direction != "none"
    assert found / 200 <= most


def test_missing_periods() -> None:
    at_ms = [0, 1, 2, 3, 10, 11, 12, 30, 31]
    found = analyse(batch([1.0] * 9, np.array(at_ms) * MINUTE))
    assert found.interval_s == 60
    assert [(gap.after_ms // MINUTE, gap.before_ms // MINUTE, gap.missing) for gap in found.gaps] \
        == [(3, 10, 6), (12, 30, 17)]
    assert (found.gap_count, found.missing) == (2, 23)
    after = analyse(batch([1.0] * 9, np.array(at_ms) * MINUTE), previous_ms=-100 * MINUTE)
    assert after.gaps[0].after_ms == -100 * MINUTE, "between two batches, too"
    late = analyse(batch([1.0] * 9, np.array(at_ms) * MINUTE), previous_ms=5 * MINUTE)
    assert late.gap_count == 2, "the batch before may end later: readings come out of order"


def test_a_reading_that_a_whole_batch_overtook_makes_no_missing_period() -> None:
    """The batch before has the readings 0 to 99, but not 50."""
    at_ms = np.array([50, *range(100, 120)]) * MINUTE
    found = analyse(batch(np.ones(21), at_ms), previous_ms=99 * MINUTE)
    assert (found.gap_count, found.interval_s, found.readings) == (0, 60, 21)
    alone = analyse(batch(np.ones(1), [50 * MINUTE]), previous_ms=99 * MINUTE)
    assert (alone.gap_count, alone.interval_s) == (0, None)


def test_many_gaps_are_counted_and_the_longest_named() -> None:
    at = np.cumsum(np.where(np.arange(400) % 20 == 0, 50, 1)) * MINUTE
    at[200:] += 1_000 * MINUTE
    found = analyse(batch(np.ones(400), at))
    assert found.gap_count == 19
    assert len(found.gaps) == analysis.MOST_GAPS
    assert max(gap.missing for gap in found.gaps) > 1_000


def test_anomalies_are_those_that_were_called_so() -> None:
    found = analyse(batch([1.0, 2.0, 3.0, 4.0], score=[np.nan, 1.0, 12.0, 9.0]))
    assert (found.anomalies, found.judged, found.worst_at_ms) == (2, 3, 2 * MINUTE)
    assert found.worst_score == pytest.approx(12)
    below = analyse(batch([1.0, 2.0, 3.0], score=[np.nan, -7.0, -1e300]))
    assert (below.worst_score, below.worst_at_ms) == (-7, MINUTE), "a model may judge below 0"


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=150)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=60), st.randoms())
def test_whatever_the_numbers_are_the_record_is_json_and_order_does_not_matter(
    values: list[tuple[float, float]], rng: Any
) -> None:
    at_ms = sorted(rng.sample(range(10**9), len(values)))
    whole = batch(values, at_ms, [rng.choice([np.nan, 3.0, 1e300, -1e300]) for _ in values])
    with np.errstate(over="ignore"):
        found = analyse(whole)
    text = json.dumps(record.of(found, sensor="a"), allow_nan=False)
    assert json.loads(text)["readings"] == len(values)
    shuffled = whole[rng.sample(range(len(values)), len(values))]
    with np.errstate(over="ignore"):
        assert asdict(analyse(shuffled)) == asdict(found)
    for channel in found.channels:
        assert channel.min <= channel.median <= channel.max
        assert channel.min <= channel.mode <= channel.max
