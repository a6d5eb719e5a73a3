"""What ``celeriac drift`` prints of a report, and of what a version is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from celeriac.drift.report import headline, views
from celeriac.drift.watching import window_rule
from celeriac.drift.window import window_threshold
from celeriac.reports.charts import number, share
from celeriac.settings import get_settings
from celeriac.tables import Fitted

if TYPE_CHECKING:
    from celeriac.drift.profile import FeatureProfile, ReferenceProfile
    from celeriac.drift.records import DriftReport
    from celeriac.drift.report import View
    from celeriac.drift.window import WindowRule

MOST_LINES = 20
_COLOURS = {"stable": "green", "drift": "red", "broken": "red", "worse": "red"}


def show_report(report: DriftReport) -> None:
    """Print what a check has found."""
    console = Console(highlight=False)
    state, colour = report.state.replace("_", " "), _COLOURS.get(report.state, "yellow")
    console.print(f"[bold]{report.model}@{report.version}[/]  [{colour}]{state}[/]")
    console.print(headline(report), style="bold", markup=False)
    console.print(
        f"{report.rows:,} of {report.rows_total:,} rows of {report.source}, beside "
        f"{report.reference_rows:,} of the reference", markup=False, soft_wrap=True,
    )
    for found in report.findings[:MOST_LINES]:
        console.print(f"  {found.what}: {found.text}", markup=False)
    for said in report.warnings:
        console.print(f"  mind: {said}", markup=False)
    if not report.features:
        return
    table = _table(("feature", "state"), ("distance", "of", "before", "now"))
    for view in views(report)[:MOST_LINES]:
        table.add_row(*_found_row(view))
    _show(console, table, len(report.features) - MOST_LINES)


def show_profile(ref: str, profile: ReferenceProfile) -> None:
    """Print what a version is compared with."""
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
    table = _table(("feature", "values"), ("null", "alike over", "threshold"))
    watched = sum(one.calibration is not None for one in profile.features)
    for one in profile.features[: 2 * MOST_LINES]:
        table.add_row(*_reference_row(one, watched, rule))
    _show(console, table, len(profile.features) - 2 * MOST_LINES)
    console.print(
        f"\nthreshold: of the distance of a window of {rule.rows:,} rows, at one false alarm in\n"
        f"{rule.rows_between_alarms:,.0f} rows; alike over: rows whose neighbours tell the same"
    )


def _table(words: tuple[str, ...], figures: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in words:
        table.add_column(name)
    for name in figures:
        table.add_column(name, justify="right")
    return table


def _show(console: Console, table: Table, more: int) -> None:
    console.print()
    console.print(Fitted(table))
    if more > 0:
        console.print(f"and {more} more features")


def _found_row(view: View) -> tuple[str, ...]:
    one = view.feature
    told = one.state != "not_enough_data"
    return (
        one.name, one.state.replace("_", " "),
        f"{one.statistic:.3f}" if told else "", f"{one.threshold:.3f}" if told else "",
        "" if one.reference_mean is None else number(one.reference_mean),
        "" if one.mean is None else number(one.mean),
    )


def _reference_row(one: FeatureProfile, watched: int, rule: WindowRule) -> tuple[str, ...]:
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
