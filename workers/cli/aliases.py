"""``celeriac models alias`` and ``history``: names of versions, and how they moved."""

from __future__ import annotations

from typing import Annotated

import redis
import typer

from celeriac.messages import check_model_name
from celeriac.registry.aliases import CHALLENGER, Move
from celeriac.registry.store import Registry
from celeriac.reports.charts import number
from celeriac.settings import get_settings
from producer.broker import connect
from producer.cli import terminal
from producer.cli.models import app
from producer.client import who
from tasks.models import publish_registry

SHOWN = 20


def register(_main: typer.Typer) -> None:
    """The commands below have joined ``celeriac models``."""


@app.command()
def alias(
    model: Annotated[str, typer.Argument(help="NAME@VERSION; with --remove NAME.")],
    alias: Annotated[str, typer.Argument(help="The alias, as in `challenger`.")] = CHALLENGER,
    why: Annotated[str, typer.Option(help="Reason, for the history.")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias away.")] = False,
) -> None:
    """Give a version an alias that callers can use: NAME@ALIAS."""
    from celeriac import release

    registry = Registry(get_settings().models.root)
    if remove:
        done = release.unassign(registry, model, alias, who=who(), why=why)
        said = "is removed" if done["changed"] else "names no version"
        typer.echo(f"{done['model']}@{alias} {said}")
    else:
        done = release.assign(registry, model, alias, who=who(), why=why)
        before = f"; before it: {done['from']}" if done["changed"] and done["from"] else ""
        typer.echo(f"{done['model']}@{alias} is {done['model']}@{done['version']}{before}")
    publish_now()


@app.command()
def history(
    model: Annotated[str, typer.Argument(help="NAME.")],
    everything: Annotated[
        bool, typer.Option("--all", help=f"All moves, not only the last {SHOWN}.")
    ] = False,
) -> None:
    """Which alias of a model moved when, by whom and why."""
    moves = Registry(get_settings().models.root).aliases(check_model_name(model)).history()
    if not moves:
        typer.echo(f"No alias of {model} has moved yet. See: celeriac models promote --help")
        return
    for move in moves if everything else moves[-SHOWN:]:
        terminal.console().print(terminal.plain(_told(move)), soft_wrap=True)


def publish_now() -> None:
    """Tell the workers at once; without Redis, they follow when the registry is next published."""
    try:
        publish_registry(connect(get_settings()))
    except redis.RedisError:
        typer.echo("Redis does not answer: workers follow when the registry is next published.")


def _told(move: Move) -> str:
    before = "-" if move.from_ is None else str(move.from_)
    after = "removed" if move.to is None else str(move.to)
    by = f"  by {move.who}" if move.who else ""
    head = f"{move.time[:19].replace('T', ' ')} UTC  {move.alias}  {before} -> {after}{by}"
    measured = ", ".join(f"{name}={number(value)}" for name, value in move.metrics.items())
    return "\n    ".join(filter(None, (head, move.why, measured)))
