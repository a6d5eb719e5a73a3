"""How many rows are tried at once, after memory was short."""

from __future__ import annotations

from celeriac.runtimes.ceiling import HOLD_S, Ceiling


def test_it_is_halved_as_often_as_memory_is_short() -> None:
    ceiling = Ceiling(1_024)
    assert ceiling.rows(0) == 1_024
    assert ceiling.lower(1_024, 0)
    assert ceiling.rows(1) == 512
    assert ceiling.lower(300, 1)  # a batch smaller than the ceiling did not fit either
    assert ceiling.rows(2) == 150


def test_it_holds_for_a_while_and_is_doubled_then() -> None:
    ceiling = Ceiling(1_024)
    ceiling.lower(1_024, 100)
    ceiling.lower(512, 100)
    assert ceiling.rows(100 + HOLD_S - 1) == 256
    assert ceiling.rows(100 + HOLD_S) == 512
    assert ceiling.rows(100 + 2 * HOLD_S) == 1_024
    assert ceiling.rows(100 + 9 * HOLD_S) == 1_024


def test_a_long_silence_raises_it_at_once() -> None:
    ceiling = Ceiling(1_024)
    ceiling.lower(64, 0)
    assert ceiling.rows(100 * HOLD_S) == 1_024


def test_a_row_that_does_not_fit_alone_lowers_nothing() -> None:
    ceiling = Ceiling(1_024)
    ceiling.lower(2, 0)
    assert ceiling.rows(0) == 1
    assert not ceiling.lower(1, 0)
    assert ceiling.rows(0) == 1_024
