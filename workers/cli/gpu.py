"""``celeriac gpu``: which GPUs there are, and whether all works on them."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from celeriac.settings import load_settings
from producer.cli import terminal
from workers import devices
from workers.devices import Gpu

app = typer.Typer(help="The GPUs of this machine.", no_args_is_help=True)
_COLOURS = {"ok": "green", "failed": "red", "not run": "yellow"}


def register(main: typer.Typer) -> None:
    main.add_typer(app, name="gpu")


@app.command("list")
def list_() -> None:
    """The GPUs that workers would use, by number and UUID. Exit code 69 if there is none."""
    terminal.show_rows(("UUID", "GPU", "name", "memory"), (
        (gpu.uuid, gpu.label, gpu.name, f"{gpu.memory_bytes / 1e9:.0f} GB") for gpu in _usable()
    ))


@app.command()
def check(
    device: Annotated[
        Literal["cuda", "cpu"],
        typer.Option(help="cpu tries the checks themselves, with a CPU in a GPU's place."),
    ] = "cuda",
) -> None:
    """Try all that needs a GPU, on each one: pinning, answers, memory, loss, speed, workers.

    Exit code 0 if everything is in order, 1 if something is not, 69 without a GPU.
    """
    from workers import gpu_check

    console = Console(highlight=False)
    gpus = [gpu_check.PLAYED] if device == "cpu" else _usable()
    if device == "cpu":
        console.print("A CPU in a GPU's place: this tries the checks, and says nothing of a GPU.")
    outcomes: list[str] = []
    for found in gpu_check.check(gpus, device):
        colour = _COLOURS[found.outcome]
        console.print(
            f"{found.where:6} {found.check:11} [{colour}]{found.outcome:7}[/] {escape(found.told)}",
            soft_wrap=True,
        )
        outcomes.append(found.outcome)
    counts = {outcome: outcomes.count(outcome) for outcome in _COLOURS}
    console.print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    if counts["failed"]:
        raise typer.Exit(1)


def _usable() -> list[Gpu]:
    return devices.usable(os.environ, load_settings().gpu.devices)
