"""Applications: what people build on Celeriac, how right it is and how fast, beside plain ways.

Each application has a module in ``benchmarks/systems/``; they run one after the other, each with
real data, a registry and a local stack of its own.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import systems
from benchmarks.harness import table
from benchmarks.harness.table import Row

HOME = Path(".celeriac/bench/applications").absolute()
NAMES = sorted(module.name for module in pkgutil.iter_modules(systems.__path__))
console = Console(highlight=False, stderr=True)


def main(words: Sequence[str]) -> int:
    """``scripts/bench applications``. Exit code 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="scripts/bench applications", description=__doc__)
    parser.add_argument("--json", type=Path, default=HOME.parent / "applications.json")
    parser.add_argument("--markdown", type=Path, default=HOME.parent / "applications.md")
    parser.add_argument("--quick", action="store_true", help="little data: is all in order?")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    options = parser.parse_args(words)
    rows: list[Row] = []
    for name in options.only:
        console.print(f"[bold]{name}[/]")
        found = measure(name, quick=options.quick)
        table.show(found, name)
        rows += found
        lines = [table.cells(row) for row in rows]
        options.markdown.write_text(table.markdown(table.HEADERS, lines), encoding="utf-8")
        table.save(rows, options.json, {"command": "scripts/bench applications"})
    console.print(f"\n{options.json}\n{options.markdown}")
    return int(any(row.met is False for row in rows))


def measure(name: str, *, quick: bool) -> list[Row]:
    """The rows of one application; what it wrote is removed."""
    home = HOME / name
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    try:
        return list(importlib.import_module(f"benchmarks.systems.{name}").rows(home, quick))
    finally:
        shutil.rmtree(home, ignore_errors=True)
