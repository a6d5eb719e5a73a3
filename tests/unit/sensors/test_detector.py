"""The robust detector: what it calls strange, how often it is wrong, and what it does not judge."""

from __future__ import annotations

import numpy as np
import pytest

from celeriac.applications.sensors import detector

NAN = float("nan")


def score(history: list[float], value: float, min_scale: float = 0.0) -> float:
    found = detector.scores(
        np.array(history)[None, :, None], np.array([[value]]), min_scale=min_scale
    )
    return float(found[0])


def test_the_score_is_the_distance_in_robust_standard_deviations() -> None:
    history = [float(number) for number in range(21)]  # median 10, MAD 5
    assert score(history, 10) == 0
    assert score(history, 10 + 1.4826 * 5 * 3) == pytest.approx(3)
    assert score(history, 10 - 1.4826 * 5 * 3) == pytest.approx(3)
    assert score([NAN] * 7 + history, 40) == pytest.approx(score(history, 40))


def test_up_to_half_of_the_history_may_be_wrong() -> None:
    rng = np.random.default_rng(1)
    clean = rng.normal(100, 1, 60)
    spoilt = np.where(np.arange(60) % 5 < 2, 1e9, clean)  # 40 % are nonsense
    assert score(spoilt.tolist(), 100) < 2
    assert score(spoilt.tolist(), 1e9) > 1e6


def test_too_short_a_history_is_not_judged() -> None:
    assert np.isnan(score([1.0, 2.0] * 9, 100))
    assert score([1.0, 2.0] * 10, 100) > 8


def test_a_sensor_that_stood_still() -> None:
    still = [20.0] * 60
    assert score(still, 20.0) == 0
    assert score(still, 20.01) < 1
    assert score(still, 400.0) > 1_000
    assert np.isnan(score([0.0] * 60, 0.3)), "from 0 there is nothing to measure by"
    assert score([0.0] * 60, 0.3, min_scale=0.1) == pytest.approx(3)
    rare = [0.0] * 58 + [0.2, 0.1]
    assert score(rare, 0.2) == pytest.approx(1), "as large a step as it has seen is none"
    assert score(rare, 20.0) == pytest.approx(100)


def test_of_several_channels_the_worst_counts() -> None:
    rng = np.random.default_rng(2)
    history = rng.normal(0, 1, (1, 60, 3))
    assert detector.scores(history, np.array([[0.0, 50.0, 0.0]]))[0] > 20
    history[0, :, 2] = 0.0
    assert detector.scores(history, np.array([[0.0, 0.0, 7.0]]))[0] < 2, "one that is not judged"


@pytest.mark.parametrize(("draw", "most"), [("normal", 5e-5), ("laplace", 2e-3)])
def test_false_alarms_on_noise_are_as_rare_as_is_said(draw: str, most: float) -> None:
    rng = np.random.default_rng(3)
    line = getattr(rng, draw)(size=100_060)
    history = np.lib.stride_tricks.sliding_window_view(line, 60)[:100_000, :, None]
    found = detector.scores(np.ascontiguousarray(history), line[60:, None])
    assert np.isfinite(found).all()
    assert (found > 8).mean() <= most


def test_numbers_near_the_largest_do_no_harm() -> None:
    assert score([1e308, -1e308] * 30, 1e308) < 8
    assert not np.isinf(score([1.0] * 60, 1e308))
