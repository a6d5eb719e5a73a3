"""``celeriac drift adaptation``, ``approve`` and ``reject``: what is done about drift."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac import errors
from celeriac.messages import CHAMPION, ModelRef
from celeriac.settings import get_settings
from producer.cli import terminal
from producer.cli.jobs import open_broker
from producer.client import who
from workers.cli.drift import app

if TYPE_CHECKING:
    from celeriac.drift.adaptation import Adaptation, Step
    from celeriac.drift.adaptation_log import AdaptationLog, Line

WIDTH = 79

Why = Annotated[str, typer.Option(help="Reason, for the history.")]
Model = Annotated[str, typer.Argument(help="NAME, or NAME@VERSION: then only that version.")]


def register(_main: typer.Typer) -> None:
    """Join ``celeriac drift``; its commands are already added."""


@app.command()
def adaptation(
    model: Annotated[
        str | None, typer.Argument(help="NAME; without it, all models that have a policy.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="How many steps, the newest.")] = 20,
) -> None:
    """Show where adaptations stand; of one model, what was done, why and by whom."""
    if model is None:
        _show_all()
        return
    name = ModelRef.parse(model).name
    history = _history(name)
    lines = history.lines()
    state, _ = history.read()
    for text in _standing(state):
        typer.echo(text)
    if name not in get_settings().drift.adapt:
        typer.echo(f"It has no policy: the settings have no [drift.adapt.{name}].")
    if not lines:
        typer.echo("Nothing has happened so far.")
        return
    typer.echo("\nlast steps, the newest first")
    for line in reversed(lines[-steps:]):
        typer.echo(_told(line))


@app.command()
def approve(model: Model, why: Why = "") -> None:
    """Let the challenger that waits become the champion, after the checks of a promotion."""
    step = _decide(model, approve_it=True, why=why)
    name = step.state.model
    typer.echo(
        f"{name}@{step.state.challenger} is approved; it is checked and promoted now.\n"
        f"celeriac drift adaptation {name} shows how it goes."
    )


@app.command()
def reject(model: Model, why: Why = "") -> None:
    """Drop the challenger that waits; its version stays in the registry."""
    step = _decide(model, approve_it=False, why=why)
    typer.echo(f"The challenger of {step.state.model} is rejected.")


def _decide(model: str, *, approve_it: bool, why: str) -> Step:
    from tasks.adaptation import decide

    ref = ModelRef.parse(model)
    if ref.alias not in (None, CHAMPION) or model.endswith(f"@{CHAMPION}"):
        raise errors.RequestError(f"{model}: name the model, or one of its versions by its number")
    with open_broker() as broker:
        return decide(broker, ref, approve=approve_it, who=who(), why=why)


def _show_all() -> None:
    policies = get_settings().drift.adapt
    if not policies:
        typer.echo("no policies; add a [drift.adapt.MODEL] table to celeriac.toml")
        return
    rows = []
    for name in sorted(policies):
        try:
            lines = _history(name).lines()
        except errors.ModelNotFound:  # a slip of the pen, or it comes later: others are shown
            rows.append((name, "no such model", "-", "-"))
            continue
        state = lines[-1].state if lines else None
        rows.append((
            name, state.phase.replace("_", " ") if state else "idle",
            str(state.challenger) if state and state.challenger else "-",
            terminal.moment(state.since_s)[:-3] if state and state.since_s else "-",
        ))
    terminal.show_rows(("model", "state", "challenger", "since"), rows)


def _history(name: str) -> AdaptationLog:
    from celeriac.drift.adaptation_log import AdaptationLog
    from celeriac.registry.store import Registry

    registry = Registry(get_settings().models.root)
    registry.versions(name)  # raises ModelNotFound
    return AdaptationLog(registry.root, name)


def _standing(state: Adaptation) -> list[str]:
    from celeriac.drift.adaptation import Phase

    until = f", until {terminal.moment(state.until_s)} UTC at the latest" if state.until_s else ""
    found = [f"{state.model}: {state.phase.replace('_', ' ')}{until}"]
    if state.compared is not None and state.challenger:
        found.append(_wrapped(f"{state.model}@{state.challenger}: {state.compared}", "  "))
    if state.phase is Phase.WAITING:
        found.append(f"  celeriac drift approve {state.model}@{state.challenger}")
        found.append(f"  celeriac drift reject {state.model}")
    found += [
        f"  the data are broken since {terminal.moment(since_s)} UTC ({place}): nothing is trained"
        for place, since_s in state.breaches(time.time()).items()
    ]
    return found


def _told(line: Line) -> str:
    by = "" if line.who == "celeriac" else f"  by {line.who}"
    head = f"{terminal.moment(line.at_s)}  {line.what.replace('_', ' ')}{by}"
    return f"{head}\n{_wrapped(line.why, '    ')}"


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
