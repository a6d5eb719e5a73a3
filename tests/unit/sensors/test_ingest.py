"""Many readings at once, in any order, some of them twice: states, answers and alarms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from celeriac.applications.sensors import alarms, ingest, rows, state
from celeriac.applications.sensors.ingest import (
    ACCEPTED,
    CONFLICT,
    DUPLICATE,
    LATE,
    Came,
    Rule,
    Taken,
)
from celeriac.drift.episodes import Hysteresis

WINDOW = 25
Reading = tuple[int, int, float]
"""Sensor, time in ms, value."""


def take(states: Any, readings: list[Reading], rule: Rule | None = None) -> Taken:
    sensor = np.array([one[0] for one in readings], dtype=np.int64)
    at_ms = np.array([one[1] for one in readings], dtype=np.int64)
    values = np.array([[one[2]] for one in readings], dtype=np.float64).reshape(-1, 1)
    names = [f"s{place}" for place in range(len(states))]
    return ingest.take(states, names, Came(sensor, at_ms, values), rule or Rule())


def value_at(sensor: int, at: int) -> float:
    return float((at * 7 + sensor) % 11)


READINGS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), max_size=80)


@settings(max_examples=200)
@given(READINGS, st.randoms(use_true_random=False), st.integers(1, 7))
def test_any_order_and_repetition_leaves_the_same_readings_and_counts_each_once(
    readings: list[tuple[int, int]], rng: Any, size: int
) -> None:
    """Within what a window remembers; here all of a sensor's readings fit into it."""
    readings = [one for one in readings if one[1] < WINDOW]
    plain = [(sensor, at * 1_000, value_at(sensor, at)) for sensor, at in dict.fromkeys(readings)]
    mixed = plain + [rng.choice(plain) for _ in range(len(plain) // 2)]
    rng.shuffle(mixed)
    states, outcomes, kept = state.new(3, WINDOW, 1), [], []
    for start in range(0, len(mixed), size):
        taken = take(states, mixed[start : start + size])
        outcomes += taken.judged.outcome.tolist()
        kept += taken.rows["at_ms"].tolist()
    once = state.new(3, WINDOW, 1)
    take(once, plain)
    for field in ("times", "values", "accepted"):
        assert np.array_equal(states[field], once[field]), field
    assert outcomes.count(ACCEPTED) == len(plain) == len(kept)
    assert set(outcomes) <= {ACCEPTED, DUPLICATE}
    assert sorted(kept) == sorted(at for _, at, _ in plain)


@settings(max_examples=200)
@given(READINGS, st.randoms(use_true_random=False), st.integers(1, 9))
def test_what_is_remembered_is_the_newest_in_whatever_order_they_came(
    readings: list[tuple[int, int]], rng: Any, size: int
) -> None:
    mixed = [(sensor, at * 1_000, value_at(sensor, at)) for sensor, at in readings]
    mixed += [rng.choice(mixed) for _ in range(len(mixed) // 3)]
    rng.shuffle(mixed)
    states, accepted, late = state.new(3, WINDOW, 1), set(), 0
    for start in range(0, len(mixed), size):
        part = mixed[start : start + size]
        for reading, outcome in zip(part, take(states, part).judged.outcome, strict=True):
            if outcome == ACCEPTED:
                assert reading not in accepted, "counted twice"
                accepted.add(reading)
            elif outcome == DUPLICATE:
                assert reading in accepted
            else:
                assert outcome == LATE
                late += 1
    for sensor in range(3):
        newest = sorted({at for one, at, _ in mixed if one == sensor})[-WINDOW:]
        found = states["times"][sensor]
        assert found[found != state.EMPTY].tolist() == newest
    assert accepted >= {one for one in mixed if one[1] in states["times"][one[0]]}
    assert states["accepted"].sum() == len(accepted)


def test_one_by_one_and_all_at_once_give_the_same_answers() -> None:
    rng = np.random.default_rng(4)
    line = [(0, at * 1_000, float(rng.normal())) for at in range(200)]
    line[150] = (0, 150_000, 40.0)
    one, many = state.new(1, 60, 1), state.new(1, 60, 1)
    singly = [take(one, [reading]).judged for reading in line]
    together = take(many, line).judged
    assert np.array_equal(
        np.concatenate([judged.score for judged in singly]), together.score, equal_nan=True
    )
    assert together.score[150] > 8
    assert np.isnan(together.score[:20]).all()
    one["token"] = many["token"]
    assert one.tobytes() == many.tobytes()


def test_another_value_for_the_same_time_is_a_conflict_and_the_first_stays() -> None:
    states = state.new(1, WINDOW, 1)
    assert take(states, [(0, 1_000, 1.0), (0, 1_000, 2.0)]).judged.outcome.tolist() == [0, CONFLICT]
    assert take(states, [(0, 1_000, 3.0)]).judged.outcome.tolist() == [CONFLICT]
    assert states["values"][0, -1, 0] == 1.0


def test_what_is_older_than_all_that_is_remembered_is_late() -> None:
    states = state.new(1, WINDOW, 1)
    take(states, [(0, at * 1_000, 0.0) for at in range(100, 100 + WINDOW)])
    before = states.copy()
    taken = take(states, [(0, 99_999, 1.0)])
    assert taken.judged.outcome.tolist() == [LATE]
    assert not len(taken.rows)
    assert states.tobytes() == before.tobytes()


def test_rows_are_by_sensor_and_time_and_carry_their_verdict() -> None:
    states = state.new(3, WINDOW, 1)
    line = [(2, at * 1_000, float(at % 3)) for at in range(24)]
    taken = take(states, [*line, (2, 24_000, 1e6), (0, 5_000, 1.0), (0, 4_000, 2.0)])
    assert taken.counts.tolist() == [2, 0, 25]
    assert taken.rows["at_ms"].tolist()[:2] == [4_000, 5_000]
    assert taken.rows["verdict"].tolist()[-1] == rows.ANOMALY
    assert taken.rows["verdict"].tolist()[0] == rows.UNJUDGED
    assert states["anomalies"].tolist() == [0, 0, 1]


def test_an_alarm_opens_with_an_anomaly_and_closes_after_calm() -> None:
    rule = Rule(hysteresis=Hysteresis(close_below=0.8, close_looks=3))
    states = state.new(2, WINDOW, 1)
    take(states, [(0, at * 1_000, float(at % 3)) for at in range(24)])
    readings = [
        (0, 24_000, 50.0), (0, 25_000, 1.0), (0, 26_000, 1.0), (0, 27_000, 60.0), (0, 28_000, 1.0),
        (0, 29_000, 1.0), (0, 30_000, 1.0),
    ]  # fmt: skip
    seen = []
    for reading in readings:
        judged = take(states, [reading], rule).judged
        seen.append((bool(judged.is_open[0]), [change.event for change in judged.changes]))
    assert seen == [
        (True, ["opened"]), (True, []), (True, []), (True, []), (True, []), (True, []),
        (False, ["closed"]),
    ]  # fmt: skip
    states = state.new(2, WINDOW, 1)
    take(states, [(0, at * 1_000, float(at % 3)) for at in range(24)])
    together = take(states, readings, rule).judged
    assert [change.event for change in together.changes] == ["opened", "closed"]
    assert together.is_open.tolist() == [True] * 6 + [False]
    assert together.changes[1].episode.peak > together.changes[1].episode.opened_with


def test_a_late_anomaly_opens_an_alarm_and_late_calm_closes_none() -> None:
    states = state.new(1, WINDOW, 1)
    take(states, [(0, at * 1_000, float(at % 3)) for at in range(0, 48, 2)])
    assert [one.event for one in take(states, [(0, 41_000, 99.0)]).judged.changes] == ["opened"]
    for at in (39_000, 37_000, 35_000):
        assert take(states, [(0, at, 1.0)]).judged.is_open.all()
    assert alarms.episode_of(states[0], "s0") is not None
    for at in (47_000, 48_000, 49_000):
        take(states, [(0, at, 1.0)])
    assert alarms.episode_of(states[0], "s0") is None


def test_scores_of_a_model_take_the_place_of_the_detector() -> None:
    states = state.new(1, WINDOW, 2)
    came = Came(np.zeros(2, dtype=int), np.array([1_000, 2_000]), np.ones((2, 2)))
    taken = ingest.take(states, ["s"], came, Rule(threshold=0.6), np.array([0.5, 0.7]))
    assert taken.judged.score.tolist() == [0.5, 0.7]
    assert [change.row for change in taken.judged.changes] == [1]


@pytest.mark.parametrize("old", [20, 40])
def test_a_state_of_another_window_is_taken_over(old: int) -> None:
    states = state.new(1, old, 1)
    take(states, [(0, at * 1_000, float(at)) for at in range(old)])
    states["is_open"], states["peak"] = 1, 12.5
    [kept] = state.written(states)
    found = state.read([kept, None, b"nonsense", kept[:-1]], 30, 1)
    keep = min(old, 30)
    assert found["times"][0, -keep:].tolist() == [at * 1_000 for at in range(old - keep, old)]
    assert (found["times"][0, : 30 - keep] == state.EMPTY).all()
    assert found["peak"][0] == 12.5
    assert (found["times"][1:] == state.EMPTY).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_state_grows_with_its_readings_up_to_a_bound_and_is_read_as_it_was(channels: int) -> None:
    states, sizes = state.new(2, 60, channels), []
    for start in range(0, 100, 10):
        values = np.random.default_rng(start).normal(size=(10, channels))
        came = Came(np.zeros(10, dtype=int), np.arange(start, start + 10) * 1_000, values)
        ingest.take(states, ["a", "b"], came, Rule())
        kept = state.written(states)
        sizes.append(len(kept[0]))
        assert len(kept[1]) == 88
        assert state.places_of(kept[0]) == min(start + 10, 60)
        assert state.read([*kept], 60, channels).tobytes() == states.tobytes()
    one = 8 + 8 * channels
    assert sizes == [88 + one * min(count, 60) for count in range(10, 101, 10)]
