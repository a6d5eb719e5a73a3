"""The test of a version's errors: rare false alarms, short delays, one episode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from celeriac import errors
from celeriac.drift.concept import (
    ErrorTest,
    Outcome,
    Run,
    Terms,
    Usual,
    _rates,
    given_up,
    note_errors,
    run_length,
    usual_of_classes,
    usual_of_numbers,
)

TERMS = Terms()
TENTH = usual_of_classes(0.1, 10_000, TERMS, "reference")


def wrong(share: float, labels: int, seed: int = 0) -> list[float]:
    draws = np.random.default_rng(seed).random(labels)
    return [float(one) for one in draws < share]


def run(test: ErrorTest, *looks: list[float], terms: Terms = TERMS) -> tuple[ErrorTest, list[Any]]:
    events = []
    for number, look in enumerate(looks):
        outcome = note_errors(test, look, float(test.watched.seen_at_s + 10 + number), terms)
        test = outcome.test
        if outcome.event:
            events.append((outcome.event, number))
    return test, events


def test_the_run_length_is_the_one_that_a_simulation_has() -> None:
    usual = usual_of_classes(0.1, 10**9, Terms(labels_between_alarms=1_000), "reference")
    chance = np.random.default_rng(4).random((1_500, 12_000)) < 0.1
    sums, first = np.zeros(1_500, dtype=int), np.zeros(1_500)
    for label in range(12_000):
        sums = np.where(chance[:, label], sums + usual.up, np.maximum(sums - 1, 0))
        first[(first == 0) & (sums > usual.limit)] = label + 1
    exact = run_length(0.1, usual.up, usual.limit)
    assert exact >= 1_000
    assert first.all()
    assert first.mean() == pytest.approx(exact, rel=0.1)  # a standard error is 0.026 of it


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.03, 0.1, 0.45, 0.9, 1.0])
@pytest.mark.parametrize("rows", [50, 100_000])
def test_there_is_a_limit_for_any_rate(rate: float, rows: int) -> None:
    usual = usual_of_classes(rate, rows, TERMS, "first labels")
    assert usual.up >= 1 or rate == 1
    assert usual.limit >= usual.up
    assert usual.rate < _rates(rate, rows)[1] <= 1 or rate >= 0.8


@pytest.mark.parametrize("rate", [0.6, 0.8])
def test_the_run_length_where_most_answers_are_wrong(rate: float) -> None:
    usual = usual_of_classes(rate, 10**9, Terms(labels_between_alarms=1_000), "reference")
    chance = np.random.default_rng(4).random((1_000, 12_000)) < rate
    sums, first = np.zeros(1_000, dtype=int), np.zeros(1_000)
    for label in range(12_000):
        down = np.maximum(sums - usual.down, 0)
        sums = np.where(chance[:, label], sums + usual.up, down)
        first[(first == 0) & (sums > usual.limit)] = label + 1
    exact = run_length(rate, usual.up, usual.limit, usual.down)
    assert exact >= 1_000
    assert first.all()
    assert first.mean() == pytest.approx(exact, rel=0.12)


def test_answers_that_were_mostly_wrong_become_worse_and_are_as_usual_again() -> None:
    usual = usual_of_classes(0.6, 10_000, TERMS, "reference")
    looks = [wrong(0.6, 2_000, 3), wrong(0.85, 600, 1), wrong(0.6, 2_000, 2)]
    assert run(ErrorTest(usual=usual), *looks)[1] == [("opened", 1), ("closed", 2)]


def test_answers_that_are_always_wrong_cannot_become_worse() -> None:
    """As when only complaints are labelled."""
    test, events = run(ErrorTest(), *[[1.0] * 1_000] * 30)
    assert (test.labels, test.run, events) == (30_000, Run(), [])


def test_a_clock_that_was_ahead_keeps_nobody_from_looking() -> None:
    test = note_errors(ErrorTest(usual=TENTH), [0.0], 86_400.0, TERMS).test
    assert note_errors(test, [1.0] * 50, 10.0, TERMS).event == "opened"


def test_a_rate_that_doubles_opens_one_episode_which_closes() -> None:
    before, after = wrong(0.1, 5_000), wrong(0.2, 1_000, 1)
    looks = [before[:2_500], before[2_500:], after[:500], after[500:], wrong(0.1, 2_000, 2)]
    test, events = run(ErrorTest(usual=TENTH), *looks)
    assert events == [("opened", 2), ("closed", 4)]
    assert test.labels == 8_000
    assert test.watched.episode is None


def test_an_alarm_within_one_look_is_not_missed() -> None:
    """All labels of a day may come at once, and its end may be as good as ever."""
    outcome = note_errors(
        ErrorTest(usual=TENTH), [*[1.0] * 40, *[0.0] * 3_000], now_s=10.0, terms=TERMS
    )
    assert outcome.event == "opened"
    assert outcome.test.run.sum == 0
    assert outcome.run.rate == 1


def test_how_the_labels_are_cut_into_looks_does_not_move_the_sum() -> None:
    stream = wrong(0.12, 3_000)
    whole, _ = run(ErrorTest(usual=TENTH), stream)
    parts, _ = run(ErrorTest(usual=TENTH), *(stream[at : at + 7] for at in range(0, 3_000, 7)))
    assert whole.run == parts.run


def test_clean_streams_do_not_alarm_more_often_than_stated() -> None:
    alarmed = sum(
        bool(run(ErrorTest(usual=TENTH), wrong(0.1, 4_000, seed))[1]) for seed in range(100)
    )
    assert alarmed <= 1.5 * 100 * 4_000 / TERMS.labels_between_alarms


def test_without_a_reference_the_first_labels_say_what_is_usual() -> None:
    stream = wrong(0.1, 2_000)
    test, events = run(ErrorTest(), *(stream[at : at + 40] for at in range(0, 2_000, 40)))
    assert not events
    assert test.usual is not None
    assert test.usual.source == "first labels"
    assert test.usual.rows == TERMS.first_labels
    assert test.usual.rate == pytest.approx(np.mean(stream[:300]))
    assert test.labels == 2_000
    assert test.gathered == ()
    assert run(test, wrong(0.4, 300, 1))[1] == [("opened", 0)]


def test_absolute_errors_of_numbers_that_grow_are_seen() -> None:
    chance = np.random.default_rng(3)
    clean = np.abs(chance.standard_normal(5_000))
    test, events = run(ErrorTest(), clean.tolist())
    assert not events
    assert test.usual is not None
    assert test.usual.far == pytest.approx(np.quantile(clean[:300], 0.8))
    _, events = run(test, np.abs(chance.standard_normal(400) * 1.6).tolist())
    assert events == [("opened", 0)]
    given = ErrorTest(usual=usual_of_numbers(1.28, 5_000, TERMS, "reference"))
    assert not run(given, clean.tolist())[1]


def test_numbers_that_were_all_right_are_a_reference_too() -> None:
    test, events = run(ErrorTest(), [0.0] * 1_000, [2.5] * 30)
    assert isinstance(test.usual, Usual)
    assert events == [("opened", 1)]


def test_no_labels_change_nothing() -> None:
    test = ErrorTest(usual=TENTH, run=Run(7, 12, 2))
    assert note_errors(test, [], 10.0, TERMS) == Outcome(test)


def test_it_can_be_kept() -> None:
    test, _ = run(ErrorTest(usual=TENTH), wrong(0.5, 200))
    assert test.watched.episode is not None
    assert ErrorTest.load(test.dump()) == test
    with pytest.raises(errors.RequestError, match="damaged"):
        ErrorTest.load(b"{")


def test_another_wish_makes_another_limit() -> None:
    test, _ = run(ErrorTest(usual=TENTH), wrong(0.1, 10))
    seldom, _ = run(test, wrong(0.1, 10), terms=Terms(labels_between_alarms=1_000_000))
    assert seldom.usual is not None
    assert seldom.usual.limit > TENTH.limit
    assert seldom.usual.rate == TENTH.rate


def test_an_episode_without_labels_is_given_up() -> None:
    test, events = run(ErrorTest(usual=TENTH), [1.0] * 50)
    assert events == [("opened", 0)]
    outcome = given_up(test, 1_000.0)
    assert (outcome.event, outcome.test.run) == ("closed", Run())
    assert outcome.test.watched.episode is None
    assert given_up(outcome.test, 2_000.0).event is None
    assert run(outcome.test, [1.0] * 50)[1] == [("opened", 0)]
