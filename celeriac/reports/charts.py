"""Plots as drawings inside a page. They stretch with the page; their words are the page's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from celeriac.reports.records import ColumnProfile, Histogram

MOST_BARS = 120
WIDTH, HEIGHT = 1_000.0, 100.0
"""Of a drawing, in its own units."""


@dataclass(frozen=True)
class Bar:
    """One bar of a plot, and what is said of it."""

    x: float
    width: float
    height: float
    title: str
    marked: bool = False

    @property
    def y(self) -> float:
        return HEIGHT - self.height


@dataclass(frozen=True)
class Plot:
    """Bars above an axis."""

    bars: tuple[Bar, ...]
    top: str
    """What the upper edge stands for."""
    left: str
    right: str
    middle: str = ""

    @property
    def path(self) -> str:
        """The bars that are not marked as one path: a plot of many small ones stays small."""
        return _path([bar for bar in self.bars if not bar.marked])

    @property
    def marked_path(self) -> str:
        return _path([bar for bar in self.bars if bar.marked])


def bars(  # noqa: PLR0913 - a plot and its words
    values: Sequence[float], titles: Sequence[str], *, top: str, left: str, right: str,
    marked: Sequence[bool] = (), most: float | None = None,
) -> Plot:
    """A bar for each value, from 0 to the largest, or to ``most``."""
    most = max(values, default=0.0) if most is None else most
    step = WIDTH / max(len(values), 1)
    gap = min(step * 0.15, 2.0)
    drawn = tuple(
        Bar(
            x=at * step + gap / 2, width=step - gap, title=title,
            height=_height(value, most), marked=bool(marked) and marked[at],
        )
        for at, (value, title) in enumerate(zip(values, titles, strict=True))
    )
    return Plot(drawn, top=top, left=left, right=right)


def of_histogram(found: Histogram, left: str, right: str) -> Plot:
    """The histogram, with words for its two ends."""
    edges, counts = found.edges, found.counts
    titles = [
        f"{number(low)} to {number(high)}: {count:,}"
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    return bars(
        counts, titles, top=f"{max(counts):,} rows",
        left=("\N{LESS-THAN OR EQUAL TO} " if found.below else "") + left,
        right=("\N{GREATER-THAN OR EQUAL TO} " if found.above else "") + right,
    )


def of_profile(found: ColumnProfile) -> Plot | None:
    """The values of a column, or of what is measured of it; None where there is nothing to draw."""
    if found.histogram is None or len(found.histogram.counts) < 2:
        return None
    edges = found.histogram.edges
    if found.kind == "time":
        return of_histogram(found.histogram, found.first, found.last)
    whole = edges[0] % 1 == edges[-1] % 1 == 0.5  # a bin for each whole number
    half = 0.5 if whole else 0.0
    return of_histogram(found.histogram, number(edges[0] + half), number(edges[-1] - half))


@dataclass(frozen=True)
class Pair:
    """Two sets of bars on one axis: the second one as an outline over the first."""

    plot: Plot
    outline: str
    """Path of the outline."""


def pair(  # noqa: PLR0913 - two sets of bars and their words
    values: Sequence[float], outlined: Sequence[float], titles: Sequence[str], *, top: str,
    left: str, right: str, marked: bool = False,
) -> Pair:
    """Bars for ``values``, and the outline of ``outlined`` on the same scale."""
    most = max(*values, *outlined, 0.0)
    drawn = bars(
        values, titles, top=top, left=left, right=right, marked=[marked] * len(values), most=most
    )
    return Pair(drawn, steps(outlined, most))


def steps(values: Sequence[float], most: float) -> str:
    """A line that runs level over each of as many bars as there are values, as a path."""
    step = WIDTH / max(len(values), 1)
    heights = [min(1.0, value / most) * HEIGHT if most > 0 else 0.0 for value in values]
    return "".join(
        f"{'L' if at else 'M'}{at * step:.1f} {HEIGHT - height:.1f}h{step:.1f}"
        for at, height in enumerate(heights)
    )


def number(value: float) -> str:
    """For a person: four digits or so."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1e-4 <= abs(value) < 1e9:
        digits = max(0, 3 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """``850 ms``, ``12.3 s``, ``4 min 10 s``, ``2 h 05 min``."""
    if seconds < 0.9995:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def many(count: int, noun: str) -> str:
    """``1 chunk``, ``1,200 chunks``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def moment(iso: str) -> str:
    """A time of ISO 8601 by its seconds, in UTC."""
    return f"{datetime.fromisoformat(iso).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def share(part: float, whole: float) -> str:
    """In percent; what is not nothing is not shown as nothing."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %".replace(".0 %", " %")


def _height(value: float, most: float) -> float:
    if value <= 0 or most <= 0:
        return 0.0
    return max(1.5, HEIGHT * value / most)  # what is there can be seen


def _path(drawn: Sequence[Bar]) -> str:
    return "".join(
        f"M{bar.x:.1f} {HEIGHT:g}v{-bar.height:.1f}h{bar.width:.1f}v{bar.height:.1f}z"
        for bar in drawn if bar.height
    )
