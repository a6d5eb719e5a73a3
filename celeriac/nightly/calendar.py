"""Which logical date is due when. The clock comes in, and every time that goes out is UTC.

The run at ``at`` of one day scores the data of the local day before: that day is its logical date.
Where a clock change skips the time, the run is due at the first instant after the gap; where the
time comes twice, at the first of them. So each date is due exactly once.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from celeriac import errors
from celeriac.settings.nightly import NightlySettings, rendered

MAX_ATTEMPTS = 99
"""Attempts of one date, at most."""
_DAY = timedelta(days=1)


def due_at(schedule: NightlySettings, day: date) -> datetime:
    """When the run for the logical date ``day`` is due."""
    zone = ZoneInfo(schedule.time_zone)
    wall = datetime.combine(day + _DAY, time.fromisoformat(schedule.at), zone)  # fold=0: the first
    due = wall.astimezone(UTC)
    if due.astimezone(zone).replace(tzinfo=None) == wall.replace(tzinfo=None):
        return due
    return _end_of_gap(wall, zone)


def owed_date(schedule: NightlySettings, now: datetime) -> date:
    """The newest logical date whose run is due at ``now``."""
    day = now.astimezone(ZoneInfo(schedule.time_zone)).date()  # due tomorrow, as a rule
    while due_at(schedule, day) > now:
        day -= _DAY
    return day


def next_due(schedule: NightlySettings, now: datetime) -> datetime:
    """When the next run is due, after ``now``; before ``first_date`` none is."""
    day = owed_date(schedule, now) + _DAY
    return due_at(schedule, max(day, schedule.first_date or day))


def owed_dates(schedule: NightlySettings, now: datetime) -> list[date]:
    """The last ``lookback_days`` logical dates that are due, oldest first."""
    newest = owed_date(schedule, now)
    days = [newest - back * _DAY for back in reversed(range(schedule.lookback_days))]
    return [day for day in days if schedule.first_date is None or day >= schedule.first_date]


def parse_date(text: str) -> date:
    """A logical date. Raises RequestError if ``text`` is none."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise errors.RequestError(f"{text!r} is not a date; write it as 2026-11-22") from error


def check_begun(schedule: NightlySettings, day: date, now: datetime) -> None:
    """Raises RequestError for a logical date that has not begun where the schedule runs."""
    today = now.astimezone(ZoneInfo(schedule.time_zone)).date()
    if day > today:
        raise errors.RequestError(
            f"{day} is in the future: in {schedule.time_zone} it is {today}; --force runs a "
            "dataset that is there before its day"
        )


def find(schedules: dict[str, NightlySettings], name: str) -> NightlySettings:
    """The schedule of this name. Raises ConfigError."""
    schedule = schedules.get(name)
    if schedule is None:
        known = ", ".join(sorted(schedules)) or "none"
        raise errors.ConfigError(f"no [nightly.{name}] in the settings; there is: {known}")
    return schedule


def dataset_path(schedule: NightlySettings, day: date) -> str:
    """The dataset of one date."""
    return rendered(schedule.dataset, day)


def ready_path(schedule: NightlySettings, day: date) -> str | None:
    """What is there as soon as the dataset of one date is whole; None: nothing says so."""
    return None if schedule.ready is None else rendered(schedule.ready, day)


def output_path(schedule: NightlySettings, day: date, attempt: int = 1) -> str:
    """The output folder of one attempt at a date: a forced one is a sibling of the first."""
    first = rendered(schedule.output, day)
    return first if attempt == 1 else f"{first.rstrip('/')}.attempt-{attempt}"


def _end_of_gap(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first instant after the gap that ``wall`` lies in, to the second."""
    # fold=1 reads the wall clock by the offset after the gap, fold=0 by the one before.
    before = wall.replace(fold=1).astimezone(UTC)
    after = wall.replace(fold=0).astimezone(UTC)
    offset = after.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=(after - before) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == offset:
            after = middle
        else:
            before = middle
    return after
