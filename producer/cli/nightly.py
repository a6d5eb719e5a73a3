"""``celeriac nightly``: datasets that are scored each night."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from celeriac import errors
from celeriac.nightly import calendar
from celeriac.nightly.policy import Run, RunState
from celeriac.nightly.records import Event, Status
from celeriac.schedules import NightlySettings
from producer import nights
from producer.broker import Broker
from producer.cli.jobs import open_broker
from producer.jobs import redis_errors

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="Datasets that are scored each night.")

WATCH_SILENT_S = 300
"""A watch that has not looked for so long is not running."""

Name = Annotated[str, typer.Argument(help="Name of the schedule.")]


def register(main: typer.Typer) -> None:
    """Add ``celeriac nightly`` to the command."""
    main.add_typer(app, name="nightly")


@app.command("list")
def list_() -> None:
    """The schedules of celeriac.toml: when each runs next, how its last date stands."""
    with open_broker() as broker:
        schedules = sorted(broker.settings.nightly.items())
        if not schedules:
            _console().print("no schedules; add a [nightly.NAME] table to celeriac.toml")
            return
        now = dt.datetime.now(dt.UTC)
        table = _table("name", "next run", "last date", "attempt", "state", "model", "trouble")
        silent = []
        for name, schedule in schedules:
            status = _status(broker, name)
            table.add_row(*_line(broker, name, schedule, status, now))
            if schedule.enabled and _is_silent(status, now):
                silent.append(name)
        _console().print(table)
    if silent:
        typer.echo(
            f"nobody watches {', '.join(silent)}: beat or the maintenance worker is not running, "
            "or has other settings (`celeriac status`)",
            err=True,
        )


@app.command()
def run(
    name: Name,
    date: Annotated[
        str | None, typer.Option(help="Logical date, as 2026-11-22 (default: the last one due).")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run a date again, into a new folder of its own.")
    ] = False,
) -> None:
    """Queue the run of one date; a date that has run is not run again unless forced."""
    with open_broker() as broker:
        schedule = calendar.find(broker.settings.nightly, name)
        now = dt.datetime.now(dt.UTC)
        day = calendar.parse_date(date) if date else calendar.owed_date(schedule, now)
        last = nights.newest(broker, name, day)
        if last.state is RunState.UNREADABLE:
            raise errors.JobNotFound(f"{name} for {day}: {last.reason}")
        attempt = last.attempt if last.state.can_begin else last.attempt + 1
        if not force and not last.state.can_begin:
            typer.echo(
                f"{name} for {day} has a run already ({last.state}, attempt {last.attempt}, "
                f"{last.output}); --force runs it again, into a new folder"
            )
            return
        _check_over(name, last)
        typer.echo(_queue(broker, name, schedule, day, attempt))


@app.command()
def history(
    name: Name,
    dates: Annotated[int, typer.Option(min=1, max=366, help="How many dates.")] = 14,
    events: Annotated[int, typer.Option(min=0, max=500, help="How many events.")] = 20,
) -> None:
    """The runs of the last dates, from their output folders, and what happened to them."""
    with open_broker() as broker:
        schedule = calendar.find(broker.settings.nightly, name)
        newest = calendar.owed_date(schedule, dt.datetime.now(dt.UTC))
        table = _table("date", "attempt", "state", "rows", "failed", "begun (UTC)", "output")
        for back in range(dates):
            _add_date(table, broker, name, newest - dt.timedelta(days=back))
        _console().print(table)
        with redis_errors(broker):
            happened = nights.records_of(broker, name).events(events) if events else []
    if happened:
        _console().print("\nlast events, the newest first")
        _console().print(_events(happened))


def _queue(
    broker: Broker, name: str, schedule: NightlySettings, day: dt.date, attempt: int
) -> str:
    """Queue an attempt, or let it wait; what to say of it."""
    output = calendar.output_path(schedule, day, attempt)
    follow = f"`celeriac batch status {output}` follows it"
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
            f"attempt {last.attempt} is being planned; try again in a minute, when "
            f"`celeriac nightly history {name}` shows its job"
        )
    if last.state is RunState.RUNNING:
        raise nights.Busy(
            f"attempt {last.attempt} is {last.state}; wait for its end, or stop it: "
            f"celeriac batch cancel {last.output}"
        )


def _line(
    broker: Broker, name: str, schedule: NightlySettings, status: Status | None, now: dt.datetime
) -> tuple[str, ...]:
    day = calendar.owed_date(schedule, now)
    last = nights.newest(broker, name, day)
    zone = ZoneInfo(schedule.time_zone)
    next_run = f"{calendar.next_due(schedule, now).astimezone(zone):%Y-%m-%d %H:%M %Z}"
    attempt = str(last.attempt) if last.state is not RunState.ABSENT else "-"
    return (
        name, next_run if schedule.enabled else "disabled", str(day), attempt, last.state,
        schedule.model, _trouble(status),
    )


def _trouble(status: Status | None) -> str:
    if status is None:
        return "-"
    kinds = {
        "missed": status.missed, "late": status.late, "failed": status.failed,
        "errors": status.errors, "waiting": status.waiting,
    }
    return "; ".join(f"{kind} {', '.join(days)}" for kind, days in kinds.items() if days) or "-"


def _add_date(table: Table, broker: Broker, name: str, day: dt.date) -> None:
    last = nights.newest(broker, name, day)
    found = [] if last.state is RunState.UNREADABLE else nights.runs(broker, name, day)
    counts = nights.current(found)
    if last.state is RunState.PLANNING or not found:
        table.add_row(str(day), *_run(last, counts))
        found = [one for one in found if one.attempt != last.attempt]
    for one in reversed(found):
        table.add_row(str(day), *_run(one, counts))


def _run(run: Run, counts: Run | None) -> tuple[str, ...]:
    if not run.job_id:
        attempt = "-" if run.state is RunState.ABSENT else str(run.attempt)
        return (attempt, run.state, "", "", "", run.reason)
    mark = " (current)" if counts is not None and counts.attempt == run.attempt else ""
    begun = f"{run.begun_at:%Y-%m-%d %H:%M:%S}" if run.begun_at else ""
    state = f"{run.state}: {run.reason}" if run.reason else str(run.state)
    return (
        f"{run.attempt}{mark}", state, f"{run.rows:,}", f"{run.rows_failed:,}", begun, run.output
    )


def _events(happened: list[Event]) -> Table:
    table = _table("at (UTC)", "date", "attempt", "what", "")
    for one in happened:
        at = f"{dt.datetime.fromisoformat(one.at):%Y-%m-%d %H:%M:%S}"
        table.add_row(at, one.date, str(one.attempt), one.what, one.text)
    return table


def _status(broker: Broker, name: str) -> Status | None:
    with redis_errors(broker):
        return nights.records_of(broker, name).status()


def _is_silent(status: Status | None, now: dt.datetime) -> bool:
    return status is None or (
        now - dt.datetime.fromisoformat(status.at) > dt.timedelta(seconds=WATCH_SILENT_S)
    )


def _table(*names: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in names:
        short = name in ("at (UTC)", "date", "attempt", "begun (UTC)", "next run", "last date")
        table.add_column(name, overflow="fold", no_wrap=short)
    return table


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False)
