"""Aggregates over parts: the same as over the whole table, whatever the cut."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from celeriac import errors
from celeriac.datasets import aggregates
from celeriac.datasets.aggregates import aggregate, check_aggregation
from celeriac.datasets.periods import in_periods
from celeriac.datasets.records import Aggregation, Period

WANTED = Aggregation.of({
    "by": "product", "mean": ["score", "flag"], "share": {"label": "good"},
    "quantiles": {"score": [0, 0.5, 0.9, 1]},
})

ROWS = st.lists(
    st.fixed_dictionaries({
        "product": st.sampled_from(["a", "b", None]),
        "score": st.none() | st.floats(-1e6, 1e6, allow_subnormal=False),
        "flag": st.booleans(),
        "label": st.sampled_from(["good", "bad", None]),
    }),
    min_size=1, max_size=60,
)
SCHEMA = pa.schema([
    ("product", pa.string()), ("score", pa.float64()), ("flag", pa.bool_()),
    ("label", pa.string()),
])


@settings(max_examples=60)
@given(rows=ROWS, at=st.integers(0, 60))
def test_the_cut_into_parts_changes_nothing(rows: list[dict[str, Any]], at: int) -> None:
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    found = aggregate([table.slice(0, at), table.slice(at)], WANTED).to_pylist()
    whole = aggregate([table], WANTED).to_pylist()
    for one, other in zip(found, whole, strict=True):
        assert one == pytest.approx(other)
    frame = pd.DataFrame(rows, columns=SCHEMA.names)
    for row in found:
        here = frame[frame["product"] == row["product"]] if row["product"] is not None else (
            frame[frame["product"].isna()]
        )
        assert row["count"] == len(here)
        assert row["flag_mean"] == pytest.approx(here["flag"].mean())
        labels = here["label"].dropna()
        share = (labels == "good").mean() if len(labels) else None
        assert row["label_share_good"] == (pytest.approx(share) if len(labels) else None)
        scores = here["score"].dropna().astype(float)
        if not len(scores):
            assert row["score_mean"] is None
            assert row["score_p50"] is None
            continue
        assert row["score_mean"] == pytest.approx(scores.mean(), abs=1e-6)
        for share, name in [(0, "p0"), (0.5, "p50"), (0.9, "p90"), (1, "p100")]:
            exact = np.quantile(scores, share, method="lower")
            assert row[f"score_{name}"] == pytest.approx(exact, rel=0.0051, abs=1e-12)


def test_groups_come_in_order_and_by_several_columns() -> None:
    table = pa.table({"b": [2, 1, 2, 1], "a": ["x", "x", "y", "x"], "n": [1.0, 2.0, 3.0, 5.0]})
    found = aggregate([table], Aggregation.of({"by": ["b", "a"], "mean": "n"}))
    assert found.to_pylist() == [
        {"b": 1, "a": "x", "count": 2, "n_mean": 3.5},
        {"b": 2, "a": "x", "count": 1, "n_mean": 1.0},
        {"b": 2, "a": "y", "count": 1, "n_mean": 3.0},
    ]


def test_too_many_groups_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregates, "MAX_GROUPS", 5)
    tables = [pa.table({"id": [n, n + 1]}) for n in range(0, 10, 2)]
    with pytest.raises(errors.JobFailed, match="more than 5 groups by id"):
        aggregate(tables, Aggregation.of({"by": "id"}))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"by": []}, "at least one column"), ({"by": "nope"}, "no column 'nope'"),
        ({"by": "id", "mean": "label"}, "'label' holds no numbers"),
        ({"by": "id", "quantiles": {"n": [50]}}, "from 0 to 1"),
        ({"by": "id", "share": {"nope": "x"}}, "no column 'nope'"),
        ({"by": "id", "median": "n"}, "looks like"), ({"mean": "n"}, "looks like"),
        ("product", "looks like"),
    ],
)
def test_what_cannot_be_aggregated_is_named(value: Any, says: str) -> None:
    with pytest.raises(errors.RequestError, match=says):
        check_aggregation(Aggregation.of(value), ["n"], ["id", "label"])


@settings(max_examples=60)
@given(rows=ROWS, at=st.integers(0, 60), far=st.sampled_from([0.0, 1e9]))
def test_the_spread_is_that_of_each_group(rows: list[dict[str, Any]], at: int, far: float) -> None:
    """Also where the values are far from 0."""
    for row in rows:
        row["score"] = None if row["score"] is None else far + row["score"] % 100
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    wanted = Aggregation.of({"by": "product", "std": "score"})
    frame = pd.DataFrame(rows, columns=SCHEMA.names)
    for found in aggregate([table.slice(0, at), table.slice(at)], wanted).to_pylist():
        same = frame["product"].isna() if found["product"] is None else (
            frame["product"] == found["product"]
        )
        scores = frame[same]["score"].dropna().astype(float)
        if len(scores) < 2:
            assert found["score_std"] is None
        else:
            assert found["score_std"] == pytest.approx(scores.std(), abs=1e-4)


@pytest.mark.parametrize(("period", "day"), [
    ("day", "2025-03-30"), ("week", "2025-03-24"), ("month", "2025-03-01"),
    ("quarter", "2025-01-01"), ("year", "2025-01-01"),
])
def test_dates_of_any_kind_become_periods(period: Period, day: str) -> None:
    at = datetime(2025, 3, 30, 23, 30, tzinfo=UTC)
    columns = [
        pa.array([at.date()]), pa.array([at], pa.timestamp("us", "UTC")),
        pa.array(["2025-03-30", " 2025-03-30T23:30:00Z ", "2025-03-31T01:30:00+02:00"]),
        pa.array([int(at.timestamp()), int(at.timestamp()) * 1_000]),
        pa.array([at.timestamp()]),
    ]
    for column in columns:
        found = in_periods(pa.chunked_array([column]), period).to_pylist()
        assert {str(one) for one in found} == {day}


def test_what_is_no_date_is_null() -> None:
    columns = [
        pa.array(["31.3.2025", "", "soon", None, "9999-12-31T23:00:00-10:00"]),
        pa.array([float("nan"), float("inf"), 1e300]), pa.array([True]), pa.array([[1]]),
        pa.array([None]), pa.array([10**18]), pa.array([2**62]).cast(pa.timestamp("us")),
        pa.array([2**31 - 1], pa.int32()).cast(pa.date32()),  # no calendar goes so far
    ]
    for column in columns:
        assert set(in_periods(pa.chunked_array([column]), "month").to_pylist()) == {None}


def test_a_period_of_a_column_that_groups_nothing_is_refused() -> None:
    wanted = Aggregation.of({"by": "product", "period": {"date": "month"}})
    with pytest.raises(errors.RequestError, match="not among `by`"):
        check_aggregation(wanted, [], ["product", "date"])


@pytest.mark.parametrize(("value", "taken"), [
    ({"by": "count"}, "count"), ({"by": "n_mean", "mean": "n"}, "n_mean"),
    ({"by": "n_std", "std": "n"}, "n_std"), ({"by": "n_p50", "quantiles": {"n": [0.5]}}, "n_p50"),
    ({"by": "id_share_x", "share": {"id": "x"}}, "id_share_x"),
])
def test_a_group_is_not_named_as_a_figure_is(value: Any, taken: str) -> None:
    with pytest.raises(errors.RequestError, match=f"a column '{taken}' of their own"):
        check_aggregation(Aggregation.of(value), ["n"], ["id", taken])


@pytest.mark.parametrize(("value", "twice"), [
    ({"by": ["id", "id"]}, "id"), ({"by": "id", "std": ["n", "n"]}, "n_std"),
    ({"by": "id", "quantiles": {"n": [0.5, 0.5]}}, "n_p50"),
    ({"by": "id", "quantiles": {"n": [0.5, 0.500000001]}}, "n_p50"),
])
def test_a_figure_is_asked_for_once(value: Any, twice: str) -> None:
    """The job failed with its last step, or one of the two was lost."""
    with pytest.raises(errors.RequestError, match=f"a column '{twice}' twice"):
        check_aggregation(Aggregation.of(value), ["n"], ["id"])
    check_aggregation(Aggregation.of({"by": "id", "mean": ["n", "n"]}), ["n"], ["id"])


def test_a_group_may_be_named_bin() -> None:
    table = pa.table({"bin": ["a", "b"], "n": [1.0, 2.0]})
    wanted = Aggregation.of({"by": "bin", "quantiles": {"n": [0.5]}})
    assert [row["n_p50"] for row in aggregate([table, table], wanted).to_pylist()] == [1.0, 2.0]


def test_groups_of_numbers_are_by_value() -> None:
    numbers = [0.0, -0.0, math.nan, -math.nan, 1.5, None]
    for kind in (pa.float64(), pa.float32(), pa.float16()):
        table = pa.table({"by": pa.array(numbers, kind), "n": [1.0, 1.0, 2.0, 2.0, 3.0, 4.0]})
        wanted = Aggregation.of({"by": "by", "mean": "n", "quantiles": {"n": [1]}})
        found = aggregate([table, table.slice(2)], wanted).to_pylist()
        assert {
            str(row["by"]): (row["count"], row["n_mean"], round(row["n_p100"], 6)) for row in found
        } == {"0.0": (2, 1, 1), "nan": (4, 2, 2), "1.5": (2, 3, 3), "None": (2, 4, 4)}


def test_nan_is_no_value_and_large_numbers_are_rounded() -> None:
    table = pa.table({
        "by": [1, 1, 1], "n": [1.0, math.nan, 3.0], "id": [2**53 + 1, 2**53 + 1, None],
    })
    wanted = Aggregation.of({"by": "by", "mean": ["n", "id"], "std": "n"})
    assert aggregate([table], wanted).to_pylist() == [
        {"by": 1, "count": 3, "n_mean": 2.0, "id_mean": 2.0**53, "n_std": pytest.approx(2**0.5)},
    ]


def test_quantiles_of_groups_that_python_has_no_value_for() -> None:
    """Times that differ by a nanosecond, and years beyond 9999."""
    wanted = Aggregation.of({"by": ["time", "at"], "quantiles": {"n": [0.5]}})
    table = pa.table({
        "time": pa.array([1, 2], pa.time64("ns")),
        "at": pa.array([253402300800, 253402300800], pa.timestamp("s")), "n": [10.0, 20.0],
    })
    assert aggregate([table], wanted)["n_p50"].to_pylist() == [10.0, 20.0]
    of_days = Aggregation.of({"by": "day", "quantiles": {"n": [0.5]}})
    days = pa.array([20_000, 2_932_896], pa.int32()).cast(pa.date32())  # the last day of 9999
    table = pa.table({"day": days, "n": pa.array([1.0, None])})
    assert aggregate([table], of_days)["n_p50"].to_pylist() == [1.0, None]


@pytest.mark.parametrize(("column", "value", "share"), [
    (pa.array([b"\xff", b"a", None]), "/w==", 0.5),
    (pa.array([1, 2, None], pa.duration("ms")), "PT0.002S", 0.5),
    (pa.array([1, 2, None], pa.int64()), 1, 0.5),
    (pa.array([Decimal("1.10"), Decimal(2), None]).cast(pa.decimal128(3, 2)), "1.10", 0.5),
])
def test_shares_of_values_as_csv_has_them(column: pa.Array, value: Any, share: float) -> None:
    wanted = Aggregation.of({"by": "group", "share": {"v": value}})
    table = pa.table({"group": ["a"] * 3, "v": column})
    assert aggregate([table], wanted)[f"v_share_{value}"].to_pylist() == [share]


@pytest.mark.skipif(not hasattr(pa, "decimal64"), reason="newer than the least pyarrow")
def test_groups_of_small_decimals() -> None:
    column = pa.array([Decimal("1.10"), Decimal("1.10"), None]).cast(pa.decimal64(5, 2))
    found = aggregate([pa.table({"price": column})], Aggregation.of({"by": "price"}))
    assert found["price"].to_pylist() == [Decimal("1.10"), None]
    assert found["count"].to_pylist() == [2, 1]
