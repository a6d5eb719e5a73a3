"""What is to be done for one date of a schedule: pure decisions, with the clock passed in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from celeriac.alerts import AlertKind
from celeriac.nightly.calendar import due_at
from celeriac.settings.nightly import NightlySettings


class RunState(StrEnum):
    """Where the newest attempt at a date stands."""

    ABSENT = "no run"
    LOST = "lost"
    """Planned, but neither queued nor known to Redis: the next run goes on with it."""
    PLANNING = "planning"
    RUNNING = "running"
    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    UNFINISHED = "unfinished"
    """So old that Redis may forget it, and not whole: somebody has let it lie."""
    UNREADABLE = "unreadable"
    """Its output folder cannot be read now."""

    @property
    def can_begin(self) -> bool:
        """True if a run of this date begins, or goes on, without being forced."""
        return self in (RunState.ABSENT, RunState.LOST)

    @property
    def is_over(self) -> bool:
        """True if nothing more comes of this attempt by itself."""
        return self not in _OPEN

    @property
    def is_whole(self) -> bool:
        """True if its output is as complete as it gets."""
        return self in (RunState.COMPLETED, RunState.COMPLETED_WITH_ERRORS)


_OPEN = (
    RunState.ABSENT, RunState.LOST, RunState.PLANNING, RunState.RUNNING, RunState.UNREADABLE,
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attempt at a date, as its output folder and the ledger show it."""

    day: date
    attempt: int
    state: RunState
    output: str
    job_id: str = ""
    begun_at: datetime | None = None
    """When it was planned; None if there is no job."""
    rows: int = 0
    rows_failed: int = 0
    reason: str = ""
    """Why it failed, or cannot be read."""


@dataclass(frozen=True)
class Verdict:
    """What a date calls for."""

    start: bool = False
    alert: AlertKind | None = None


def judge(schedule: NightlySettings, run: Run, now: datetime, *, waits: bool) -> Verdict:
    """What to do for a date that is due, whose newest attempt is ``run``.

    ``waits``: it was refused because an earlier run had not ended, so it begins however late.
    """
    if run.state in (RunState.FAILED, RunState.EXPIRED):
        return Verdict(alert=AlertKind.FAILED)
    if run.state is RunState.COMPLETED_WITH_ERRORS and schedule.errors == "report":
        return Verdict(alert=AlertKind.ERRORS)
    late = AlertKind.LATE if is_late(schedule, run, now) else None
    if not run.state.can_begin:
        return Verdict(alert=late)
    due = due_at(schedule, run.day)
    if waits or now < due + timedelta(seconds=schedule.start_within_s):
        return Verdict(start=True, alert=late)
    return Verdict(start=schedule.missed == "run", alert=AlertKind.MISSED)


def is_late(schedule: NightlySettings, run: Run, now: datetime) -> bool:
    """True if a run should have ended by now.

    Its time counts from when it was due; of a run that began only after it was late (caught up,
    or forced), from when it began.
    """
    allowed = timedelta(seconds=schedule.late_after_s)
    due = due_at(schedule, run.day)
    if run.begun_at is not None and (run.begun_at > due + allowed or run.attempt > 1):
        due = run.begun_at
    return not run.state.is_over and now >= due + allowed
