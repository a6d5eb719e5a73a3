"""Items that are decoded together come out as they do alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from celeriac.inputs import collate
from celeriac.inputs.alike import stacked
from celeriac.messages import encode_item
from celeriac.registry.manifest import InputSchema

LIMIT = 1_000_000
CUBE = InputSchema(kind="array", shape=(2, 1, 3), dtype="float32")
PICTURE = InputSchema(kind="image", shape=(2, 3, 3), dtype="float32")
ROW = InputSchema(kind="array", shape=(3,), dtype="float64")

NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 255), st.integers(),
    st.sampled_from([2**53, 2**53 + 1, -(2**63), 2**63, 10**400, 1e300]),
)


def listed(values: list[Any], shape: tuple[int, ...]) -> Any:
    """Nested lists of ``shape``."""
    if len(shape) == 1:
        return values
    size = len(values) // shape[0]
    return [listed(values[at : at + size], shape[1:]) for at in range(0, len(values), size)]


@pytest.mark.parametrize("schema", [CUBE, PICTURE])
@given(rows=st.lists(st.lists(NUMBERS, min_size=6, max_size=6), min_size=1, max_size=5))
def test_lists_come_out_as_each_does_alone(schema: InputSchema, rows: list[list[Any]]) -> None:
    items = [listed(row * (math.prod(schema.shape) // 6), schema.shape) for row in rows]
    together = collate(items, schema)
    alone = [collate([item], schema) for item in items]
    good = [position for position, one in enumerate(alone) if not one.errors]
    assert list(together.index) == good
    for position, row in zip(together.index, together.inputs, strict=True):
        np.testing.assert_array_equal(row, alone[position].inputs[0])
    assert {position: error.message for position, error in together.errors.items()} == {
        position: one.errors[0].message for position, one in enumerate(alone) if one.errors
    }


@pytest.mark.parametrize("schema", [CUBE, PICTURE, ROW])
def test_lists_of_numbers_are_stacked(schema: InputSchema) -> None:
    size = math.prod(schema.shape)
    expected = np.arange(4 * size).reshape(4, *schema.shape) / 2
    found = stacked(expected.tolist(), schema, LIMIT)
    assert found.dtype == schema.dtype
    np.testing.assert_array_equal(found, expected)
    mixed = [[1, 2.5, 2**53 - 1]]
    np.testing.assert_array_equal(stacked(mixed, ROW, LIMIT), np.array(mixed))


@pytest.mark.parametrize(
    "other",
    [
        [1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [1.0, True, 2.0], [1.0, None, 2.0], [1.0, "2", 3.0],
        [[1.0], [2.0], [3.0]], "text", None, 5, [1, 2, 2**53 + 1], [1, 2, 10**400],
        {"a": 1}, encode_item(np.ones(3)),
    ],
)
def test_what_is_not_alike_is_left_to_each_item(other: Any) -> None:
    assert stacked([[1.0, 2.0, 3.0], other], ROW, LIMIT) is None
    assert stacked([other, [1.0, 2.0, 3.0]], ROW, LIMIT) is None


def test_items_that_may_be_too_large_are_left_to_the_look_at_each() -> None:
    items = [[1.0, 2.0, 3.0]]
    assert stacked(items, ROW, 20) is None
    assert stacked(items, ROW, 100) is not None
    assert stacked([], ROW, LIMIT) is None
