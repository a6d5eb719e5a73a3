"""Which date is due when, in any time zone, with the clock passed in."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from celeriac import errors
from celeriac.nightly import calendar
from celeriac.settings.nightly import NightlySettings

TIMES = st.times().map(lambda at: at.strftime("%H:%M"))
ZONES = st.sampled_from([
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo",
    "Asia/Kathmandu", "Africa/Casablanca", "Asia/Beirut", "Pacific/Apia", "America/Scoresbysund",
])


def night(at: str = "02:00", time_zone: str = "UTC", **fields: object) -> NightlySettings:
    return NightlySettings.model_validate({
        "dataset": "in/{date}.csv", "model": "reviews", "output": "out/{date}", "at": at,
        "time_zone": time_zone, **fields,
    })


@pytest.mark.parametrize(
    ("at", "zone", "day", "due"),
    [
        ("02:00", "UTC", "2026-11-21", "2026-11-22T02:00"),
        ("02:00", "Europe/Berlin", "2026-11-21", "2026-11-22T01:00"),
        ("02:00", "America/New_York", "2026-11-21", "2026-11-22T07:00"),
        ("23:30", "America/New_York", "2026-11-21", "2026-11-23T04:30"),
        # Berlin, 29 March: 02:00 to 03:00 does not exist; the gap ends at 01:00 UTC.
        ("01:59", "Europe/Berlin", "2026-03-28", "2026-03-29T00:59"),
        ("02:00", "Europe/Berlin", "2026-03-28", "2026-03-29T01:00"),
        ("02:30", "Europe/Berlin", "2026-03-28", "2026-03-29T01:00"),
        ("02:59", "Europe/Berlin", "2026-03-28", "2026-03-29T01:00"),
        ("03:00", "Europe/Berlin", "2026-03-28", "2026-03-29T01:00"),
        ("03:30", "Europe/Berlin", "2026-03-28", "2026-03-29T01:30"),
        # Berlin, 25 October: 02:00 to 03:00 comes twice; the first one is summer time.
        ("02:00", "Europe/Berlin", "2026-10-24", "2026-10-25T00:00"),
        ("02:30", "Europe/Berlin", "2026-10-24", "2026-10-25T00:30"),
        ("03:00", "Europe/Berlin", "2026-10-24", "2026-10-25T02:00"),
        # New York, 8 March and 1 November.
        ("02:15", "America/New_York", "2026-03-07", "2026-03-08T07:00"),
        ("01:30", "America/New_York", "2026-10-31", "2026-11-01T05:30"),
        ("02:00", "America/New_York", "2026-10-31", "2026-11-01T07:00"),
        # A gap of half an hour; one over midnight; a day that Samoa skipped.
        ("02:10", "Australia/Lord_Howe", "2026-10-03", "2026-10-03T15:30"),
        ("00:30", "America/Sao_Paulo", "2018-11-03", "2018-11-04T03:00"),
        ("02:00", "Pacific/Apia", "2011-12-29", "2011-12-30T10:00"),
        ("02:00", "Pacific/Apia", "2011-12-30", "2011-12-30T12:00"),
    ],
)
def test_when_a_date_is_due(at: str, zone: str, day: str, due: str) -> None:
    found = calendar.due_at(night(at, zone), date.fromisoformat(day))
    assert found == datetime.fromisoformat(due).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "zone", "now", "owed"),
    [
        ("02:00", "UTC", "2026-11-22T01:59:59+00:00", "2026-11-20"),
        ("02:00", "UTC", "2026-11-22T02:00:00+00:00", "2026-11-21"),
        ("02:00", "UTC", "2026-11-22T23:59:00+00:00", "2026-11-21"),
        ("00:00", "UTC", "2026-11-22T00:00:00+00:00", "2026-11-21"),
        ("02:00", "UTC", "2026-11-22T03:30:00+02:00", "2026-11-20"),
        ("02:00", "UTC", "2026-03-01T02:00:00+00:00", "2026-02-28"),
        ("02:00", "Europe/Berlin", "2026-11-22T00:59:59+00:00", "2026-11-20"),
        ("02:00", "Europe/Berlin", "2026-11-22T01:00:00+00:00", "2026-11-21"),
        ("02:30", "Europe/Berlin", "2026-03-29T00:59:59+00:00", "2026-03-27"),
        ("02:30", "Europe/Berlin", "2026-03-29T01:00:00+00:00", "2026-03-28"),
        # In the hour that comes again the date is still the same one.
        ("02:30", "Europe/Berlin", "2026-10-25T00:30:00+00:00", "2026-10-24"),
        ("02:30", "Europe/Berlin", "2026-10-25T01:30:00+00:00", "2026-10-24"),
        ("01:30", "America/New_York", "2026-11-01T05:29:59+00:00", "2026-10-30"),
        ("01:30", "America/New_York", "2026-11-01T06:15:00+00:00", "2026-10-31"),
    ],
)
def test_the_date_owed_is_the_day_before_the_run(
    at: str, zone: str, now: str, owed: str
) -> None:
    found = calendar.owed_date(night(at, zone), datetime.fromisoformat(now))
    assert found.isoformat() == owed


@given(at=TIMES, zone=ZONES, now=st.datetimes(datetime(2010, 1, 1), datetime(2035, 1, 1)))  # noqa: DTZ001
def test_the_owed_date_is_due_and_the_next_is_not(at: str, zone: str, now: datetime) -> None:
    now, schedule = now.replace(tzinfo=UTC), night(at, zone)
    owed = calendar.owed_date(schedule, now)
    upcoming = calendar.next_due(schedule, now)
    assert calendar.due_at(schedule, owed) <= now < upcoming
    assert upcoming == calendar.due_at(schedule, owed + timedelta(days=1))


@given(at=TIMES, zone=ZONES, day=st.dates(date(2010, 1, 1), date(2035, 1, 1)))
def test_a_date_is_never_due_before_an_earlier_one(at: str, zone: str, day: date) -> None:
    schedule = night(at, zone)
    assert calendar.due_at(schedule, day) <= calendar.due_at(schedule, day + timedelta(days=1))


def test_dates_that_are_looked_after() -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    days = calendar.owed_dates(night(lookback_days=3), now)
    assert [str(day) for day in days] == ["2026-11-19", "2026-11-20", "2026-11-21"]
    first = night(lookback_days=3, first_date="2026-11-21")
    assert [str(day) for day in calendar.owed_dates(first, now)] == ["2026-11-21"]


def test_paths_and_dates() -> None:
    day = date(2026, 1, 2)
    schedule = night(dataset="{date}/{date}.csv", output="s3://bucket/out/{date}/")
    assert calendar.dataset_path(schedule, day) == "2026-01-02/2026-01-02.csv"
    assert calendar.output_path(schedule, day) == "s3://bucket/out/2026-01-02/"
    assert calendar.output_path(schedule, day, 2) == "s3://bucket/out/2026-01-02.attempt-2"
    lake = night(dataset="y={date:%Y}/m={date:%m}/d={date:%d}", output="o/{date:%Y}-{date:%j}")
    assert calendar.dataset_path(lake, day) == "y=2026/m=01/d=02"
    assert calendar.output_path(lake, day, 2) == "o/2026-002.attempt-2"
    with pytest.raises(errors.RequestError, match="is not a date"):
        calendar.parse_date("yesterday")


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match="there is: reviews"):
        calendar.find({"reviews": night()}, "review")
