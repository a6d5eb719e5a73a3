"""``celeriac models import``: a pickled file of one's own, into a format that holds no code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from producer.cli.models import app
from workers.cli.models import (
    Description,
    Device,
    Examples,
    Input,
    Labels,
    Metric,
    TextColumn,
    read_architecture,
    read_labels,
    read_metrics,
)

SHOWN_NAMES = 12


def register(_main: typer.Typer) -> None:
    """The command below has joined ``celeriac models``."""


@app.command("import")
def import_file(
    source: Annotated[
        Path, typer.Argument(help="A joblib or pickle file, or a .pt or .pth file of torch.")
    ],
    name: Annotated[str, typer.Option(help="Name of the model; told by the file's name.")] = "",
    trust: Annotated[
        bool, typer.Option("--trust", help="You trust the file: its code will run.")
    ] = False,
    examples: Examples = None,
    input: Input = None,
    architecture: Annotated[
        str | None, typer.Option(help="Of a state_dict: package.module:Class.")
    ] = None,
    arguments: Annotated[str, typer.Option(help="Arguments of the class, as JSON.")] = "{}",
    labels: Labels = None,
    metric: Metric = None,
    text_column: TextColumn = "text",
    description: Description = "",
    device: Device = "cpu",
    timeout_s: Annotated[
        float, typer.Option(min=1, max=3_600, help="Seconds for loading and converting it.")
    ] = 120.0,
    memory_mb: Annotated[
        int, typer.Option(min=256, help="Memory for loading and converting it.")
    ] = 4_096,
) -> None:
    """Convert a pickled model that you trust, once, and register it as the next version."""
    from celeriac.release.importing import import_model
    from celeriac.release.suspects import look

    suspect = look(source)
    if not trust:
        typer.echo(_danger(source, suspect))
        raise typer.Exit(1)
    named = None if architecture is None else read_architecture(architecture, arguments)
    done = import_model(
        source, name or _name_of(source), {
            "examples": _absolute(examples), "input": _absolute(input),
            "text_column": text_column, "architecture": architecture,
            "arguments": named.arguments if named else {}, "labels": read_labels(labels),
            "metrics": read_metrics(metric or []), "description": description, "device": device,
        },
        timeout_s=timeout_s, memory_mb=memory_mb,
    )
    for warning in done.warnings:
        typer.echo(f"note: {warning}")
    typer.echo(
        f"{done.same_labels} of {done.compared} examples are answered as before; probabilities and "
        f"values differ by {done.max_difference:.2g} at most"
    )
    typer.echo(f"{done.ref} is registered. Let it serve: celeriac models promote {done.ref}")


def _danger(source: Path, suspect: Any) -> str:
    names = list(suspect.names)
    more = len(names) - SHOWN_NAMES
    called = "".join(f"\n    {name}" for name in names[:SHOWN_NAMES])
    rest = f"\n    and {more} more" if more > 0 else ""
    listed = f"\n  Among others it calls for:{called}{rest}" if names else ""
    return (
        f"{source} is not loaded.\n"
        f"  SHA-256 {suspect.sha256}, {suspect.size} bytes\n"
        "  A pickled file is a program: loading it runs whatever its author, or anybody who\n"
        f"  could write to it since, has put there, with your rights.{listed}\n"
        "  If you made this file, or know who did and that this is their SHA-256, repeat the\n"
        "  command with --trust. It is loaded once, in a process of its own, and registered in a\n"
        "  format that holds no code; workers never load the file itself."
    )


def _name_of(source: Path) -> str:
    return re.sub(r"[^a-z0-9_-]+", "-", source.stem.lower()).strip("-_") or "model"


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())
