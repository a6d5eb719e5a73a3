from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from celeriac import errors
from celeriac.isolation import isolate
from celeriac.outputs import Output

ROWS = 4_000


class Counting:
    """Answers each row with its first cell, unless ``check`` raises on the rows."""

    def __init__(self, check: Callable[[Any], None]) -> None:
        self._check = check
        self.passes = 0

    def predict(self, inputs: Any) -> Output:
        self.passes += 1
        self._check(inputs)
        rows = inputs.to_numpy() if hasattr(inputs, "iloc") else np.asarray(inputs)
        first = rows if rows.ndim == 1 else rows[:, 0]
        return Output(values=first.copy(), probabilities=np.column_stack([first, -first]))


def positive(numbers: list[int]) -> None:
    if min(numbers) < 0:
        raise ValueError(f"{next(one for one in numbers if one < 0)} is negative")


def complete(rows: Any) -> None:
    if np.isnan(np.asarray(rows)).any():
        raise ValueError("Input X contains NaN.\nThis model does not accept missing values")


def told(failed: dict[int, errors.CeleriacError]) -> dict[int, tuple[str, str]]:
    return {at: (error.code, error.message) for at, error in failed.items()}


def each_alone(check: Callable[[Any], None], inputs: Any) -> dict[int, tuple[str, str]]:
    """What every row is told that fails by itself."""
    model = Counting(check)
    take = inputs.iloc if hasattr(inputs, "iloc") else inputs
    found: dict[int, errors.CeleriacError] = {}
    for at in range(len(inputs)):
        found.update((at, error) for error in isolate(model, take[at : at + 1], 1)[2].values())
    return told(found)


def check_found(check: Callable[[Any], None], inputs: Any, model: Counting) -> int:
    """Everything is as if each row had been alone; how many passes that took."""
    output, kept, failed = isolate(model, inputs, len(inputs))
    passes = model.passes
    assert told(failed) == each_alone(check, inputs)
    assert list(kept) == [at for at in range(len(inputs)) if at not in failed]
    rows = np.asarray(inputs)
    first = (rows if rows.ndim == 1 else rows[:, 0])[list(kept)]
    assert output is not None
    assert output.values.tolist() == first.tolist()
    assert output.probabilities is not None
    assert output.probabilities[:, 1].tolist() == (-first).tolist()
    return passes


@pytest.mark.parametrize(
    ("share", "most"), [(0.001, 120), (0.01, 500), (0.1, 2_600), (0.5, 4_500), (0.9, 4_400)]
)
def test_scattered_bad_items_cost_about_a_pass_each_at_worst(share: float, most: int) -> None:
    chance = random.Random(7)
    numbers = [-at if chance.random() < share else at for at in range(1, ROWS + 1)]
    numbers[0] = 1  # the first that is tried alone is fine
    assert check_found(positive, numbers, Counting(positive)) <= most


def test_one_bad_item_is_found_by_halving() -> None:
    numbers = list(range(ROWS))
    numbers[1_234] *= -1
    assert check_found(positive, numbers, Counting(positive)) <= 40


def test_a_block_of_bad_items_costs_a_pass_each() -> None:
    numbers = [-at if 1_000 < at <= 2_600 else at for at in range(ROWS)]
    assert check_found(positive, numbers, Counting(positive)) <= 1_600 + 200


@pytest.mark.parametrize("frame", [False, True])
def test_rows_that_lack_what_the_model_needs_are_known_by_a_few(frame: bool) -> None:
    rows = np.arange(3.0 * ROWS).reshape(ROWS, 3)
    rows[np.random.default_rng(3).random(ROWS) < 0.5, 1] = np.nan
    rows[0, 1] = 1
    rows[5:10] = np.nan  # a few that lack more
    inputs = pd.DataFrame(rows, columns=["a", "b", "c"]) if frame else rows
    assert check_found(complete, inputs, Counting(complete)) <= 60


def test_what_a_model_can_do_without_is_nobodys_fault() -> None:
    def needs_the_second(rows: Any) -> None:
        complete(rows[:, 1])

    rows = np.arange(3.0 * ROWS).reshape(ROWS, 3)
    chance = np.random.default_rng(3)
    rows[chance.random(ROWS) < 0.3, 1] = np.nan
    rows[chance.random(ROWS) < 0.3, 2] = np.nan
    rows[0] = 1
    assert check_found(needs_the_second, rows, Counting(needs_the_second)) <= 80


def test_rows_that_lack_the_same_and_are_told_different_things_are_told_them() -> None:
    def named(rows: Any) -> None:
        bad = rows[np.isnan(rows[:, 1])]
        if len(bad):
            raise ValueError(f"row {bad[0, 0]:g} lacks its second number")

    rows = np.arange(2.0 * 500).reshape(500, 2)
    rows[1::2, 1] = np.nan
    assert check_found(named, rows, Counting(named)) <= 350


def test_some_of_those_that_lack_the_same_may_be_fine() -> None:
    def unless_large(rows: Any) -> None:
        complete(rows[rows[:, 0] < 700])

    rows = np.arange(2.0 * 500).reshape(500, 2)
    rows[1::2, 1] = np.nan
    assert check_found(unless_large, rows, Counting(unless_large)) <= 280


def test_too_many_rows_for_the_memory_are_not_tried_again_and_again() -> None:
    sizes: list[int] = []

    def small(numbers: Any) -> None:
        sizes.append(len(numbers))
        if len(numbers) > 100:
            raise MemoryError

    output, kept, failed = isolate(Counting(small), np.arange(ROWS), ROWS)
    assert output is not None
    assert output.values.tolist() == list(kept) == list(range(ROWS))
    assert not failed
    assert len(sizes) <= 300
    assert sum(sizes) <= 4 * ROWS


def test_without_memory_for_one_row_no_other_is_refused_for_it() -> None:
    chance = [True] * 17 + [False] * ROWS  # the batch of those that lack a value, and 16 of them

    def short(rows: Any) -> None:
        if np.isnan(rows).any() and len(rows) < ROWS and chance.pop(0):
            raise MemoryError
        if len(rows) == ROWS:
            raise MemoryError

    rows = np.arange(2.0 * ROWS).reshape(ROWS, 2)
    rows[ROWS // 2 :, 1] = np.nan
    _, kept, failed = isolate(Counting(short), rows, ROWS)
    assert not failed
    assert list(kept) == list(range(ROWS))


def test_what_a_model_raises_can_be_written_whatever_it_is() -> None:
    def odd(_: Any) -> None:
        raise ValueError("no token for \udce9")

    assert each_alone(odd, [1]) == {
        0: ("model_failed", r"the model raised ValueError: no token for \udce9")
    }
