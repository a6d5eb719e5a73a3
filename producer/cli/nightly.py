"""``celeriac nightly``: datasets that are scored each night."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from celeriac import nightly
from celeriac.messages import CONTRACT, MAINTENANCE_QUEUE, NIGHTLY_RUN, nightly_missed_key
from celeriac.settings import get_settings
from producer.broker import Broker
from producer.jobs import redis_errors

app = typer.Typer(no_args_is_help=True, help="Datasets that are scored each night.")


def register(main: typer.Typer) -> None:
    """Add ``celeriac nightly`` to the command."""
    main.add_typer(app, name="nightly")


@app.command("list")
def list_() -> None:
    """The schedules of celeriac.toml, the next logical date of each, and missed nights."""
    from rich.console import Console
    from rich.table import Table

    settings = get_settings()
    console = Console(highlight=False, markup=False)
    if not settings.nightly:
        console.print("no schedules; add a [nightly.NAME] table to celeriac.toml")
        return
    broker = Broker(settings)
    table = Table("name", "at (UTC)", "last due date", "model", "dataset", "missed", box=None)
    try:
        for name, schedule in sorted(settings.nightly.items()):
            due = nightly.owed_date(schedule.at, datetime.now(UTC)).isoformat()
            missed = ", ".join(_missed(broker, name)) or "-"
            at = schedule.at if schedule.enabled else f"{schedule.at} (disabled)"
            table.add_row(name, at, due, schedule.model, schedule.dataset, missed)
    finally:
        broker.close()
    console.print(table)


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="Name of the schedule.")],
    date: Annotated[
        str | None, typer.Option(help="Logical date, as 2026-11-22 (default: the last one due).")
    ] = None,
) -> None:
    """Queue the run of one night; a night that has run already is not run again."""
    settings = get_settings()
    schedule = nightly.find(settings.nightly, name)
    day = nightly.parse_date(date) if date else nightly.owed_date(schedule.at, datetime.now(UTC))
    broker = Broker(settings)
    try:
        with redis_errors(broker):
            broker.celery.send_task(
                NIGHTLY_RUN,
                kwargs={"v": CONTRACT, "name": name, "date": day.isoformat()},
                queue=MAINTENANCE_QUEUE,
            )
    finally:
        broker.close()
    output = nightly.render(schedule.output, day)
    typer.echo(f"queued {name} for {day}; `celeriac batch status {output}` follows it")


def _missed(broker: Broker, name: str) -> list[str]:
    with redis_errors(broker):
        found = broker.redis.get(nightly_missed_key(name))
    return [str(day) for day in json.loads(found)] if isinstance(found, (bytes, str)) else []
