"""What comes in becomes columns; what is wrong with one reading is its own error."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from celeriac import errors
from celeriac.applications.sensors.readings import Readings, check_sensor, from_columns, parse

NOW_S = 1_764_000_000.0


def read(*readings: Any) -> Readings:
    return parse(readings, NOW_S, 60.0)


def test_plain_readings_become_columns() -> None:
    found = read(
        {"sensor": "a", "at": NOW_S, "value": 1}, {"sensor": "b", "at": 5.25, "value": 2.5}
    )
    assert list(found.sensors) == ["a", "b"]
    assert found.at_ms.tolist() == [1_764_000_000_000, 5_250]
    assert np.asarray(found.values).tolist() == [[1.0], [2.5]]
    assert not found.errors


@pytest.mark.parametrize("at", [
    "2026-11-25T08:00:00Z", "2026-11-25T09:00:00+01:00",
    datetime(2026, 11, 25, 8, tzinfo=UTC),
    datetime(2026, 11, 25, 10, tzinfo=timezone(timedelta(hours=2))),
    1_795_593_600, 1_795_593_600.0, np.float64(1_795_593_600),
])  # fmt: skip
def test_times_may_be_numbers_texts_and_datetimes(at: Any) -> None:
    [at_ms] = parse([{"sensor": "a", "at": at, "value": 1}], 2e9, 0).at_ms.tolist()
    assert at_ms == 1_795_593_600_000


def test_a_reading_without_a_time_is_of_now() -> None:
    assert read({"sensor": "a", "value": 1}).at_ms.tolist() == [1_764_000_000_000]


@pytest.mark.parametrize(("reading", "told"), [
    ({"sensor": "a", "at": 1, "value": float("nan")}, "NaN or infinite"),
    ({"sensor": "a", "at": 1, "value": float("-inf")}, "NaN or infinite"),
    ({"sensor": "a", "at": 1, "value": 10**400}, "NaN or infinite"),
    ({"sensor": "a", "at": 1, "value": None}, "missing"),
    ({"sensor": "a", "at": 1, "value": "12"}, "a number, not '12'"),
    ({"sensor": "a", "at": 1, "value": True}, "a number"),
    ({"sensor": "a", "at": 1}, "either value"),
    ({"sensor": "a", "at": 1, "value": 1, "values": [1]}, "either value"),
    ({"sensor": "a", "at": 1, "values": []}, "1 to 16"),
    ({"sensor": "a", "at": 1, "values": [1] * 17}, "1 to 16"),
    ({"sensor": "a", "at": 1, "values": {"x": 1}}, "1 to 16"),
    ({"sensor": "a", "at": 1, "vaule": 1}, "found vaule"),
    ({"sensor": "", "at": 1, "value": 1}, "no sensor's name"),
    ({"sensor": "a/b", "at": 1, "value": 1}, "no sensor's name"),
    ({"sensor": "alarms", "at": 1, "value": 1}, "no sensor's name"),
    ({"sensor": 7, "at": 1, "value": 1}, "name is a text; found 7"),
    ({"sensor": None, "at": 1, "value": 1}, "name is a text; found null"),
    ({"at": 1, "value": 1}, "name is a text; found null"),
    ("a,1,2", "an object"),
    (None, "an object"),
    ({"sensor": "a", "at": NOW_S + 61, "value": 1}, "61 s ahead of the clock"),
    ({"sensor": "a", "at": NOW_S * 1_000, "value": 1}, "milliseconds"),
    ({"sensor": "a", "at": -1, "value": 1}, "before 1970"),
    ({"sensor": "a", "at": float("nan"), "value": 1}, "NaN"),
    ({"sensor": "a", "at": 10**400, "value": 1}, "ahead of the clock"),
    ({"sensor": "a", "at": "yesterday", "value": 1}, "'yesterday'"),
    ({"sensor": "a", "at": "2026-11-25T08:00:00", "value": 1}, "offset"),
    ({"sensor": "a", "at": [1], "value": 1}, "Unix seconds"),
    ({"sensor": "a", "at": False, "value": 1}, "Unix seconds"),
    ({"sensor": "a", "at": np.ones(2), "value": 1}, "Unix seconds"),
    ({"sensor": "a", "at": 1, "value": np.ones(2)}, "a number"),
    ({"sensor": float("nan"), "at": 1, "value": 1}, "name is a text"),
])  # fmt: skip
def test_a_bad_reading_has_its_own_error_and_costs_the_others_nothing(
    reading: Any, told: str
) -> None:
    good = {"sensor": "a", "at": 3, "value": 1}
    for beside in ([good], [good, {"sensor": "b", "at": "1970-01-01T00:00:04Z", "value": 2}]):
        found = read(*beside, reading)
        assert list(found.errors) == [len(beside)]
        assert told in found.errors[len(beside)].message
        assert found.at_ms[0] == 3_000


def test_columns_have_one_length_and_their_own_errors() -> None:
    found = from_columns(
        ["a", "b", "readings", "c"], [1, 2, 3, float("inf")], [[1, 2], [1, float("nan")], [1, 2],
                                                               [1, 2]],
        now_s=NOW_S, max_ahead_s=0,
    )  # fmt: skip
    assert sorted(found.errors) == [1, 2, 3]
    for at, values in (([1], [1, 2]), ([1, 2], [1]), ([1, 2], [[[1]], [[2]]])):
        with pytest.raises(errors.RequestError, match="one length"):
            from_columns(["a", "b"], at, values, now_s=NOW_S, max_ahead_s=0)
    for at, values in ((["now"], [1]), ([10**400], [1]), ([1], [10**400])):
        with pytest.raises(errors.RequestError, match="are numbers"):
            from_columns(["a"], at, values, now_s=NOW_S, max_ahead_s=0)


def test_names_in_columns_are_those_of_sensors_whatever_holds_them() -> None:
    """A missing name of pandas is NaN, which does not equal itself."""
    given: Any = ["a", float("nan"), None, ["b"], np.str_("c"), 7]
    found = from_columns(given, [1] * 6, [1] * 6, now_s=NOW_S, max_ahead_s=0)
    assert sorted(found.errors) == [1, 2, 3, 5]
    assert list(found.sensors) == ["a", "", "", "", "c", ""]
    assert {type(name) for name in found.sensors} == {str}


@pytest.mark.parametrize("name", ["a", "pump-7", "hall.3:temp_1", "A" * 128])
def test_names_of_sensors(name: str) -> None:
    assert check_sensor(name) == name
