"""One more version beside those that are tried and loaded: at once, soon, or refused."""

from __future__ import annotations

import pytest

from celeriac.loaders import MAX_AT_ONCE, MAX_OF_MODEL, MAX_YOUNG, YOUNG_S, Begin, may_begin

OLD_S = YOUNG_S
NEW_S = 0.1


def ages(model: str, count: int, age_s: float) -> dict[tuple[str, int], float]:
    return {(model, number): age_s for number in range(count)}


@pytest.mark.parametrize(("under_way_s", "begin"), [
    ({}, Begin.NOW),
    (ages("m", MAX_YOUNG - 1, NEW_S), Begin.NOW),
    (ages("m", MAX_YOUNG, NEW_S), Begin.SOON),
    (ages("m", MAX_YOUNG, OLD_S), Begin.NOW),
    (ages("m", MAX_OF_MODEL - 1, OLD_S), Begin.NOW),
    (ages("m", MAX_OF_MODEL, OLD_S), Begin.REFUSED),
    (ages("m", MAX_OF_MODEL - 1, OLD_S) | {("m", 99): NEW_S}, Begin.SOON),
    (ages("n", MAX_OF_MODEL, OLD_S), Begin.NOW),
    (ages("n", MAX_OF_MODEL, OLD_S) | ages("o", 2, OLD_S), Begin.REFUSED),
    (ages("n", MAX_OF_MODEL, OLD_S) | ages("o", 2, NEW_S), Begin.SOON),
    (ages("n", MAX_YOUNG, NEW_S) | ages("o", 2, OLD_S), Begin.SOON),
])  # fmt: skip
def test_what_is_large_or_hangs_leaves_room(
    under_way_s: dict[tuple[str, int], float], begin: Begin
) -> None:
    assert may_begin("m", under_way_s) is begin


def test_one_model_cannot_take_all_the_room() -> None:
    assert MAX_YOUNG < MAX_OF_MODEL < MAX_AT_ONCE
