from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from celeriac import errors
from celeriac.inputs import Limits, collate, collate_table, columns_needed
from celeriac.messages import encode_item
from celeriac.optimize import convert
from celeriac.registry.manifest import Column, InputSchema, OutputSchema
from celeriac.samples import as_samples

TEXT = InputSchema(kind="text", columns=(Column(name="review", dtype="text"),))
TABLE = InputSchema(
    kind="table", frame=True, columns=(
        Column(name="age", dtype="float"), Column(name="visits", dtype="int"),
        Column(name="member", dtype="bool"), Column(name="city", dtype="text"),
    ),
)
NUMBERS = InputSchema(
    kind="table", columns=(Column(name="a"), Column(name="b")), dtype="float32"
)
IMAGE = InputSchema(kind="array", shape=(2, 3), dtype="float32")
GOOD = {"age": 3.5, "visits": 2, "member": True, "city": "Oslo"}


def message(item: Any, schema: InputSchema) -> str:
    collated = collate([item], schema)
    assert list(collated.index) == []
    assert len(collated.inputs) == 0
    return collated.errors[0].message


def test_texts_pass_as_they_are() -> None:
    collated = collate(["a", "", "ü"], TEXT)
    assert collated.inputs == ["a", "", "ü"]
    assert list(collated.index) == [0, 1, 2]
    assert not collated.errors


@pytest.mark.parametrize(
    ("item", "found"),
    [(None, "null"), (True, "true"), (3, "3"), ({}, "an object"), (["a"], "a list"),
     (10**400, "huge")],
)
def test_only_text_is_text(item: Any, found: str) -> None:
    assert found in message(item, TEXT)


def test_rows_come_as_dicts_or_lists_and_keep_their_types() -> None:
    collated = collate([GOOD, [None, 4.0, False, ""], {**GOOD, "age": 7}], TABLE)
    assert not collated.errors
    frame = collated.inputs
    assert list(frame.columns) == ["age", "visits", "member", "city"]
    assert [str(dtype) for dtype in frame.dtypes] == ["float64", "int64", "bool", "str"]
    assert frame["visits"].tolist() == [2, 4, 2]
    assert math.isnan(frame["age"][1])
    assert frame["age"][2] == 7.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"age": True}, "column 'age': the model takes a number or null; found true"),
        ({"age": "3"}, "column 'age': the model takes a number or null; found text"),
        ({"age": {}}, "column 'age': the model takes a number or null; found an object"),
        ({"age": []}, "column 'age': the model takes a number or null; found a list"),
        ({"age": math.inf}, "column 'age': infinity"),
        ({"age": 10**400}, "column 'age': infinity"),
        ({"visits": 2.5}, "column 'visits': the model takes a whole number; found 2.5"),
        ({"visits": None}, "column 'visits': the model takes a whole number; found null"),
        ({"visits": 2**63}, "column 'visits': the whole number does not fit 64 bits"),
        ({"member": 1}, "column 'member': the model takes true or false; found 1"),
        ({"city": None}, "column 'city': the model takes text; found null"),
        ({"extra": 1}, "does not take: 'extra'"),
    ],
)
def test_a_wrong_cell_is_named(change: dict[str, Any], says: str) -> None:
    assert says in message({**GOOD, **change}, TABLE)


def test_a_missing_column_and_a_wrong_length_are_named() -> None:
    assert "lacks 'city'; it has: 'age'" in message(
        {key: value for key, value in GOOD.items() if key != "city"}, TABLE
    )
    assert "takes 4 columns" in message([1, 2], TABLE)
    assert "found text" in message("x", TABLE)


def test_numbers_beyond_the_dtype_spoil_one_row_only() -> None:
    collated = collate([[1, 2], [1e300, 2], [None, 4]], NUMBERS)
    assert collated.inputs.dtype == np.float32
    np.testing.assert_array_equal(collated.inputs, np.array([[1, 2], [np.nan, 4]], np.float32))
    assert list(collated.index) == [0, 2]
    assert "column 'a'" in collated.errors[1].message


def test_arrays_come_as_lists_or_arrays() -> None:
    lists = [[1, 2.5, 3], [4, 5, 6]]
    items = [lists, encode_item(np.array(lists)), encode_item(np.ones((2, 3), "u1"))]
    collated = collate(items, IMAGE)
    assert not collated.errors
    assert collated.inputs.shape == (3, 2, 3)
    np.testing.assert_array_equal(collated.inputs[0], collated.inputs[1])


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ([[1, 2], [3, 4]], "found shape [2, 2]"),
        ([[1, 2, 3], [4, 5]], "differ in length"),
        ([[1, 2, 3], [4, 5, True]], "something else than numbers"),
        ([[1, 2, 3], [4, 5, None]], "something else than numbers"),
        ([[1, 2, 3], [4, 5, 1e300]], "beyond float32"),
        (encode_item(np.full((2, 3), np.nan)), "NaN"),
        (encode_item(np.ones((2, 3), bool)), "type bool"),
        ({"$array": "AAAA", "dtype": "<f8", "shape": [2, 3]}, "does not have the shape"),
        ("x", "found text"),
    ],
)
def test_a_wrong_array_is_explained(item: Any, says: str) -> None:
    assert says in message(item, IMAGE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.lists(JSON, max_size=6), st.sampled_from([TEXT, TABLE, NUMBERS, IMAGE]))
def test_whatever_comes_each_item_counts_once(items: list[Any], schema: InputSchema) -> None:
    collated = collate(items, schema)
    assert sorted([*collated.index, *collated.errors]) == list(range(len(items)))
    assert len(collated.inputs) == len(collated.index)
    assert all(isinstance(error, errors.InvalidItem) for error in collated.errors.values())


def test_text_models_do_not_import_pandas() -> None:
    code = (
        "import sys; from celeriac.inputs import collate; "
        "from celeriac.registry.manifest import InputSchema; "
        "collate(['a'], InputSchema(kind='text')); "
        "assert not {'pandas', 'numpy', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- tables ------------------------------------------------------------------------------------


def test_columns_that_are_needed() -> None:
    assert columns_needed(TEXT, ["id", "review"]) == ["review"]
    assert columns_needed(TEXT, ["id", "body"], "body") == ["body"]
    assert columns_needed(TABLE, ["city", "age", "member", "visits", "id"]) == [
        "age", "visits", "member", "city",
    ]
    assert columns_needed(IMAGE, [f"x{n}" for n in range(7)]) == [f"x{n}" for n in range(6)]
    assert columns_needed(InputSchema(kind="any"), ["a"]) == ["a"]
    with pytest.raises(errors.DatasetError, match=r"lacks 'review'; it has: 'id', 'body'; "):
        columns_needed(TEXT, ["id", "body"])
    with pytest.raises(errors.DatasetError, match="looks separated by semicolons: write it with"):
        columns_needed(TEXT, ["id;review"])
    with pytest.raises(errors.DatasetError, match="looks separated by tabs"):
        columns_needed(TABLE, ["age\tcity"])
    with pytest.raises(errors.DatasetError, match="'visits', 'member'"):
        columns_needed(TABLE, ["age", "city"])
    nameless = InputSchema(kind="table", columns=(Column(name="x0"), Column(name="x1")))
    with pytest.raises(errors.DatasetError, match=r"an array, .*register it with a frame"):
        columns_needed(nameless, ["age", "visits"])
    with pytest.raises(errors.DatasetError, match="for models that take text"):
        columns_needed(TABLE, ["age"], "age")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(),
                                  pa.dictionary(pa.int32(), pa.string())])
def test_a_text_column_of_any_string_type(kind: pa.DataType) -> None:
    column = pa.array(["a", None, "b"]).cast(kind) if kind != pa.string_view() else pa.array(
        ["a", None, "b"], kind)
    collated = collate_table(pa.table({"review": column}), TEXT)
    assert (collated.inputs, list(collated.index)) == (["a", "b"], [0, 2])
    assert collated.errors[1].message == "column 'review' is empty in this row"


def test_a_text_column_without_any_text() -> None:
    collated = collate_table(pa.table({"review": pa.nulls(2)}), TEXT)
    assert collated.inputs == []
    assert sorted(collated.errors) == [0, 1]


def test_a_table_becomes_a_frame_with_the_same_types_as_items() -> None:
    table = pa.table({
        "city": ["Oslo", "Rome", None, "Bonn"], "member": [True, False, True, True],
        "visits": [2.0, None, 3.0, 4.0], "age": [1, None, 3, 4], "id": [1, 2, 3, 4],
    })
    collated = collate_table(table, TABLE)
    assert list(collated.index) == [0, 3]
    assert "'visits' is no whole number" in collated.errors[1].message
    assert "'city' is empty" in collated.errors[2].message
    expected = collate(
        [{"age": 1, "visits": 2, "member": True, "city": "Oslo"},
         {"age": 4, "visits": 4, "member": True, "city": "Bonn"}], TABLE,
    )
    pd.testing.assert_frame_equal(collated.inputs, expected.inputs)


def test_a_text_may_be_null_where_an_example_was() -> None:
    frame = pd.DataFrame({"city": ["Oslo"] * 999 + [None], "plan": ["free"] * 1_000})
    for examples in (frame, frame.astype(object), frame.to_dict("records")):
        samples = as_samples(examples, count=2)
        assert samples.schema.nullable == ["city"]  # whichever are kept
    schema = InputSchema.model_validate_json(samples.schema.model_dump_json())
    assert schema == samples.schema
    items = [{"city": None, "plan": "free"}, {"city": "Oslo", "plan": None}]
    collated = collate(items, schema)
    assert "'plan': the model takes text; found null" in collated.errors[1].message
    table = pa.Table.from_pylist(items)
    for one in (table, table.slice(0, 1)):  # of which no city is a text
        rows = collate_table(one, schema)
        pd.testing.assert_frame_equal(rows.inputs, collated.inputs)
    assert "'plan' is empty" in collate_table(table, schema).errors[1].message


def test_only_texts_say_that_they_may_be_null() -> None:
    assert Column(name="a", dtype="text").model_dump() == {"name": "a", "dtype": "text"}
    described = Column.model_json_schema(mode="serialization")  # as the gateway's page shows it
    assert list(described["properties"]) == ["name", "dtype", "nullable"]
    with pytest.raises(ValueError, match="nullable is for text; of numbers, float takes null"):
        Column(name="a", dtype="int", nullable=True)


def test_a_conversion_to_onnx_is_refused_where_texts_may_be_null() -> None:
    city = Column(name="city", dtype="text", nullable=True)
    schema = InputSchema(kind="table", frame=True, columns=(city,))
    output = OutputSchema(kind="regressor")
    with pytest.raises(errors.RegistryError, match="'city' takes null, which no text of ONNX is"):
        convert.from_sklearn(None, schema, output)


def test_numbers_of_a_table() -> None:
    table = pa.table({"a": [1.0, np.nan, np.inf, 1e300], "b": pa.array([1, None, 3, 4], pa.int8())})
    collated = collate_table(table, NUMBERS)
    assert collated.inputs.dtype == np.float32
    assert list(collated.index) == [0, 1]
    assert np.isnan(collated.inputs[1]).all()
    assert sorted(collated.errors) == [2, 3]


def test_a_whole_number_beyond_64_bits_spoils_one_row_only() -> None:
    schema = InputSchema(kind="table", columns=(Column(name="n", dtype="int"),), frame=True)
    table = pa.table({"n": pa.array([1, 2**63, None, 4], pa.uint64())})
    found = collate_table(table, schema)
    assert sorted(found.errors) == [1, 2]


def test_an_array_from_columns() -> None:
    table = pa.table({f"x{n}": [float(n), None if n == 4 else 0.0] for n in range(6)})
    collated = collate_table(table, IMAGE)
    np.testing.assert_array_equal(collated.inputs, [[[0, 1, 2], [3, 4, 5]]])
    assert "'x4' is empty" in collated.errors[1].message


@pytest.mark.parametrize(
    ("name", "cells", "wanted"),
    [("age", ["1"], "numbers"), ("age", [True], "numbers"), ("visits", ["1"], "whole numbers"),
     ("member", [1], "true or false"), ("city", [1], "text")],
)
def test_a_column_of_a_wrong_type_is_named(name: str, cells: list[Any], wanted: str) -> None:
    row = {key: [value] for key, value in GOOD.items()}
    with pytest.raises(errors.DatasetError, match=rf"column '{name}'.*the model takes {wanted}"):
        collate_table(pa.table({**row, name: cells}), TABLE)


def test_an_empty_table() -> None:
    table = pa.table({"a": pa.array([], pa.float64()), "b": pa.array([], pa.int64())})
    assert collate_table(table, NUMBERS).inputs.shape == (0, 2)


@given(st.lists(st.tuples(st.none() | st.floats(), st.none() | st.integers(-9, 9)), max_size=8))
def test_tables_and_items_agree(rows: list[tuple[float | None, int | None]]) -> None:
    table = pa.table({
        "a": pa.array([a for a, _ in rows], pa.float64()),
        "b": pa.array([b for _, b in rows], pa.int64()),
    })
    by_table = collate_table(table, NUMBERS)
    by_item = collate([list(row) for row in rows], NUMBERS)
    assert list(by_table.index) == list(by_item.index)
    assert sorted(by_table.errors) == sorted(by_item.errors)
    np.testing.assert_array_equal(by_table.inputs, by_item.inputs)


SMALL = Limits(item_bytes=2_000)


@pytest.mark.parametrize(
    ("schema", "good", "large"),
    [
        (TEXT, "short", "x" * 2_001),
        (TEXT, "x" * 1_998, "\x07" * 400),  # each character is six bytes on the wire
        (InputSchema(kind="any"), [1, 2], {"a": ["x" * 100] * 30}),
        (TABLE, GOOD, {**GOOD, "city": "x" * 3_000}),
        (IMAGE, np.zeros((2, 3)), np.zeros((20, 30))),
        (IMAGE, [[0.0] * 3] * 2, [[0.123456789] * 300]),
    ],
)
def test_an_item_beyond_the_limit_is_refused_alone(
    schema: InputSchema, good: Any, large: Any
) -> None:
    items = [encode_item(item) for item in (good, large, good)]
    collated = collate(items, schema, SMALL)
    assert list(collated.index) == [0, 2]
    assert len(collated.inputs) == 2
    error = collated.errors[1]
    assert isinstance(error, errors.PayloadTooLarge)
    assert "at most 2,000" in error.message
    assert "dataset" in error.message


def test_typed_arrays_beyond_the_limit_are_refused_though_they_fit_the_model() -> None:
    wide = InputSchema(kind="array", shape=(30, 30), dtype="float32")
    collated = collate([encode_item(np.zeros((30, 30)))] * 2, wide, SMALL)
    assert collated.inputs.shape == (0, 30, 30)
    assert {type(error) for error in collated.errors.values()} == {errors.PayloadTooLarge}


@given(st.lists(st.sampled_from(["<f4", "<f8", "|u1", "<i8", "|b1", "nan", "shape", "list", "!"]),
                max_size=6))
def test_typed_arrays_alike_or_not_give_the_same(kinds: list[str]) -> None:
    array = np.arange(6).reshape(2, 3)
    made = {
        "nan": encode_item(np.full((2, 3), np.nan, "<f4")), "shape": encode_item(array.T),
        "list": array.tolist(), "!": {**encode_item(array), "$array": "AAAA"},
    }
    items = [made.get(kind) or encode_item(array.astype(kind)) for kind in kinds]
    found = collate(items, IMAGE)
    alone = [collate([item], IMAGE) for item in items]
    good = [n for n, kind in enumerate(kinds) if kind in ("<f4", "<f8", "|u1", "<i8", "list")]
    assert list(found.index) == good
    assert found.inputs.shape == (len(good), 2, 3)
    assert found.inputs.dtype == np.float32
    assert all(np.array_equal(image, array) for image in found.inputs)
    assert {n: str(error) for n, error in found.errors.items()} == {
        n: str(one.errors[0]) for n, one in enumerate(alone) if one.errors
    }


def test_what_a_model_is_given_may_be_written_to() -> None:
    for items in ([encode_item(np.zeros((2, 3), "<f4"))] * 2, [[[0.0] * 3] * 2]):
        collate(items, IMAGE).inputs[:] = 1.0


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_numbers_in_several_pieces_and_with_gaps(kind: pa.DataType) -> None:
    columns = (Column(name="a"), Column(name="b"))
    schema = InputSchema(kind="table", columns=columns, dtype="float32")
    table = pa.table({
        "a": pa.chunked_array([[1.5, None], [], [2.5, -3.0]], kind),
        "b": pa.chunked_array([[0.5, 1.0, 2.0, None]], kind),
    })
    collated = collate_table(table.slice(1, 3), schema)
    expected = np.array([[np.nan, 1.0], [2.5, 2.0], [-3.0, np.nan]], dtype=np.float32)
    np.testing.assert_array_equal(collated.inputs, expected)
    assert (collated.inputs.dtype, collated.errors) == (np.float32, {})
