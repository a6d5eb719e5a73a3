"""What a date calls for, by the state of its newest attempt and the time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from celeriac.alerts import AlertKind
from celeriac.nightly.policy import Run, RunState, Verdict, is_late, judge
from celeriac.settings.nightly import NightlySettings

DAY = date(2026, 11, 21)
DUE = datetime(2026, 11, 22, 2, tzinfo=UTC)
NIGHT = NightlySettings(
    dataset="in/{date}.csv", model="reviews", output="out/{date}", start_within_s=3_600,
    late_after_s=4 * 3_600,
)
CATCHING_UP = NIGHT.model_copy(update={"missed": "run"})
MISSED, LATE, FAILED = AlertKind.MISSED, AlertKind.LATE, AlertKind.FAILED
ERRORS = AlertKind.ERRORS


def run(state: RunState, begun_after_h: float | None = None, attempt: int = 1) -> Run:
    begun = None if begun_after_h is None else DUE + timedelta(hours=begun_after_h)
    return Run(
        day=DAY, attempt=attempt, state=state, output="out", job_id="j", begun_at=begun
    )


@pytest.mark.parametrize(
    ("state", "after_h", "waits", "reporting", "catching_up"),
    [
        (RunState.ABSENT, 0, False, Verdict(True), Verdict(True)),
        (RunState.ABSENT, 0.99, False, Verdict(True), Verdict(True)),
        (RunState.ABSENT, 1, False, Verdict(False, MISSED), Verdict(True, MISSED)),
        (RunState.ABSENT, 72, False, Verdict(False, MISSED), Verdict(True, MISSED)),
        (RunState.LOST, 0.5, False, Verdict(True), Verdict(True)),
        (RunState.LOST, 5, False, Verdict(False, MISSED), Verdict(True, MISSED)),
        (RunState.ABSENT, 3, True, Verdict(True), Verdict(True)),
        (RunState.ABSENT, 4, True, Verdict(True, LATE), Verdict(True, LATE)),
        (RunState.PLANNING, 0.1, False, Verdict(), Verdict()),
        (RunState.RUNNING, 3.99, False, Verdict(), Verdict()),
        (RunState.RUNNING, 4, False, Verdict(False, LATE), Verdict(False, LATE)),
        (RunState.PLANNING, 4, False, Verdict(False, LATE), Verdict(False, LATE)),
        (RunState.UNREADABLE, 0.1, False, Verdict(), Verdict()),
        (RunState.UNREADABLE, 5, False, Verdict(False, LATE), Verdict(False, LATE)),
        (RunState.COMPLETED, 50, False, Verdict(), Verdict()),
        (RunState.COMPLETED_WITH_ERRORS, 1, False, Verdict(False, ERRORS), Verdict(False, ERRORS)),
        (RunState.CANCELLED, 50, False, Verdict(), Verdict()),
        (RunState.UNFINISHED, 50, False, Verdict(), Verdict()),
        (RunState.FAILED, 0.5, False, Verdict(False, FAILED), Verdict(False, FAILED)),
        (RunState.EXPIRED, 50, False, Verdict(False, FAILED), Verdict(False, FAILED)),
    ],
)
def test_what_a_date_calls_for(
    state: RunState, after_h: float, waits: bool, reporting: Verdict, catching_up: Verdict
) -> None:
    now = DUE + timedelta(hours=after_h)
    assert judge(NIGHT, run(state), now, waits=waits) == reporting
    assert judge(CATCHING_UP, run(state), now, waits=waits) == catching_up


def test_failed_rows_may_be_accepted() -> None:
    accepting = NIGHT.model_copy(update={"errors": "accept"})
    found = run(RunState.COMPLETED_WITH_ERRORS, 0.1)
    assert judge(accepting, found, DUE + timedelta(hours=9), waits=False) == Verdict()


@pytest.mark.parametrize(
    ("begun_after_h", "attempt", "now_h", "late"),
    [
        (0.1, 1, 4.05, True),
        (3.9, 1, 4.05, True),
        (50, 1, 51, False),  # caught up
        (50, 1, 54.1, True),
        (2, 2, 4.05, False),  # forced
        (2, 2, 6.1, True),
    ],
)
def test_a_run_that_began_late_has_its_time_from_then(
    begun_after_h: float, attempt: int, now_h: float, late: bool
) -> None:
    one = run(RunState.RUNNING, begun_after_h, attempt)
    assert is_late(NIGHT, one, DUE + timedelta(hours=now_h)) is late
