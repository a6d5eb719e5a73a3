"""``celeriac up``: the local stack in the foreground."""

from __future__ import annotations

import os
import threading
import time

import typer
from rich.console import Console
from rich.table import Table

from celeriac import errors
from celeriac.settings import Settings, load_settings
from celeriac.tables import Fitted
from workers import devices
from workers.stack import Part, Stack, has_models
from workers.stop_signals import Stop, StopSignals

NO_MODELS = """\
The registry {root} has no models yet. To get one:
  scripts/demo --keep               a stack of its own, with models trained on real data
  celeriac models register --help   registers a model of yours"""


def register(app: typer.Typer) -> None:
    app.command("up")(up)


def up(
    no_flower: bool = typer.Option(False, "--no-flower", help="Leave Flower out."),
    no_gateway: bool = typer.Option(False, "--no-gateway", help="Leave the HTTP gateway out."),
    no_beat: bool = typer.Option(
        False, "--no-beat",
        help="Leave beat out: no nights, no watch over drift, and what was lost is not sent again.",
    ),
) -> None:
    """Run the local stack: broker, workers, beat, Flower and gateway. Ctrl-C stops it."""
    console = Console(highlight=False)
    settings = load_settings()
    gpus = _gpus(settings, console)
    stack = Stack(
        settings, gpus=gpus, flower=not no_flower, gateway=not no_gateway, beat=not no_beat,
        say=lambda line: console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False),
    )
    signals = StopSignals(stack.stop_now)
    try:
        console.print("Starting the stack ...")
        stack.start()
        stack.wait_ready()
        console.print(Fitted(table(stack.parts())))
        console.print(f"Logs: {stack.logs}/NAME.log", soft_wrap=True, markup=False)
        if not has_models(stack.settings):
            console.print(NO_MODELS.format(root=stack.settings.models.root), markup=False)
        console.print("Ready. Ctrl-C stops everything; `celeriac status` shows what goes on.")
        threading.Event().wait()
    except Stop:
        console.print("Stopping: workers finish what they have begun (Ctrl-C again: at once) ...")
    finally:
        signals.stopping = True
        stack.stop()
    console.print("Stopped. Nothing is left running.")


def _gpus(settings: Settings, console: Console) -> list[devices.Gpu]:
    """The GPUs to use; without one the stack does without the gpu roles, and says so."""
    try:
        return devices.usable(os.environ, settings.gpu.devices)
    except errors.NoGpu as error:
        why = error.message if settings.gpu.devices else "no GPU (`celeriac gpu list` says why)"
        console.print(f"realtime.gpu and batch.gpu are left out: {why}", markup=False)
        return []


def table(parts: list[Part]) -> Table:
    """What runs where."""
    grid = Table(title="The Celeriac stack", title_justify="left")
    for heading in ("name", "what", "where", "pid"):
        grid.add_column(heading, justify="right" if heading == "pid" else "left")
    for part in parts:
        grid.add_row(part.name, part.what, part.where, str(part.pid or "-"))
    return grid
