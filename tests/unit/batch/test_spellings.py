"""Values that Python, JSON or CSV lack come out exactly, and alike in each format."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings, strategies as st

from celeriac.datasets.parts import encode_errors, encode_table
from celeriac.datasets.records import RowError
from celeriac.datasets.spellings import rows_of, values_of

BERLIN = "Europe/Berlin"
INT64 = st.integers(-(2**63) + 1, 2**63 - 1)


def in_json(column: pa.Array) -> list[Any]:
    lines = encode_table(pa.table({"v": column}), "jsonl").to_pybytes().splitlines()
    return [json.loads(line)["v"] for line in lines]


def in_csv(column: pa.Array) -> list[str]:
    table = pa.table({"v": column, "n": pa.array(range(len(column)))})
    text = encode_table(table, "csv").to_pybytes().decode()
    return [row["v"] for row in csv.DictReader(io.StringIO(text))]


@pytest.mark.parametrize(("values", "dtype", "shown"), [
    ([253402300800, -62135596801, 5], pa.timestamp("s"),
     ["10000-01-01T00:00:00", "0000-12-31T23:59:59", "1970-01-01T00:00:05"]),
    ([253402300799_250], pa.timestamp("ms", BERLIN), ["10000-01-01T00:59:59.250000+01:00"]),
    ([253402300799_000000], pa.timestamp("us", "UTC"), ["9999-12-31T23:59:59Z"]),
    ([5_000_000, -1_000_000, 2_932_896], pa.date32(),
     ["15659-07-15", "-0768-02-04", "9999-12-31"]),
    ([2**60, -1], pa.duration("s"), ["P13343998895912DT50176S", "-PT1S"]),
])
def test_times_beyond_those_of_python(values: list[int], dtype: Any, shown: list[str]) -> None:
    whole = pa.array([*values, None], pa.int32() if dtype == pa.date32() else pa.int64())
    column = whole.cast(dtype)
    assert in_json(column) == [*shown, None]


def test_an_offset_with_seconds_is_written_in_utc() -> None:
    """Before 1893 clocks in Berlin were 53 minutes and 28 seconds ahead, and no offset says so."""
    column = pa.array([-5_000_000_000, 0, None], pa.int64()).cast(pa.timestamp("s", BERLIN))
    assert in_json(column) == ["1811-07-23T15:06:40Z", "1970-01-01T01:00:00+01:00", None]
    found = [datetime.fromisoformat(text).timestamp() for text in in_csv(column)[:2]]
    assert found == [-5_000_000_000, 0]


@pytest.mark.parametrize("zone", ["utc", "Z", "GMT+1", "+0100"])
def test_times_of_a_zone_that_nobody_knows_are_written_in_utc(zone: str) -> None:
    column = pa.array([1, None], pa.int64()).cast(pa.timestamp("ns", zone))
    assert in_json(column) == ["1970-01-01T00:00:00.000000001Z", None]
    assert in_csv(column) == ["1970-01-01 00:00:00.000000001Z", ""]


@pytest.mark.parametrize(("unit", "shown"), [
    ("s", "-P1DT3600S"), ("ms", "-PT90S"), ("us", "-PT0.09S"), ("ns", "-PT0.00009S"),
])
def test_durations_say_their_unit_in_csv_as_in_json_lines(unit: Any, shown: str) -> None:
    column = pa.array([-90_000, 0, None], pa.int64()).cast(pa.duration(unit))
    assert in_json(column) == [shown, "P0D", None]
    assert in_csv(column) == [shown, "P0D", ""]


def test_times_in_lists_records_and_maps_keep_nanoseconds() -> None:
    times = pa.array([[1, None], None, []], pa.list_(pa.int64()))
    first = ["00:00:00.000000001", None]
    assert in_json(times.cast(pa.list_(pa.time64("ns")))) == [first, None, []]
    assert in_json(times.cast(pa.list_(pa.duration("ns"))))[0] == ["PT0.000000001S", None]
    record = pa.struct([("at", pa.timestamp("ns", "UTC")), ("of", pa.list_(pa.int64()))])
    column = pa.array([{"at": 7, "of": [2**53 + 1]}, None], record)
    assert in_json(column) == [
        {"at": "1970-01-01T00:00:00.000000007Z", "of": [2**53 + 1]}, None,
    ]
    pairs = pa.array([[("a", 7)], None], pa.map_(pa.string(), pa.duration("ns")))
    assert in_json(pairs) == [[["a", "PT0.000000007S"]], None]


TIME = pa.timestamp("us")
AT = datetime(2020, 1, 1, 1, 2, 3)  # noqa: DTZ001 - a column without a zone


@pytest.mark.parametrize("column", [
    pa.array([[AT], None, [], [AT, None]], pa.list_(TIME)),
    pa.array([[AT, AT], None, [None, AT]], pa.list_(TIME, 2)),
    pa.array([[[AT]], None, [None, []]], pa.large_list(pa.list_(TIME))),
    pa.array([{"a": AT, "b": [1]}, None, {}], pa.struct({"a": TIME, "b": pa.list_(pa.int8())})),
    pa.array([[{"a": AT}], None, []], pa.list_(pa.struct({"a": TIME}))),
    pa.array([[("x", AT)], None, []], pa.map_(pa.string(), TIME)),
], ids=str)
def test_times_in_others_are_those_of_python_where_it_has_them(column: pa.Array) -> None:
    for some in (column, column[1:], pa.chunked_array([column[1:], column]), column[:0]):
        assert values_of(some) == some.to_pylist()
        table = pa.table({"n": range(len(some)), "of": some, "last": ["z"] * len(some)})
        assert rows_of(table) == table.to_pylist()


@settings(max_examples=40)
@given(counts=st.lists(INT64 | st.integers(-(10**6), 10**6), min_size=1, max_size=4),
       unit=st.sampled_from(["s", "ms", "us", "ns"]),
       zone=st.sampled_from([None, "UTC", BERLIN, "Europe/London"]))
@example(counts=[-(10**12), 155_536_524_914], unit="s", zone=BERLIN)  # in the summer of 6898
@example(counts=[1, 1_000], unit="ns", zone="Europe/London")
def test_a_time_hangs_on_nothing_else_and_can_be_read_back(
    counts: list[int], unit: Any, zone: str | None
) -> None:
    whole = pa.array(counts, pa.int64())
    for dtype in (pa.timestamp(unit, zone), pa.duration(unit)):
        column = whole.cast(dtype)
        together = in_json(column)
        assert together == [in_json(column.slice(at, 1))[0] for at in range(len(column))]
    if zone is None:
        for text, count in zip(in_json(whole.cast(pa.timestamp(unit))), counts, strict=True):
            if not text.startswith("<value") and text[4] == "-":  # of a year that numpy reads
                assert np.datetime64(text, unit) == np.datetime64(count, unit)


@pytest.mark.parametrize(("value", "dtype", "shown"), [
    (2**53 + 1, pa.int64(), 2**53 + 1), (b"\xff\x00", pa.binary(), "/wA="),
    (7, pa.time64("ns"), "00:00:00.000000007"),
    (datetime(1969, 12, 31, tzinfo=UTC), pa.timestamp("us", "UTC"), "1969-12-31T00:00:00Z"),
    ([2**53 + 1], pa.list_(pa.int64()), "[9007199254740993]"),
])
def test_ids_of_failed_rows_are_those_of_json_lines(value: Any, dtype: Any, shown: Any) -> None:
    column = pa.array([value], dtype)
    (found,) = values_of(column)
    line = encode_errors([("a.parquet", RowError(row=1, id=found, code="x", message="", data=""))])
    assert json.loads(line)["id"] == shown
    (expected,) = in_json(column)
    written = expected if isinstance(expected, (int, str)) else msgspec.json.encode(expected)
    assert (written if isinstance(written, (int, str)) else written.decode()) == shown
