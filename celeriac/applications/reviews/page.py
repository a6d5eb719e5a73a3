"""``reviews.html``: the summary for a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from celeriac.applications.reviews.summary import (
    PeriodMean,
    ProductSummary,
    ReviewSummary,
)
from celeriac.reports import charts, page

TEMPLATE = Path(__file__).parent / "reviews.html"
MOST_PRODUCTS = 200
"""On the page: half of them from the top, half from the bottom."""
MOST_TRENDS = 12
BINS = 40


@dataclass(frozen=True)
class View:
    """One product as it is drawn, in hundredths of the width."""

    product: ProductSummary
    rank: int
    mean: float
    low: float | None
    high: float | None
    line: str
    """Path of its mean over time."""


def render(found: ReviewSummary) -> bytes:
    """The page: one file, which loads nothing. Raises RuntimeMissing without Jinja2."""
    ranked = [_view(one, rank) for rank, one in enumerate(found.products, 1)]
    half = MOST_PRODUCTS // 2
    shown = ranked if len(ranked) <= MOST_PRODUCTS else [*ranked[:half], *ranked[-half:]]
    moving = sorted(
        (one for one in ranked if one.product.trend and one.product.trend.significant),
        key=lambda one: one.product.trend.p_value if one.product.trend else 1.0,
    )
    return page.render(
        TEMPLATE, summary=found, views=shown, left_out=len(ranked) - len(shown),
        moving=moving[:MOST_TRENDS], many_moving=len(moving), histogram=_histogram(found.products),
        over_time=over_time(found.overall.periods) if found.overall else None,
        undated=found.overall.undated if found.overall else 0,
    )


def over_time(periods: Sequence[PeriodMean]) -> charts.Plot | None:
    """A bar for each stretch: the middle of the plot is a sentiment of 0."""
    if len(periods) < 2:
        return None
    titles = [
        f"{one.first_day}: {one.mean:+.2f}, {charts.many(one.reviews, 'review')}"
        for one in periods
    ]
    return charts.bars(
        [1 + one.mean for one in periods], titles, top="+1 (the middle is 0)", most=2.0,
        left=str(periods[0].first_day), right=str(periods[-1].first_day),
        marked=[one.mean < 0 for one in periods],
    )


def _histogram(products: Sequence[ProductSummary]) -> charts.Plot | None:
    if len(products) < 2:
        return None
    counts = [0] * BINS
    for one in products:
        counts[min(BINS - 1, int((one.mean + 1) / 2 * BINS))] += 1
    width = 2 / BINS
    titles = [
        f"{at * width - 1:+.2f} to {(at + 1) * width - 1:+.2f}: {charts.many(count, 'product')}"
        for at, count in enumerate(counts)
    ]
    return charts.bars(
        counts, titles, top=charts.many(max(counts), "product"), left="-1", right="+1",
        marked=[at < BINS // 2 for at in range(BINS)],
    )


def _view(one: ProductSummary, rank: int) -> View:
    return View(
        one, rank, _at(one.mean), None if one.low is None else _at(one.low),
        None if one.high is None else _at(one.high), _line(one.periods),
    )


def _at(sentiment: float) -> float:
    return 50 * (sentiment + 1)


def _line(periods: Sequence[PeriodMean]) -> str:
    """Time from left to right, sentiments from 1 (above) to -1."""
    if len(periods) < 2:
        return ""
    days = [one.first_day.toordinal() for one in periods]
    span = days[-1] - days[0]
    return "".join(
        f"{'L' if at else 'M'}{1_000 * (day - days[0]) / span:.1f} {50 * (1 - one.mean):.1f}"
        for at, (day, one) in enumerate(zip(days, periods, strict=True))
    )
