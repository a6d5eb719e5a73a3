"""When the watchdog ends a process, and when it does not."""

from __future__ import annotations

import time

import pytest

from celeriac.passes import Pass, all_under_way, next_pass, under_way
from workers.watchdog import Watchdog, hung


def a_pass(items: int, started_s: float) -> Pass:
    return Pass(model="m", version=1, items=items, started_s=started_s)


@pytest.mark.parametrize(
    ("passes", "found"),
    [
        ([], None),
        ([a_pass(3, 91.0)], None),
        ([a_pass(3, 91.0), a_pass(4, 89.0)], 4),
        ([a_pass(0, 89.0)], None),  # a load has a limit of its own
        ([a_pass(0, 49.0)], 0),
    ],
)
def test_what_hangs(passes: list[Pass], found: int | None) -> None:
    one = hung(passes, 100.0, limit_s=10.0, load_limit_s=50.0)
    assert (one.items if one else None) == found


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
