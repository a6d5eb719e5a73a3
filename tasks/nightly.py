"""Nightly runs: the watch begins what is due, and tells what failed, is late or was missed.

Beat only sends the watch, again and again: which date is due is decided from the clock and the
output folders, so a beat that was down for an hour or a week costs nothing but time.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import redis
from celery import Task, shared_task
from kombu.exceptions import OperationalError

from celeriac import errors, metrics
from celeriac.alerts import Alert, AlertKind
from celeriac.datasets.places import expanded
from celeriac.jobs.folder import JobFolder
from celeriac.keys import NIGHTLY_SENT_S
from celeriac.logs import get_logger
from celeriac.messages import NIGHTLY_RUN, NIGHTLY_WATCH, check_contract
from celeriac.nightly import calendar
from celeriac.nightly.policy import Run, RunState, judge
from celeriac.nightly.records import Holder, Status
from celeriac.settings import Settings, get_settings
from celeriac.settings.nightly import NightlySettings
from producer import nights
from producer.broker import Broker
from tasks import drift_nights
from tasks.alerts import notify, send_pending
from tasks.base import CeleriacTask
from tasks.beat import BeatTask, every

log = get_logger(__name__)

WATCH_EVERY_S = 15.0


@shared_task(
    name=NIGHTLY_RUN, base=CeleriacTask, bind=True,
    autoretry_for=(redis.RedisError, errors.BrokerError), retry_backoff=1, retry_backoff_max=60,
)
def run(self: Task, name: str, date: str, attempt: int = 1, v: int = 1) -> str | None:
    """Submit one attempt at a date; returns its job id, or None if it does not begin now (or is a
    comparison, which is done then).

    Raises ConfigError, DatasetError, ModelNotFound ...; then the date stays owed.
    """
    check_contract(v)
    with Broker(get_settings()) as broker:
        day = calendar.parse_date(date)
        return run_date(broker, name, day, attempt, owner=str(self.request.id))


@shared_task(name=NIGHTLY_WATCH, base=BeatTask, ignore_result=True)
def watch() -> dict[str, list[str]] | None:
    """Look after every schedule once; returns what was done, by the schedule's name."""
    with Broker(get_settings()) as broker:
        found = look_after(broker, datetime.now(UTC))
        send_pending(broker)
    done = {name: one.done if one else ["not looked after"] for name, one in found.items()}
    return {name: what for name, what in done.items() if what} or None


def run_date(
    broker: Broker, name: str, day: date, attempt: int = 1, *, owner: str
) -> str | None:
    """As :func:`run`. A run that is refused because an earlier one has not ended waits for it."""
    schedule = broker.settings.nightly.get(name)
    is_check = schedule is not None and schedule.kind == "drift"
    job_id = None
    try:
        if is_check:
            has_begun = drift_nights.check_date(broker, name, day, attempt, owner=owner)
        else:
            job_id = nights.begin(broker, name, day, attempt, owner=owner)
            has_begun = job_id is not None
    except nights.Busy as busy:
        _let_wait(broker, name, day, attempt, busy.message)
        return None
    except (redis.RedisError, errors.BrokerError):
        raise  # tried again
    except Exception as error:
        _not_begun(broker, name, day, attempt, error)
        raise
    if has_begun:
        metrics.NIGHTLY_RUNS.labels(name, "begun").inc()
        nights.records_of(broker, name).stop_waiting(day)
    log.info(
        "nightly run submitted" if job_id else "nightly drift is compared" if has_begun
        else "nightly run is done, or planned by another task",
        schedule=name, date=day.isoformat(), attempt=attempt, job=job_id,
    )
    return job_id


@dataclass(frozen=True)
class Looked:
    """What one look at a schedule has found, and what it has done."""

    status: Status
    done: list[str]


def look_after(broker: Broker, now: datetime) -> dict[str, Looked | None]:
    """Begin what is due and tell what went wrong, of each enabled schedule.

    One that cannot be looked after is None, as the log says, and keeps no other one from it.
    """
    found: dict[str, Looked | None] = {}
    for name, schedule in broker.settings.nightly.items():
        if schedule.enabled:
            try:
                found[name] = _look_after(broker, name, schedule, now)
            except (errors.CeleriacError, redis.RedisError, OperationalError, OSError) as error:
                log.error("nightly schedule not looked after", schedule=name, reason=str(error))  # noqa: TRY400
                found[name] = None
    return found


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Entries of the beat schedule: the watch, if there is anything to watch, or anybody to tell:
    it has alerts sent that were not delivered, those of drift too."""
    alerts = settings.alerts
    is_any = any(schedule.enabled for schedule in settings.nightly.values())
    if not (is_any or alerts.webhook or alerts.command):
        return {}
    return {"nightly-watch": every(WATCH_EVERY_S, NIGHTLY_WATCH)}


# --- the watch ------------------------------------------------------------------------------------


@dataclass
class _Look:
    """What one look at a schedule has found."""

    starts: dict[date, int] = field(default_factory=dict)
    """Attempts that shall begin, or go on, by their date."""
    catches_up: dict[date, int] = field(default_factory=dict)
    """Those of missed dates, that shall begin afterwards."""
    told: dict[AlertKind, list[str]] = field(default_factory=dict)
    not_ready: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    """In words, as ``sent 2026-11-22``: what no look before has done."""

    def tell(self, kind: AlertKind, day: date) -> None:
        self.told.setdefault(kind, []).append(day.isoformat())

    def days(self, kind: AlertKind) -> list[str]:
        return self.told.get(kind, [])


def _look_after(
    broker: Broker, name: str, schedule: NightlySettings, now: datetime
) -> Looked:
    records, busy = nights.records_of(broker, name), nights.under_way(broker, name)
    look = _Look(starts=_waiting(broker, name))
    for day in calendar.owed_dates(schedule, now):
        run, waits = nights.newest(broker, name, day), day in look.starts
        if waits and busy is not None and run.state.can_begin:
            run = replace(run, reason=_not_ended(busy))
        verdict = judge(schedule, run, now, waits=waits)
        if verdict.start and not waits and (lacks := _lacks(schedule, run)):
            run, verdict = replace(run, reason=lacks), replace(verdict, start=False)
            look.not_ready.append(day.isoformat())
        if schedule.drift and run.state.is_whole:
            drift_nights.tell_job(broker, name, schedule, run)
        if verdict.start and verdict.alert is AlertKind.MISSED:
            look.catches_up[day] = run.attempt
        elif verdict.start:
            look.starts.setdefault(day, run.attempt)
        if verdict.alert is not None:
            look.tell(verdict.alert, day)
            if _alert(broker, name, run, verdict.alert, now):
                look.done.append(f"alert {verdict.alert} {day}")
    _start(broker, name, look, busy)
    status = Status(
        at=now.isoformat(timespec="seconds"), missed=look.days(AlertKind.MISSED),
        late=look.days(AlertKind.LATE), failed=look.days(AlertKind.FAILED),
        errors=look.days(AlertKind.ERRORS),
        waiting=[day.isoformat() for day in records.waiting()], not_ready=look.not_ready,
    )
    records.set_status(status)
    _measure(name, status, now)
    return Looked(status, look.done)


def _lacks(schedule: NightlySettings, run: Run) -> str:
    """What says that the dataset of a date is not whole yet; empty if it is, or was when the run
    was planned."""
    path = calendar.ready_path(schedule, run.day)
    if path is None or run.state is not RunState.ABSENT:
        return ""
    try:
        return "" if expanded(path).exists() else f"{path} is not there"
    except (errors.DatasetError, OSError) as error:
        return f"{path} cannot be looked for: {error}"


def _waiting(broker: Broker, name: str) -> dict[date, int]:
    """Runs that were refused because an earlier one had not ended, and have not begun since."""
    records = nights.records_of(broker, name)
    left = {}
    for day, attempt in records.waiting().items():
        run = nights.newest(broker, name, day)
        if run.attempt >= attempt and not run.state.can_begin and run.state.is_over:
            records.stop_waiting(day)
        else:
            left[day] = attempt
    return left


def _start(broker: Broker, name: str, look: _Look, busy: Holder | None) -> None:
    """Send one run that shall begin: the oldest that is in time or waits, then missed ones.

    While an earlier run is under way, the former wait.
    """
    if busy is not None:
        for day, attempt in look.starts.items():
            if (busy.date, busy.attempt) != (day.isoformat(), attempt):
                _let_wait(broker, name, day, attempt, _not_ended(busy))
        return
    for day, attempt in (*sorted(look.starts.items()), *look.catches_up.items()):
        if nights.records_of(broker, name).mark_sent(day, attempt):
            _send(broker, name, day, attempt)
            look.done.append(f"sent {day}")
            return  # one at a time; the next look sends the next one, or lets it wait


def _send(broker: Broker, name: str, day: date, attempt: int) -> None:
    try:
        nights.send(broker, name, day, attempt, expires_s=NIGHTLY_SENT_S)
    except errors.BrokerError:
        nights.records_of(broker, name).clear_sent(day)
        raise
    nights.note(broker, name, "sent", day, attempt)


def _let_wait(broker: Broker, name: str, day: date, attempt: int, reason: str) -> None:
    records = nights.records_of(broker, name)
    if records.wait(day, attempt):
        log.warning(
            "nightly run waits", schedule=name, date=day.isoformat(), attempt=attempt,
            reason=reason,
        )
        nights.note(broker, name, "waits", day, attempt, reason)
    records.clear_sent(day)


def _not_ended(busy: Holder) -> str:
    return f"the run for {busy.date} (attempt {busy.attempt}) has not ended"


def _measure(name: str, status: Status, now: datetime) -> None:
    metrics.NIGHTLY_MISSED.labels(name).set(len(status.missed))
    metrics.NIGHTLY_LATE.labels(name).set(len(status.late))
    metrics.NIGHTLY_FAILED.labels(name).set(len(status.failed))
    metrics.NIGHTLY_ERRORS.labels(name).set(len(status.errors))
    metrics.NIGHTLY_WATCHED.labels(name).set(now.timestamp())


# --- what is told ---------------------------------------------------------------------------------


def _not_begun(
    broker: Broker, name: str, day: date, attempt: int, error: Exception
) -> None:
    """A run could not be planned: say why. The watch sends it again while its time lasts."""
    reason = error.message if isinstance(error, errors.CeleriacError) else errors.told(error)
    log.error(
        "nightly run failed", schedule=name, date=day.isoformat(), attempt=attempt, reason=reason
    )
    if name not in broker.settings.nightly:
        return
    metrics.NIGHTLY_RUNS.labels(name, "not_begun").inc()
    nights.records_of(broker, name).stop_waiting(day)
    nights.note(broker, name, "could not begin", day, attempt, reason)
    schedule = broker.settings.nightly[name]
    run = Run(
        day=day, attempt=attempt, state=RunState.ABSENT, reason=reason,
        output=calendar.output_path(schedule, day, attempt),
    )
    _alert(broker, name, run, AlertKind.FAILED, datetime.now(UTC))


def _alert(broker: Broker, name: str, run: Run, kind: AlertKind, now: datetime) -> bool:
    """True if it was not told before."""
    schedule = broker.settings.nightly[name]
    alert = Alert(
        kind=kind, schedule=name, entry=schedule.kind, date=run.day.isoformat(),
        attempt=run.attempt, job_id=run.job_id, at=now.isoformat(timespec="seconds"),
        reason=_reason(schedule, run, kind), next=_next(name, schedule, run, kind),
    )
    is_new = notify(broker, alert)
    if is_new:
        nights.note(broker, name, str(kind), run.day, run.attempt, alert.reason)
    return is_new


def _reason(schedule: NightlySettings, run: Run, kind: AlertKind) -> str:
    due = calendar.due_at(schedule, run.day)
    if kind is AlertKind.MISSED:
        end = due + timedelta(seconds=schedule.start_within_s)
        between = f"between {due:%Y-%m-%d %H:%M} and {end:%H:%M} UTC"
        return f"no run began {between} ({run.reason or run.state})"
    if kind is AlertKind.LATE:
        since = f"due at {due:%Y-%m-%d %H:%M} UTC, {run.state}"
        return f"{since}: {run.reason}" if run.reason else since
    if kind is AlertKind.ERRORS:
        return f"{run.rows_failed:,} of {run.rows:,} rows have no answer"
    return run.reason or f"the job is {run.state}"


def _next(name: str, schedule: NightlySettings, run: Run, kind: AlertKind) -> str:
    named = shlex.quote(name)
    again = f"celeriac nightly run {named} --date {run.day}"
    if kind is AlertKind.MISSED:
        if schedule.missed == "run":
            return f"it is caught up; celeriac nightly history {named} shows how it goes"
        return again
    if kind is AlertKind.LATE:
        if run.job_id:
            return f"celeriac batch status {shlex.quote(run.output)}"
        return f"celeriac nightly list; celeriac nightly history {named}"
    if kind is AlertKind.ERRORS:
        output = shlex.quote(run.output)
        return f"celeriac batch report {output}; celeriac batch dead list {output}"
    folder = JobFolder(run.output)
    if run.job_id and folder.plan.exists():
        return f"celeriac batch resume {shlex.quote(run.output)}; or anew: {again} --force"
    if run.job_id:  # deleted, all of it or in part: there is nothing to go on with
        return f"{again} --force" if folder.holds_job() else again
    return f"mend what the reason names; then {again}"
