"""The table of forms, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from celeriac.optimize.variants import ORIGINAL

if TYPE_CHECKING:
    from rich.console import Console

    from celeriac.optimize.optimising import Found, Line
    from celeriac.optimize.parity import Parity

_STYLES = {"winner": "bold green", "differs": "red", "failed": "red", "slower": "yellow"}


_REASONS = {"failed": "Failed", "differs": "Refused, it differs", "slower": "Refused, slower",
            "no gain": "Not worth it", "skipped": "Not tried"}


def show(found: Found, console: Console | None = None) -> None:
    """Print the table, what it was measured on, and what to do next."""
    from rich.console import Console
    from rich.table import Table

    from celeriac.tables import Fitted

    console = console or Console(highlight=False)
    sizes = sorted({size for line in found.lines for size in line.predict_ms})
    count = "golden example" if found.golden_only else "sample"
    console.print(f"\n{found.model} on {found.machine}, {found.device}, "
                  f"{_threads(found.threads)}; compared on {found.samples} "
                  f"{count}{'' if found.samples == 1 else 's'}")
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("\nform")
    metrics = {line.parity.metric_name for line in found.lines
               if line.parity is not None and line.parity.metric is not None}
    times = (f"ms of\n{size}" for size in sizes)
    for name in (*times, "\ngain", "\nlabels", "off\nby", *(f"\n{name}" for name in metrics)):
        table.add_column(name, justify="right")
    table.add_column("\nverdict")
    for line in found.lines:
        if line.verdict != "skipped":
            table.add_row(*_cells(line, sizes, bool(metrics)), style=_STYLES.get(line.verdict, ""))
    console.print(Fitted(table))
    for text in _notes(found):
        console.print(text, markup=False, soft_wrap=True)


def _cells(line: Line, sizes: list[int], metric: bool) -> list[str]:
    agreement, error, right = _shown(line.parity)
    verdict = {"original": "", "threads": "no version"}.get(line.verdict, line.verdict)
    return [
        line.name, *(_ms(line.predict_ms.get(size)) for size in sizes),
        f"{line.mean_speedup:.2f} x" if line.mean_speedup is not None else "",
        agreement, error, *([right] if metric else []), verdict,
    ]


def _notes(found: Found) -> Iterator[str]:
    yield ""
    for verdict, words in _REASONS.items():
        for line in found.lines:
            if line.verdict == verdict:
                yield f"{words}: {line.name}: {line.why}"
    if found.default != ORIGINAL:
        yield _of_default(found)
    for line in found.lines:
        if line.verdict == "threads" and line.why:
            yield f"More threads pay: {line.name}: {line.why}: [realtime] threads = {line.threads}"
    if found.golden_only:
        yield "Golden examples are few: --samples FILE with real items says more."
    yield from _end(found)


def _of_default(found: Found) -> str:
    now = f"{found.model} is run as {found.default} now"
    if any(line.name == found.default and line.verdict == "differs" for line in found.lines):
        return (f"{now}, and should not be: register it once more with "
                'recipe={"direct": False} (--plain), and report it.')
    return (f"{now}, because its answers are the {ORIGINAL}'s; others have to be faster than "
            "that.")


def _end(found: Found) -> Iterator[str]:
    if found.winner is None and found.version is not None:
        yield (f"Nothing that answers alike is faster: {found.version.ref} is registered, the same "
               f"as {found.model} with its measured cost. Let it serve:")
        yield f"  celeriac models promote {found.version.ref}"
    elif found.winner is None:
        yield "Nothing that answers alike is faster: nothing is registered."
    elif found.version is None:
        yield f"The winner is {found.winner}; nothing is registered."
    else:
        yield f"{found.version.ref} is registered: {found.model} as {found.winner}. Let it serve:"
        yield f"  celeriac models promote {found.version.ref}"


def _shown(parity: Parity | None) -> tuple[str, str, str]:
    """Equal labels, the largest error, and accuracy or R2."""
    if parity is None:
        return "", "", ""
    agreement = "" if parity.agreement is None else f"{_floor(parity.agreement)}%"
    error = "" if parity.error is None else "0" if parity.error == 0 else f"{parity.error:.0e}"
    return agreement, error, "" if parity.metric is None else f"{parity.metric:.4f}"


def _floor(share: float) -> str:
    """A percentage that says 100 only if all agree."""
    text = f"{int(share * 1_000) / 10:.1f}"
    return "100" if share == 1 else text


def _ms(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
