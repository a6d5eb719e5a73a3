"""Nightly datasets: which logical dates a schedule owes, and which it lacks. The clock comes in.

The run at ``at`` of one day scores the data of the day before: that day is its logical date.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta

from celeriac import errors
from celeriac.settings import NightlySettings

GRACE_S = 3_600
"""A run is missed if it has not begun this long after its time."""


def due_at(at: str, day: date) -> datetime:
    """When the run for the logical date ``day`` is due; ``at`` is ``HH:MM`` in UTC."""
    return datetime.combine(day + timedelta(days=1), time.fromisoformat(at), UTC)


def owed_date(at: str, now: datetime) -> date:
    """The newest logical date whose run is due at ``now``.

    >>> owed_date("02:00", datetime(2026, 11, 22, 1, 59, tzinfo=UTC)).isoformat()
    '2026-11-20'
    >>> owed_date("02:00", datetime(2026, 11, 22, 2, 0, tzinfo=UTC)).isoformat()
    '2026-11-21'
    """
    yesterday = now.astimezone(UTC).date() - timedelta(days=1)
    return yesterday if due_at(at, yesterday) <= now else yesterday - timedelta(days=1)


def owed_dates(schedule: NightlySettings, now: datetime, grace_s: float = 0) -> list[date]:
    """The last ``lookback_days`` logical dates, oldest first, due ``grace_s`` before ``now``."""
    newest = owed_date(schedule.at, now - timedelta(seconds=grace_s))
    days = range(schedule.lookback_days - 1, -1, -1)
    return [newest - timedelta(days=back) for back in days]


def missed_dates(
    schedule: NightlySettings, now: datetime, has_run: Callable[[date], bool]
) -> list[date]:
    """Owed dates without a run, oldest first; one that only just became due is not missed yet."""
    return [day for day in owed_dates(schedule, now, GRACE_S) if not has_run(day)]


def render(template: str, day: date) -> str:
    """``template`` with the logical date in the place of ``{date}``.

    >>> render("in/{date}.csv", date(2026, 11, 21))
    'in/2026-11-21.csv'
    """
    return template.replace("{date}", day.isoformat())


def parse_date(text: str) -> date:
    """A logical date. Raises RequestError if ``text`` is none."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise errors.RequestError(f"{text!r} is not a date; write it as 2026-11-22") from error


def find(schedules: dict[str, NightlySettings], name: str) -> NightlySettings:
    """The schedule of this name. Raises ConfigError."""
    schedule = schedules.get(name)
    if schedule is None:
        known = ", ".join(sorted(schedules)) or "none"
        raise errors.ConfigError(f"no [nightly.{name}] in the settings; there is: {known}")
    return schedule
