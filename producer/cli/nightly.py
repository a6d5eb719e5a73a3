"""``celeriac nightly``: datasets that are scored, or compared with a reference, each night."""

from __future__ import annotations

import datetime as dt
import shlex
from dataclasses import replace
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from celeriac import errors
from celeriac.nightly import calendar
from celeriac.nightly.policy import Run, RunState
from celeriac.nightly.records import Event, Status
from celeriac.settings.nightly import NightlySettings
from producer import nights
from producer.broker import Broker
from producer.cli import terminal
from producer.cli.jobs import open_broker
from producer.jobs import redis_errors

app = typer.Typer(no_args_is_help=True, help="Datasets that are scored, or compared, each night.")

WATCH_SILENT_S = 300
"""A watch that has not looked for so long is not running."""
EVENTS_LOOKED_AT = 50
DAYS_SHOWN = 5
"""Dates of one trouble that `list` names; `history` shows them all."""

AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object a line, for programs.")
]
Name = Annotated[str, typer.Argument(help="Name of the schedule.")]


def register(main: typer.Typer) -> None:
    """Add ``celeriac nightly`` to the command."""
    main.add_typer(app, name="nightly")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """The schedules of celeriac.toml: when each runs next, how its last date stands."""
    with open_broker() as broker:
        schedules = sorted(broker.settings.nightly.items())
        if as_json:
            for name, schedule in schedules:
                terminal.print_json(_told(broker, name, schedule, dt.datetime.now(dt.UTC)))
            return
        if not schedules:
            terminal.console().print("no schedules; add a [nightly.NAME] table to celeriac.toml")
            return
        now = dt.datetime.now(dt.UTC)
        silent = []
        for name, schedule in schedules:
            status = _status(broker, name)
            for text in _shown(broker, name, schedule, status, now):
                _say(text)
            if schedule.enabled and _is_silent(status, now):
                silent.append(name)
    _tell_silent(silent)


@app.command()
def run(
    name: Name,
    date: Annotated[
        str | None, typer.Option(help="Logical date, as 2026-11-22 (default: the last one due).")
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also a date that has run (into a new folder) or is to come."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Queue the run of one date; a date that has run is not run again unless forced."""
    with open_broker() as broker:
        schedule = calendar.find(broker.settings.nightly, name)
        now = dt.datetime.now(dt.UTC)
        day = calendar.parse_date(date) if date else calendar.owed_date(schedule, now)
        if not force:
            calendar.check_begun(schedule, day, now)
        last = nights.newest(broker, name, day)
        if last.state is RunState.UNREADABLE:
            raise errors.JobNotFound(f"{name} for {day}: {last.reason}")
        is_anew = last.state is RunState.LOST and force
        attempt = last.attempt if last.state.can_begin and not is_anew else last.attempt + 1
        has_run = not force and not last.state.can_begin
        if has_run:
            text = (
                f"{name} for {day} has a run already ({last.state}, attempt {last.attempt}, "
                f"{last.output}); --force runs it again, into a new folder"
            )
        else:
            _check_over(name, last)
            text = _queue(broker, name, schedule, day, attempt)
        if as_json:
            attempt = last.attempt if has_run else attempt
            terminal.print_json({
                "name": name, "day": day, "attempt": attempt, "has_run": has_run,
                "output": calendar.output_path(schedule, day, attempt), "text": text,
            })
        else:
            typer.echo(text)
        if has_run:
            return
        if schedule.enabled and _is_silent(_status(broker, name), now):
            _tell_silent([name])


@app.command()
def history(
    name: Name,
    dates: Annotated[int, typer.Option(min=1, max=366, help="How many dates.")] = 14,
    events: Annotated[int, typer.Option(min=0, max=500, help="How many events.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The runs of the last dates, from their output folders, and what happened to them."""
    with open_broker() as broker:
        schedule = calendar.find(broker.settings.nightly, name)
        newest = calendar.owed_date(schedule, dt.datetime.now(dt.UTC))
        if as_json:
            _print_runs(broker, name, [newest - dt.timedelta(days=back) for back in range(dates)])
            return
        for back in range(dates):
            for text in _runs(broker, name, newest - dt.timedelta(days=back)):
                _say(text)
        with redis_errors(broker):
            happened = nights.records_of(broker, name).events(events) if events else []
    if happened:
        _say("\nlast events, the newest first")
        for one in happened:
            _say(_event(one))


def _told(
    broker: Broker, name: str, schedule: NightlySettings, now: dt.datetime
) -> dict[str, Any]:
    """A schedule, for programs."""
    last = _last(broker, name, calendar.owed_date(schedule, now))
    return {
        "name": name, "kind": schedule.kind, "model": schedule.model, "enabled": schedule.enabled,
        "next_run": calendar.next_due(schedule, now) if schedule.enabled else None,
        "first_date": schedule.first_date, "last": None if _is_before(schedule, last) else last,
        "status": _status(broker, name),
    }


def _print_runs(broker: Broker, name: str, days: list[dt.date]) -> None:
    for day in days:
        for run in _found(broker, name, day)[1]:
            terminal.print_json(run)


def _queue(
    broker: Broker, name: str, schedule: NightlySettings, day: dt.date, attempt: int
) -> str:
    """Queue an attempt, or let it wait; what to say of it."""
    output = calendar.output_path(schedule, day, attempt)
    follow = (
        f"`celeriac nightly history {name}` shows whether it begins, and "
        f"`celeriac batch status {shlex.quote(output)}` follows it"
    )  # a run that cannot begin, as its dataset is missing, has no folder
    if schedule.kind == "drift":
        follow = f"`celeriac nightly history {name}` shows what it finds"
    busy = nights.under_way(broker, name)
    if busy is None:
        nights.send(broker, name, day, attempt)
        return f"queued {name} for {day} (attempt {attempt}); {follow}"
    what = f"the run for {busy.date} (attempt {busy.attempt}) has not ended"
    if not schedule.enabled:
        raise nights.Busy(f"{name} for {day}: {what}; try again when it has")
    with redis_errors(broker):
        nights.records_of(broker, name).wait(day, attempt)
    return f"{name} for {day} (attempt {attempt}) begins later: {what}; then {follow}"


def _check_over(name: str, last: Run) -> None:
    if last.state is RunState.PLANNING:
        raise nights.Busy(
            f"attempt {last.attempt} is being planned, or compares; try again in a minute, when "
            f"`celeriac nightly history {name}` shows what came of it"
        )
    if last.state is RunState.RUNNING:
        raise nights.Busy(
            f"attempt {last.attempt} is {last.state}; wait for its end, or stop it: "
            f"celeriac batch cancel {shlex.quote(last.output)}"
        )


def _shown(
    broker: Broker, name: str, schedule: NightlySettings, status: Status | None, now: dt.datetime
) -> list[str]:
    """The lines for a schedule: what it is, its last date, and one for each trouble."""
    day = calendar.owed_date(schedule, now)
    at = calendar.next_due(schedule, now).astimezone(ZoneInfo(schedule.time_zone))
    next_run = f"next run {at:%Y-%m-%d %H:%M %Z}" if schedule.enabled else "disabled"
    run = _last(broker, name, day)
    is_before = _is_before(schedule, run)
    last = f"none yet; the first one is {schedule.first_date}" if is_before else _head(run, day)
    last += f": {run.reason}" if run.reason else ""
    return [
        f"{name}  {schedule.model}  {next_run}", f"    last date {last}",
        *(f"    {text}" for text in _trouble(status)),
    ]


def _last(broker: Broker, name: str, day: dt.date) -> Run:
    """The newest attempt at a date; of one that has none, why it could not begin."""
    run = nights.newest(broker, name, day)
    if run.state is not RunState.ABSENT:
        return run
    with redis_errors(broker):
        happened = nights.records_of(broker, name).events(EVENTS_LOOKED_AT)
    tried = (one.text for one in happened if (one.date, one.what) == (str(day), "could not begin"))
    return replace(run, reason=next(tried, ""))


def _is_before(schedule: NightlySettings, run: Run) -> bool:
    """True of a date that the schedule does not owe, and that nobody has run."""
    first = schedule.first_date
    return first is not None and run.day < first and run.state is RunState.ABSENT


def _trouble(status: Status | None) -> list[str]:
    if status is None:
        return []
    kinds = {
        "missed": status.missed, "late": status.late, "failed": status.failed,
        "errors": status.errors, "waiting": status.waiting, "not ready": status.not_ready,
    }
    return [f"{kind} {_days(days)}" for kind, days in kinds.items() if days]


def _days(days: list[str]) -> str:
    """As many as fit into a line."""
    more = len(days) - DAYS_SHOWN
    return ", ".join(days[:DAYS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _runs(broker: Broker, name: str, day: dt.date) -> list[str]:
    """What there is to say of a date's attempts, the newest first."""
    current, shown = _found(broker, name, day)
    return [_run(one, day, is_current=_is(one, current)) for one in shown]


def _found(broker: Broker, name: str, day: dt.date) -> tuple[Run | None, list[Run]]:
    """The attempt that counts, and all attempts at a date, the newest first."""
    last = nights.newest(broker, name, day)
    found = [] if last.state is RunState.UNREADABLE else nights.runs(broker, name, day)
    current = nights.current(found)
    shown = list(reversed(found))
    if last.state is RunState.PLANNING or not found:
        shown = [last, *(one for one in shown if one.attempt != last.attempt)]
    return current, shown


def _is(run: Run, current: Run | None) -> bool:
    return run.state.is_over and current is not None and current.attempt == run.attempt


def _run(run: Run, day: dt.date, *, is_current: bool) -> str:
    head = _head(run, day, " (current)" if is_current else "")
    lines = [f"{head}: {run.reason}" if run.reason else head]
    if run.job_id or run.state.is_over:
        begun = f", begun {run.begun_at:%Y-%m-%d %H:%M:%S} UTC" if run.begun_at else ""
        failed = f", {run.rows_failed:,} failed" if run.job_id else ""
        lines.append(f"    {run.rows:,} rows{failed}{begun}")
        lines.append(f"    {run.output}")
    return "\n".join(lines)


def _head(run: Run, day: dt.date, note: str = "") -> str:
    attempt = "" if run.state is RunState.ABSENT else f"  attempt {run.attempt}"
    return f"{day}{attempt}{note}  {run.state}"


def _event(event: Event) -> str:
    at = f"{dt.datetime.fromisoformat(event.at):%Y-%m-%d %H:%M:%S}"
    head = f"{at}  {event.date}  attempt {event.attempt}  {event.what}"
    return f"{head}\n    {event.text}" if event.text else head


def _say(text: str) -> None:
    """Folders stay whole, however narrow the window is."""
    terminal.console().print(text, soft_wrap=True)


def _status(broker: Broker, name: str) -> Status | None:
    with redis_errors(broker):
        return nights.records_of(broker, name).status()


def _tell_silent(names: list[str]) -> None:
    """Say of schedules that nobody watches what that means; a run of one may never begin."""
    if names:
        typer.echo(
            f"nobody watches {', '.join(names)}: beat or the maintenance worker is not running, "
            "has just begun, or has other settings (`celeriac status`; workers and beat read "
            "celeriac.toml when they start)",
            err=True,
        )


def _is_silent(status: Status | None, now: dt.datetime) -> bool:
    return status is None or (
        now - dt.datetime.fromisoformat(status.at) > dt.timedelta(seconds=WATCH_SILENT_S)
    )
