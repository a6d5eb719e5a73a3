"""Tables for terminals, also for narrow ones: words and figures stay whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Column, Table

_LONG_WORD = 20
"""Of a longer word, as of a path, no more has to be on one line."""
_ENDLESS = 100_000
"""Columns of a window in which everything has room."""


@dataclass(frozen=True)
class Fitted:
    """A table that is fitted to the window as it is printed.

    Cells are folded between words, and within very long ones; columns that are ``no_wrap`` or
    stand to the right, as figures do, are not. Where there is no room for that, each row becomes a
    block with a line for each cell.
    """

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        spans = [_span(column, console, options) for column in self.table.columns]
        found = widths(spans, options.max_width - _beside(self.table))
        if found is None:
            yield _blocks(self.table)
            return
        for column, width in zip(self.table.columns, found, strict=True):
            column.width, column.overflow = width, "fold"
        yield self.table


def widths(spans: Sequence[tuple[int, int]], room: int) -> list[int] | None:
    """How wide columns are, each between the least and the most that it can use.

    What is left goes to those first that need the least. None if there is too little room.

    >>> widths([(5, 10), (6, 80)], 40), widths([(5, 10), (6, 80)], 10)
    ([10, 30], None)
    """
    spare = room - sum(least for least, _ in spans)
    if spare < 0:
        return None
    found = [least for least, _ in spans]
    order = sorted(range(len(spans)), key=lambda number: spans[number][1] - spans[number][0])
    for done, number in enumerate(order):
        more = min(spans[number][1] - spans[number][0], spare // (len(order) - done))
        found[number] += more
        spare -= more
    return found


def _span(column: Column, console: Console, options: ConsoleOptions) -> tuple[int, int]:
    """The longest word, or all of a column that is not folded; and the longest cell."""
    from rich.measure import Measurement

    roomy = options.update(max_width=_ENDLESS)
    cells = [Measurement.get(console, roomy, cell) for cell in (column.header, *column.cells)]
    most = max(cell.maximum for cell in cells)
    if column.no_wrap or column.justify == "right":
        return most, most
    return min(_LONG_WORD, max(cell.minimum for cell in cells)), most


def _beside(table: Table) -> int:
    """What a row takes beside its cells."""
    _, right, _, left = table.padding
    count = len(table.columns)
    return count * (left + right) + (count + 1 if table.box else 0)


def _blocks(table: Table) -> Table:
    from rich.table import Table

    made = Table(
        title=table.title, title_justify="left", box=None, pad_edge=False, show_header=False
    )
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    for number, (row, cells) in enumerate(zip(table.rows, rows, strict=True)):
        if number:
            made.add_row()
        for column, cell in zip(table.columns, cells, strict=True):
            if cell != "":
                made.add_row(" ".join(str(column.header).split()), cell, style=row.style)
    return made
