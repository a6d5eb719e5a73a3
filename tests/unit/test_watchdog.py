"""When the watchdog ends a process, and when it does not."""

from __future__ import annotations

import time

import pytest

from celeriac.passes import Pass, all_under_way, next_pass, under_way
from workers.watchdog import Watchdog, hung


def a_pass(items: int) -> Pass:
    return Pass(model="m", version=1, items=items, started_s=0.0, thread=1)


@pytest.mark.parametrize(
    ("taken_s", "found"),
    [
        ({}, None),
        ({a_pass(3): 9.0}, None),
        ({a_pass(3): 9.0, a_pass(4): 11.0}, 4),
        ({a_pass(0): 11.0}, None),  # a load has a limit of its own
        ({a_pass(0): 51.0}, 0),
    ],
)
def test_what_hangs(taken_s: dict[Pass, float], found: int | None) -> None:
    one = hung(taken_s, limit_s=10.0, load_limit_s=50.0)
    assert (one.items if one else None) == found


def watching(passed_s: list[float], waited: list[float], ended: list[float]) -> Watchdog:
    """With a limit of 10 s, at ``passed_s[0]`` from now on; ``ended``: what it says of hangs."""
    began = time.monotonic()
    return Watchdog(
        10.0, 10.0, end=lambda found, seconds: ended.append(seconds),
        clock=lambda: began + passed_s[0], waited=lambda thread: waited[0],
    )


def test_waiting_for_the_processor_is_no_hang() -> None:
    passed_s, waited, ended = [0.0], [7.0], list[float]()
    watchdog = watching(passed_s, waited, ended)
    with under_way("m", 1, 0):
        watchdog.look()
        for passed_s[0], waited[0] in ((100.0, 98.0), (200.0, 198.0)):
            watchdog.look()
            assert not ended
        passed_s[0] = 204.0  # 4 s in which it had the processor, or waited for something else
        watchdog.look()
    assert [round(seconds) for seconds in ended] == [13]


def test_a_thread_that_cannot_be_looked_at_is_no_hang() -> None:
    passed_s, waited, ended = [0.0], [70.0], list[float]()
    watchdog = watching(passed_s, waited, ended)
    with under_way("m", 1, 1):
        watchdog.look()
        passed_s[0], waited[0] = 9.0, 0.0  # no file could be opened, say
        watchdog.look()
        assert not ended
        passed_s[0] = 11.0
        watchdog.look()
    assert [round(seconds) for seconds in ended] == [11]


def test_passes_are_known_while_they_last() -> None:
    with under_way("m", 1, 0):
        with under_way("m", 1, 5):  # the warm-up of a load is part of it
            (one,) = all_under_way()
            assert one.items == 0
        assert len(all_under_way()) == 1
    assert all_under_way() == []
    with pytest.raises(ValueError), under_way("m", 1, 5):
        raise ValueError
    assert all_under_way() == []


def test_each_pass_of_a_batch_that_is_taken_apart_has_its_own_time() -> None:
    next_pass()
    assert all_under_way() == []
    for items, is_anew in ((7, True), (0, False)):  # 0: a load has one time for all
        with under_way("m", 1, items):
            (before,) = all_under_way()
            time.sleep(0.01)
            next_pass()
            (after,) = all_under_way()
        assert (after.started_s > before.started_s) is is_anew
        assert after.items == items


def test_a_pass_that_has_ended_is_no_hang() -> None:
    ended: list[Pass] = []

    def end(found: Pass, seconds: float) -> None:
        ended.append(found)
        assert seconds > 0.1

    watchdog = Watchdog(0.1, 0.1, end=end)
    with under_way("m", 2, 7):
        time.sleep(0.15)
        watchdog.look()
    watchdog.look()
    assert [(one.model, one.version, one.items) for one in ended] == [("m", 2, 7)]
