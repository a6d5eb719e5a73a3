"""Statistics of columns, whatever is in them."""

from __future__ import annotations

import io
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from celeriac.reports.columns import LEAST_COUNT, histogram, profile, profiles
from celeriac.reports.condense import TEXT_CHARS, condense, row_bytes
from celeriac.reports.records import Category, ColumnProfile


def of(*pieces: Any, labels: bool = False) -> ColumnProfile:
    """The profile of a column whose pieces are condensed one by one."""
    condensed = [condense(pa.table({"c": piece}))["c"] for piece in pieces]
    return profile("c", condensed, labels=labels)


def png(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (width, height)).save(data, "PNG")
    return data.getvalue()


def test_numbers() -> None:
    found = of(pa.array([None, *range(101)], pa.int16()), pa.array([float("nan"), -np.inf, 50.0]))
    assert (found.kind, found.rows, found.nulls, found.not_finite) == ("number", 105, 1, 2)
    assert found.distinct == 101
    numbers = found.numbers
    assert numbers is not None
    assert (numbers.min, numbers.p5, numbers.median) == (0, 5, 50)
    assert (numbers.p95, numbers.max) == (95, 100)
    assert numbers.mean == pytest.approx(50)
    assert found.histogram is not None
    assert sum(found.histogram.counts) == 102
    assert found.top == ()


def test_few_whole_numbers_are_categories() -> None:
    found = of(pa.array([1] * 6 + [2] * 9 + [3]))
    assert found.top == (Category(value="2", count=9), Category(value="1", count=6))
    assert found.others == 1


@pytest.mark.parametrize("value", ["EU", 3, True, Decimal("1.5"), date(2026, 11, 22)])
def test_a_constant_column(value: Any) -> None:
    found = of(pa.array([value, value, None, value, value, value]))
    assert found.is_constant
    assert (found.distinct, found.nulls) == (1, 1)


@pytest.mark.parametrize(
    "dtype", [pa.null(), pa.string(), pa.float64(), pa.bool_(), pa.timestamp("s"), pa.binary(),
              pa.list_(pa.int8()), pa.struct([("a", pa.int8())])],
)
@pytest.mark.parametrize("rows", [0, 3])
def test_a_column_without_a_value(dtype: Any, rows: int) -> None:
    found = of(pa.nulls(rows, dtype))
    assert (found.kind, found.rows, found.nulls) == ("empty", rows, rows)
    assert not found.is_constant


def test_only_not_finite() -> None:
    found = of(pa.array([float("nan"), float("inf")]))
    assert (found.kind, found.not_finite, found.numbers) == ("number", 2, None)


def test_texts() -> None:
    texts = ["red"] * 7 + ["blue"] * 5 + ["Ana Lima, 12 High Street"] + ["x" * 1_000] * 9 + [None]
    found = of(pa.array(texts[:10]), pa.array(texts[10:], pa.large_string()))
    assert (found.kind, found.nulls, found.distinct, found.unit) == ("text", 1, 4, "characters")
    assert found.top == (Category(value="red", count=7), Category(value="blue", count=5))
    assert found.others == 10
    assert found.numbers is not None
    assert (found.numbers.min, found.numbers.max) == (3, 1_000)


def test_long_texts_differ_by_length_and_are_never_shown() -> None:
    found = of(pa.array(["y" * TEXT_CHARS * 2] * 50 + ["y" * (TEXT_CHARS * 2 + 1)] * 50))
    assert (found.distinct, found.top) == (2, ())


def test_rare_values_are_shown_only_if_they_are_labels() -> None:
    names = pa.array(["Ana", "Ben", "Ben"])
    assert LEAST_COUNT > 2
    assert of(names).top == ()
    assert of(names, labels=True).top == (
        Category(value="Ben", count=2), Category(value="Ana", count=1),
    )


def test_booleans() -> None:
    found = of(pa.array([True, False, True, None]))
    assert found.top == (Category(value="true", count=2), Category(value="false", count=1))


@pytest.mark.parametrize(
    ("values", "first", "last"),
    [
        (pa.array([date(2026, 1, 2), date(2025, 1, 1)]), "2025-01-01", "2026-01-02"),
        (pa.array([1_767_323_045_678, None], pa.timestamp("ms")), *["2026-01-02 03:04:05"] * 2),
        (pa.array([0, 86_400_000], pa.timestamp("ms", "UTC")),
         "1970-01-01 00:00:00Z", "1970-01-02 00:00:00Z"),
        (pa.array([1, 61], pa.time32("s")), "00:00:01", "00:01:01"),
    ],
)
def test_times(values: Any, first: str, last: str) -> None:
    found = of(values)
    assert (found.kind, found.first, found.last) == ("time", first, last)


def test_durations_are_seconds() -> None:
    found = of(pa.array([timedelta(seconds=1), timedelta(milliseconds=2_500)]))
    assert found.numbers is not None
    assert (found.kind, found.numbers.max) == ("number", 2.5)


def test_images_bytes_lists_and_records() -> None:
    images = of(pa.array([png(8, 4), png(16, 2), b"no image", None]))
    assert (images.kind, images.unit) == ("image", "bytes")
    assert images.width is not None
    assert images.height is not None
    assert (images.width.min, images.width.max, images.height.max) == (8, 16, 4)
    assert of(pa.array([b"abc", b""])).kind == "bytes"
    lists = of(pa.array([[1, 2], [], None]))
    assert (lists.kind, lists.unit, lists.nulls) == ("list", "items", 1)
    assert lists.numbers is not None
    assert lists.numbers.max == 2
    records = of(pa.array([{"a": 1}, None]), pa.array([{"a": 2}]))
    assert (records.kind, records.rows, records.nulls) == ("other", 3, 1)
    fixed = of(pa.array([[1, 2]], pa.list_(pa.int8(), 2)))
    assert fixed.kind in ("list", "other")


def test_types_that_differ_between_chunks() -> None:
    assert of(pa.array([1, 2]), pa.array([1.5])).kind == "number"
    assert of(pa.array([None, None]), pa.array(["a"])).kind == "text"
    assert of(pa.array(["a"]), pa.array([1])).kind == "mixed"


def test_a_dictionary_and_an_extension_type_are_what_they_hold() -> None:
    assert of(pa.array(["a", "b"]).dictionary_encode()).kind == "text"
    assert of(pa.array([b"0" * 16], pa.binary(16)).cast(pa.binary())).kind == "bytes"
    assert of(pa.array(["[1]"], pa.json_())).kind == "text"


def test_far_values_do_not_flatten_a_histogram() -> None:
    found = histogram(np.sort(np.r_[np.linspace(0, 1, 10_000), 1e12]))
    assert found is not None
    assert found.edges[-1] < 2
    assert (found.below, found.above) == (False, True)
    assert sum(found.counts) == 10_001


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_any_numbers_have_figures(values: list[float]) -> None:
    found = of(pa.array(values))
    assert found.numbers is not None
    assert found.numbers.min == min(values)
    assert found.numbers.max == max(values)
    if found.histogram is not None:
        assert sum(found.histogram.counts) == len(values)
        assert list(found.histogram.edges) == sorted(found.histogram.edges)


@pytest.mark.parametrize("dtype", [pa.int64(), pa.uint64()])
def test_whole_numbers_that_no_float_holds_are_told_apart(dtype: Any) -> None:
    found = of(pa.array([2**53, 2**53 + 1, None] * 5, dtype))
    assert (found.distinct, found.nulls) == (2, 5)
    assert [(one.value, one.count) for one in found.top] == [
        ("9007199254740992", 5), ("9007199254740993", 5),
    ]


@pytest.mark.parametrize(("zone", "first"), [
    (None, "1970-01-01 00:00:00"), ("Europe/Berlin", "1970-01-01 01:00:00+0100"),
    ("GMT+1", "1970-01-01 00:00:00Z"),
])
def test_times_of_any_zone(zone: str | None, first: str) -> None:
    found = of(pa.array([0, 10**9], pa.int64()).cast(pa.timestamp("ms", zone)))
    assert (found.kind, found.first, found.distinct) == ("time", first, 2)


def test_a_duration_that_no_float_holds_is_one_of_about_its_length() -> None:
    column = pa.array([2**60 + 1, None], pa.int64()).cast(pa.duration("s"))
    assert condense(pa.table({"c": column}))["c"].to_pylist() == [2.0**60, None]


def test_a_condensed_row_is_as_small_as_it_says() -> None:
    table = pa.table({
        "t": ["\N{GRINNING FACE}" * 10_000] * 100, "n": [1.0] * 100, "b": [b"x" * 9_999] * 100,
        "l": [[1] * 99] * 100,
    })
    dtypes = [str(field.type) for field in table.schema]
    assert condense(table).nbytes < 100 * (row_bytes(dtypes) + 4 * TEXT_CHARS)


def test_tables_need_not_have_the_same_columns() -> None:
    found = list(profiles([pa.table({"a": [1]}), pa.table({"a": [2], "b": [3]})]))
    assert [(one.name, one.rows) for one in found] == [("a", 2), ("b", 1)]
