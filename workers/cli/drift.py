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
    from celeriac.drift.profile import FeatureProfile, ReferenceProfile
    from celeriac.drift.records import DriftReport
    from celeriac.drift.window import WindowRule

app = typer.Typer(no_args_is_help=True, help="Compare data with what a model was made for.")

EXIT_CODES = {"drift": 3, "broken": 3, "worse": 3}
"""0 for every other state."""
MOST_LINES = 20


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

    report = compare(
        Registry(get_settings().models.root), ModelRef.parse(model),
        Wanted(source=source, text_column=text_column, label=label, rows=rows, answers=answers),
        LoadOptions.of(get_settings()),
    )
    output.mkdir(parents=True, exist_ok=True)
    write_file(output / "drift.html", render(report), durable=False)
    write_file(output / "drift.json", report.dump(), durable=False)
    _print_report(report)
    typer.echo(f"\nFor the browser: {output / 'drift.html'}")
    raise typer.Exit(EXIT_CODES.get(report.state, 0))


@app.command()
def show(
    what: Annotated[str, typer.Argument(help="NAME, NAME@VERSION, or a drift.json.")],
) -> None:
    """Show what a version is compared with, or what a check has found."""
    from celeriac.drift.profile import read_profile

    if what.endswith(".json"):
        _print_report(_read(Path(what)))
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
    _print_profile(manifest.ref, profile)


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


def _print_report(report: DriftReport) -> None:
    from rich.console import Console
    from rich.table import Table

    from celeriac.drift.report import headline, views
    from celeriac.reports.charts import number

    console = Console(highlight=False)
    state = report.state.replace("_", " ")
    colour = {"stable": "green", "drift": "red", "broken": "red", "worse": "red"}.get(
        report.state, "yellow"
    )
    console.print(f"[bold]{report.model}@{report.version}[/]  [{colour}]{state}[/]")
    console.print(headline(report), style="bold", markup=False)
    console.print(
        f"{report.rows:,} of {report.rows_total:,} rows of {report.source}, beside "
        f"{report.reference_rows:,} of the reference", markup=False,
    )
    for found in report.findings[:MOST_LINES]:
        console.print(f"  {found.what}: {found.text}", markup=False)
    for said in report.warnings:
        console.print(f"  mind: {said}", markup=False)
    if not report.features:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("feature", "left"), ("state", "left"), ("distance", "right"),
                          ("of", "right"), ("before", "right"), ("now", "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for view in views(report)[:MOST_LINES]:
        one = view.feature
        told = one.state != "not_enough_data"
        table.add_row(
            one.name, one.state.replace("_", " "),
            f"{one.statistic:.3f}" if told else "", f"{one.threshold:.3f}" if told else "",
            "" if one.reference_mean is None else number(one.reference_mean),
            "" if one.mean is None else number(one.mean),
        )
    console.print()
    console.print(table)
    if len(report.features) > MOST_LINES:
        console.print(f"and {len(report.features) - MOST_LINES} more features")


def _print_profile(ref: str, profile: ReferenceProfile) -> None:
    from rich.console import Console
    from rich.table import Table

    from celeriac.drift.watching import window_rule

    console, rule = Console(highlight=False), window_rule(get_settings().drift)
    console.print(
        f"[bold]{ref}[/] is compared with {profile.rows:,} rows of its {profile.source}"
        + (f" (of {profile.rows_given:,})" if profile.rows_given > profile.rows else "")
    )
    if profile.performance is not None:
        found = profile.performance
        console.print(f"{found.measure} {found.value:.3f} on {found.rows:,} labelled rows")
    for said in profile.warnings:
        console.print(f"mind: {said}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("feature", "left"), ("values", "left"), ("null", "right"),
                          ("alike over", "right"), ("threshold", "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    watched = sum(one.calibration is not None for one in profile.features)
    for one in profile.features[: 2 * MOST_LINES]:
        table.add_row(*_line(one, watched, rule))
    console.print()
    console.print(table)
    if len(profile.features) > 2 * MOST_LINES:
        console.print(f"and {len(profile.features) - 2 * MOST_LINES} more features")
    console.print(
        f"\nthreshold: of the distance of a window of {rule.rows:,} rows, at one false alarm in\n"
        f"{rule.rows_between_alarms:,.0f} rows; alike over: rows whose neighbours tell the same"
    )


def _line(one: FeatureProfile, watched: int, rule: WindowRule) -> tuple[str, str, str, str, str]:
    from celeriac.drift.window import window_threshold
    from celeriac.reports.charts import number, share

    if one.kind == "category":
        values = ", ".join(one.categories[:4]) + (", ..." if len(one.categories) > 4 else "")
    elif one.edges:
        values = " to ".join(number(end) for end in one.ends)
    else:
        values = "no value"
    return (
        one.name, values[:40], share(one.nulls, max(one.rows, 1)),
        f"{one.autocorrelation_rows:,.0f}",
        "" if one.calibration is None
        else f"{window_threshold(one, rule, watched, rule.rows):.3f}",
    )
