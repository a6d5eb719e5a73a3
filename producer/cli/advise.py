"""``celeriac advise``: batch, mini-batch or real time?"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from celeriac.advisor.requirement import Requirement
from celeriac.reports.charts import number
from celeriac.settings import get_settings
from celeriac.tables import Fitted
from producer.advice import advise_for, as_data
from producer.cli import terminal
from producer.cli.models import published


class Frequency(StrEnum):
    """How often new answers are wanted."""

    CONTINUOUS = "continuous"
    HOURLY = "hourly"
    DAILY = "daily"


def register(main: typer.Typer) -> None:
    """Add ``celeriac advise``."""
    main.command("advise")(command)


def command(
    latency_ms: Annotated[float, typer.Option(help="How long an answer may take.")],
    volume: Annotated[int, typer.Option(help="Items a day.")],
    update_frequency: Annotated[Frequency, typer.Option(help="How often answers are wanted.")],
    model: Annotated[
        str | None, typer.Option(help="A measured model: NAME, NAME@VERSION or NAME@ALIAS.")
    ] = None,
    peak_per_s: Annotated[
        float | None, typer.Option(help="Items in the busiest second. Default: 5 x the mean.")
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="Cores for batch jobs. Default: this machine's.")
    ] = None,
    core_hour_cost: Annotated[
        float | None, typer.Option(min=0, help="What an hour of a core costs, for a cost.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Advise real time, mini-batch or batch, with reasons; and figures for a measured model."""
    wanted = Requirement(
        latency_ms=latency_ms, volume=volume, update_frequency=update_frequency.value,
        peak_per_s=peak_per_s,
    )
    advice, profile = advise_for(
        wanted, published() if model else None, model, get_settings(), cores
    )
    data = as_data(advice, profile, core_hour_cost)
    if as_json:
        sys.stdout.write(json.dumps(data, indent=2) + "\n")
    else:
        _print(data)


def _print(data: dict[str, Any]) -> None:
    console = terminal.console()
    console.print(data["recommendation"], style="bold")
    for reason in data["reasons"]:
        console.print(f"- {reason}")
    if data["missing"]:
        console.print("\nWhat would decide:")
        for one in data["missing"]:
            console.print(f"- {one}")
    if data["ways"]:
        console.print()
        console.print(Fitted(_table(data["ways"])))
    if data["measured_on"]:
        console.print(f"\nMeasured on {data['measured_on']}.", style="dim")


def _table(ways: dict[str, dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for heading in ("CORES", "BUSY", "p50", "p99", "JOB", "IN TIME", "CORE-H/M", "COST/M"):
        table.add_column(heading, justify="right")
    for name, way in ways.items():
        cost = way["cost_per_million"]
        table.add_row(
            name.replace("_", " "), f"{way['processes']:,}",
            f"{way['utilisation']:.0%}" if "utilisation" in way else "-",
            _ms(way.get("p50_ms")), _ms(way.get("p99_ms")), _s(way.get("duration_s")),
            "yes" if way["met"] else "no", number(way["core_hours_per_million"]),
            "-" if cost is None else number(cost),
        )
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{number(value)} ms"


def _s(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.1f} s" if value < 120 else f"{value / 60:,.1f} min"
