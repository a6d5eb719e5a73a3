"""Queues that take no more for now, and the slow start after that."""

from __future__ import annotations

import pytest

from celeriac import errors
from producer import refusals
from producer.refusals import FIRST_ITEMS, FULL_PAUSE_S, RECOVERED_ITEMS, RECOVERED_S, Refusals

QUEUE = "realtime.cpu.a"


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(refusals, "JITTER", 0.0)
    return Clock()


@pytest.fixture
def paused(clock: Clock) -> Refusals:
    """Told by a worker to wait for 3 s."""
    made = Refusals(10, clock)
    made.overloaded(QUEUE, errors.Overloaded("full", 3.0))
    return made


def test_nothing_is_admitted_until_the_time_is_over(paused: Refusals, clock: Clock) -> None:
    clock.now_s += 1
    assert paused.admit(QUEUE, 5) == 0
    error = paused.refusal(QUEUE, "a")
    assert error.retry_after_s == pytest.approx(2.0)
    assert "'a'" in error.message
    assert "2 s" in error.message
    assert paused.admit("realtime.cpu.b", 5) == 5


def test_a_slow_start_after_it(paused: Refusals, clock: Clock) -> None:
    clock.now_s += 3
    assert paused.admit(QUEUE, 1_000) == FIRST_ITEMS
    assert paused.admit(QUEUE, 1_000) == 0
    assert paused.refusal(QUEUE, "a").retry_after_s > 0
    paused.answered(QUEUE, FIRST_ITEMS)
    assert paused.admit(QUEUE, 1_000) == 2 * FIRST_ITEMS
    paused.answered(QUEUE, RECOVERED_ITEMS)
    assert paused.admit(QUEUE, 1_000) == 1_000


def test_a_slow_start_without_answers_ends_too(paused: Refusals, clock: Clock) -> None:
    clock.now_s += 3
    assert paused.admit(QUEUE, 1_000) == FIRST_ITEMS
    clock.now_s += RECOVERED_S + 0.1
    assert paused.admit(QUEUE, 1_000) == 1_000


def test_the_longer_pause_wins_and_an_unknown_time_is_none(clock: Clock) -> None:
    made = Refusals(10, clock)
    made.overloaded(QUEUE, errors.Overloaded("full"))
    assert made.admit(QUEUE, 5) == 5
    made.overloaded(QUEUE, errors.Overloaded("full", 2.0))
    made.overloaded(QUEUE, errors.Overloaded("full", 1.0))
    clock.now_s += 1.5
    assert made.admit(QUEUE, 5) == 0


def test_a_queue_that_nobody_consumes(clock: Clock) -> None:
    made = Refusals(10, clock)
    made.queue_length(QUEUE, 10)
    assert made.admit(QUEUE, 1) == 1
    made.queue_length(QUEUE, 11)
    assert made.admit(QUEUE, 1) == 0
    assert "max_queue_items" in made.refusal(QUEUE, "a").message
    clock.now_s += FULL_PAUSE_S
    assert made.admit(QUEUE, 1) == 1


def test_pauses_are_spread() -> None:
    clock = Clock()
    lefts = set()
    for _ in range(50):
        made = Refusals(10, clock)
        made.overloaded(QUEUE, errors.Overloaded("full", 10.0))
        lefts.add(made.refusal(QUEUE, "a").retry_after_s)
    assert all(8 <= left <= 12 for left in lefts)
    assert max(lefts) - min(lefts) > 0.5
