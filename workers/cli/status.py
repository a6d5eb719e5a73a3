"""``celeriac status``: what goes on now."""

from __future__ import annotations

import time
from collections.abc import Iterator

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from celeriac import errors
from celeriac.settings import Settings, hide_password, load_settings
from celeriac.tables import Fitted
from producer.jobs import JobStatus
from workers.status import Snapshot, snapshot


def register(app: typer.Typer) -> None:
    app.command("status")(status)


def status(
    watch: bool = typer.Option(False, "--watch", "-w", help="Go on showing it until Ctrl-C."),
    every_s: float = typer.Option(
        1.0, "--every-s", min=0.2, max=3600.0, help="Seconds between two looks, with --watch."
    ),
) -> None:
    """Show workers, queues, models and jobs."""
    console, settings = Console(highlight=False), load_settings()
    if watch and console.is_interactive:
        with Live(_look(settings), console=console, screen=True) as live:
            while True:
                time.sleep(every_s)
                live.update(_look_again(settings), refresh=True)
    console.print(_look(settings))
    while watch:  # into a file, or on a dumb terminal: one page after the other
        time.sleep(every_s)
        console.print(_look_again(settings))


def _look(settings: Settings) -> Group:
    return render(snapshot(settings, time.time()), settings.broker_url)


def _look_again(settings: Settings) -> Group | str:
    try:
        return _look(settings)
    except errors.BrokerError as error:  # Redis may come back
        return error.message


def render(shot: Snapshot, url: str) -> Group:
    """The whole page."""
    parts = (
        f"Broker {hide_password(url)}", _workers(shot), *_doubts(shot), _beat(shot),
        _gateways(shot), _queues(shot), _models(shot), _jobs(shot),
    )
    return Group(*(Fitted(part) if isinstance(part, Table) else part for part in parts))


def _workers(shot: Snapshot) -> Table | str:
    if not shot.workers:
        return "\nNo worker is up. `celeriac up` starts them all, `celeriac worker ROLE` one."
    table = _table("Workers", "worker", "role", "device", "pid", "up", "serving", "metrics")
    for line in shot.workers:
        serving = ", ".join(f"{name}@{version}" for name, version in sorted(line.serving.items()))
        port = f":{line.metrics_port}" if line.metrics_port else "-"
        table.add_row(
            line.hostname, line.role, line.device, str(line.pid), duration(line.up_s),
            serving or "-", port,
        )
    return table


def _doubts(shot: Snapshot) -> Iterator[str]:
    for line in shot.workers:
        if line.clock_ahead_s:
            way = "ahead of" if line.clock_ahead_s > 0 else "behind"
            yield (
                f"{line.hostname}: its clock is {abs(line.clock_ahead_s):,.0f} s {way} Redis's; "
                "clocks have to be within a second"
            )
        if line.namesake is not None:
            yield (
                f"{line.hostname}: two workers have this name, pids {line.pid} and "
                f"{line.namesake}; give one another by -n"
            )


def _beat(shot: Snapshot) -> Table | str:
    if not shot.beats:
        return (
            "\nNo beat is up: no night begins, and what was lost is not sent again. "
            "`celery -A workers.app beat` starts one."
        )
    table = _table("Beat" if len(shot.beats) == 1 else "Beats: one is enough", "host", "pid", "up")
    for line in shot.beats:
        table.add_row(line.host, str(line.pid), duration(line.up_s))
    return table


def _gateways(shot: Snapshot) -> Table | str:
    if not shot.gateways:
        return "\nNo gateway is up. `celeriac gateway` starts one."
    table = _table("Gateways", "address", "pid", "up")
    for line in shot.gateways:
        table.add_row(line.url, str(line.pid), duration(line.up_s))
    return table


def _queues(shot: Snapshot) -> Table:
    table = _table("Queues", "queue", "workers", "waiting", "oldest")
    for line in shot.queues:
        oldest = "-" if line.oldest_s is None else duration(line.oldest_s)
        served = str(line.workers) if line.workers else "none serves it"
        table.add_row(line.name, served, f"{line.waiting:,}", oldest)
    return table


def _models(shot: Snapshot) -> Table | str:
    if not shot.catalogue.models:
        return "\nNo models. `scripts/demo --keep` brings some, `celeriac models register` yours."
    table = _table("Models", "model", "versions", "aliases")
    for name, model in sorted(shot.catalogue.models.items()):
        aliases = ", ".join(f"{alias} = {number}" for alias, number in model.aliases.items())
        table.add_row(name, ", ".join(map(str, sorted(model.versions))) or "-", aliases or "-")
    return table


def _jobs(shot: Snapshot) -> Table | str:
    if not shot.jobs:
        return "\nNo jobs."
    table = _table("Jobs, newest first", "job", "model", "state", "rows", "failed", "rows/s")
    for job in shot.jobs:
        speed = "-" if job.rows_per_s is None else f"{job.rows_per_s:,.0f}"
        table.add_row(
            job.id, f"{job.model}@{job.version}", _state(job),
            _rows(job), f"{job.rows_failed:,}", speed,
        )
    return table


def _rows(job: JobStatus) -> str:
    if job.rows_done == job.rows_total:
        return f"{job.rows_total:,}"
    return f"{job.rows_done:,} of {job.rows_total:,}"


def _state(job: JobStatus) -> str:
    told = job.state.replace("_", " ")  # so that a narrow window breaks it between words
    return f"{told}, no worker serves {job.waits_for}" if job.waits_for else told


def _table(title: str, *headings: str) -> Table:
    table = Table(
        title=f"\n{title}", title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    numbers = ("pid", "up", "waiting", "oldest", "rows", "failed", "rows/s", "metrics")
    for heading in headings:
        table.add_column(
            heading, justify="right" if heading in numbers else "left",
            no_wrap=heading == headings[0],  # people copy it
        )
    return table


def duration(seconds: float) -> str:
    """A span as people write it.

    >>> duration(0.25), duration(75), duration(2_875), duration(7_300)
    ('0.2 s', '1 min 15 s', '47 min', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
