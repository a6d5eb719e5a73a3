"""``celeriac drift``: does a dataset still look like what a version was made for?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac import errors
from celeriac.messages import ModelRef
from celeriac.registry.store import Registry
from celeriac.settings import get_settings
from workers.cli import drift_labels, drift_mended, drift_status

if TYPE_CHECKING:
    from celeriac.drift.records import DriftReport

app = typer.Typer(no_args_is_help=True, help="Compare data with what a model was made for.")

EXIT_CODES = {"drift": 3, "broken": 3, "worse": 3}
"""0 for every other state."""


def register(main: typer.Typer) -> None:
    """Add ``celeriac drift`` to the command."""
    main.add_typer(app, name="drift")


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="NAME, NAME@VERSION or NAME@ALIAS.")],
    source: Annotated[str, typer.Argument(help="Dataset: file, folder or pattern, also s3://...")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for drift.html and drift.json.")
    ] = Path("drift"),
    text_column: Annotated[
        str | None, typer.Option(help="Column that a text model reads.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column with the truth: have answers become worse?")
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="Rows that are looked at, evenly spread.")
    ] = 100_000,
    answers: Annotated[
        bool, typer.Option("--answers/--no-answers", help="Load the model and compare its answers.")
    ] = True,
) -> None:
    """Compare a dataset with the reference of a version. Exit code 3 if it has drifted."""
    from celeriac.datasets.files import write_file
    from celeriac.drift.report import render
    from celeriac.release.comparing import Wanted, compare
    from celeriac.runtimes import LoadOptions
    from workers.cli.drift_tables import show_report

    report = compare(
        Registry(get_settings().models.root), ModelRef.parse(model),
        Wanted(source=source, text_column=text_column, label=label, rows=rows, answers=answers),
        LoadOptions.of(get_settings()),
    )
    output.mkdir(parents=True, exist_ok=True)
    write_file(output / "drift.html", render(report), durable=False)
    write_file(output / "drift.json", report.dump(), durable=False)
    show_report(report)
    typer.echo(f"\nFor the browser: {output / 'drift.html'}")
    raise typer.Exit(EXIT_CODES.get(report.state, 0))


@app.command()
def show(
    what: Annotated[str, typer.Argument(help="NAME, NAME@VERSION, or a drift.json.")],
) -> None:
    """Show what a version is compared with, or what a check has found."""
    from celeriac.drift.profile import read_profile
    from workers.cli.drift_tables import show_profile, show_report

    if what.endswith(".json"):
        show_report(_read(Path(what)))
        return
    registry = Registry(get_settings().models.root)
    manifest = _version(registry, what)
    profile = read_profile(registry.folder(manifest.name, manifest.version))
    if profile is None:
        typer.echo(
            f"{manifest.ref} was registered without a reference; register its next version\n"
            "with release.register(..., reference=...)"
        )
        return
    show_profile(manifest.ref, profile)


app.command("status")(drift_status.status)
app.command("mended")(drift_mended.mended)
app.command("accuracy")(drift_labels.accuracy)
app.command("feedback")(drift_labels.feedback)


@app.command()
def schema() -> None:
    """Print the JSON schema of drift.json."""
    import json

    from celeriac.drift import records

    typer.echo(json.dumps(records.schema(), indent=1))


def _version(registry: Registry, text: str) -> Any:
    ref = ModelRef.parse(text)
    return registry.verify(ref.name, registry.resolve(ref))


def _read(path: Path) -> DriftReport:
    import msgspec

    from celeriac.drift.records import DriftReport

    try:
        return DriftReport.load(path.read_bytes())
    except OSError as error:
        raise errors.RequestError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise errors.RequestError(f"{path}: is no report of drift: {error}") from error
