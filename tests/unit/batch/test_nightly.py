"""Which nights are owed and which were missed, with the clock passed in."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, strategies as st

from celeriac import errors, nightly
from celeriac.settings import NightlySettings

NIGHT = NightlySettings(
    dataset="in/{date}.csv", model="reviews", output="out/{date}", at="02:00", lookback_days=3
)
TIMES = st.times().map(lambda at: at.strftime("%H:%M"))


@pytest.mark.parametrize(
    ("at", "now", "owed"),
    [
        ("02:00", "2026-11-22T01:59:59+00:00", "2026-11-20"),
        ("02:00", "2026-11-22T02:00:00+00:00", "2026-11-21"),
        ("02:00", "2026-11-22T23:59:00+00:00", "2026-11-21"),
        ("00:00", "2026-11-22T00:00:00+00:00", "2026-11-21"),
        ("02:00", "2026-11-22T03:30:00+02:00", "2026-11-20"),
        ("02:00", "2026-03-01T02:00:00+00:00", "2026-02-28"),
    ],
)
def test_the_date_owed_is_the_day_before_the_run(at: str, now: str, owed: str) -> None:
    assert nightly.owed_date(at, datetime.fromisoformat(now)).isoformat() == owed


@given(at=TIMES, now=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001
def test_the_owed_date_is_due_and_the_next_is_not(at: str, now: datetime) -> None:
    now = now.replace(tzinfo=UTC)
    owed = nightly.owed_date(at, now)
    assert nightly.due_at(at, owed) <= now < nightly.due_at(at, owed + timedelta(days=1))


def test_missed_dates_are_those_without_a_run() -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    has = {date(2026, 11, 20)}
    missed = nightly.missed_dates(NIGHT, now, has.__contains__)
    assert [day.isoformat() for day in missed] == ["2026-11-19", "2026-11-21"]


def test_a_run_that_is_just_due_is_not_missed_yet() -> None:
    has = {date(2026, 11, 18), date(2026, 11, 19), date(2026, 11, 20)}
    half_past = datetime(2026, 11, 22, 2, 30, tzinfo=UTC)
    assert nightly.missed_dates(NIGHT, half_past, has.__contains__) == []
    later = half_past + timedelta(hours=1)
    assert nightly.missed_dates(NIGHT, later, has.__contains__) == [date(2026, 11, 21)]


def test_templates_and_dates() -> None:
    assert nightly.render("{date}/{date}.csv", date(2026, 1, 2)) == "2026-01-02/2026-01-02.csv"
    with pytest.raises(errors.RequestError, match="is not a date"):
        nightly.parse_date("yesterday")


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match="there is: reviews"):
        nightly.find({"reviews": NIGHT}, "review")
