"""What commands print on: text as it is, and tables without frames."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """Prints text as it is: a path or a name may hold [brackets]."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False)


def plain(text: str) -> str:
    """``text`` without what steers a terminal: others may have written it.

    >>> plain("red \\x1b[31m")
    'red \ufffd[31m'
    """
    return "".join(
        one if one in "\n\t" or unicodedata.category(one) not in ("Cc", "Cs") else "\ufffd"
        for one in text
    )


def counted(number: int, noun: str) -> str:
    """As ``1 row`` or ``2,000 rows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def moment(at_s: float) -> str:
    """A Unix time, in UTC.

    >>> moment(0)
    '1970-01-01 00:00:00'
    """
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S}"


def print_json(value: Any) -> None:
    """Print one line of JSON, for programs."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def show_rows(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table without a frame.

    In a narrow window cells are folded between words, but not those of the first column: names
    are copied.
    """
    from rich.table import Table

    from celeriac.tables import Fitted

    made = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        made.add_column(heading, no_wrap=not number)
    for row in rows:
        made.add_row(*map(plain, row))
    console().print(Fitted(made))
