"""What the reviews of each product say: how many, their mean, its certainty, and where it goes.

Everything follows from one row for each product, stretch of time and label, which a batch job's
aggregates are; no review is read again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

import msgspec

from celeriac.applications.reviews import student
from celeriac.datasets.records import Period

DOUBT = 0.05
"""Of confidence intervals; and the share of chance among the trends that are called significant."""
LEAST_PERIODS = 3
"""Of a trend."""
DAYS_OF_YEAR = 365.25


@dataclass(frozen=True, kw_only=True)
class Group:
    """Reviews of one product with the same label, of the same stretch of time."""

    product: str | None
    first_day: date | None
    """Of the stretch; None without a date."""
    positive: bool
    count: int
    mean: float
    """Of the label's probability."""
    std: float | None
    """Of the same; None for one review."""


class PeriodMean(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of time."""

    first_day: date
    reviews: int
    mean: float


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """The straight line through the means of the stretches, each as heavy as it has reviews."""

    per_year: float
    """How much the mean sentiment changes in a year."""
    low: float
    high: float
    """95 % confidence interval of ``per_year``."""
    p_value: float
    """The chance of such a line, or a steeper one, without any trend."""
    significant: bool
    """Also beside the trends of all other products: of those that are called so, at most one in
    twenty is expected to be chance."""


class ProductSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The reviews of one product, or of all."""

    product: str | None
    """None: rows without a product, or all of them."""
    reviews: int
    mean: float
    """Sentiment, -1 to 1."""
    spread: float | None
    """Standard deviation of the sentiments; None for one review."""
    low: float | None
    high: float | None
    """95 % confidence interval of the mean."""
    positive_share: float
    undated: int = 0
    """Reviews without a date that can be read."""
    periods: tuple[PeriodMean, ...] = ()
    trend: Trend | None = None


class ReviewSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a dataset of reviews says."""

    job_id: str
    model: str
    version: int
    positive: str
    """The label that counts as good."""
    product_column: str
    date_column: str | None = None
    period: Period = "month"
    rows_failed: int = 0
    """Rows without an answer; they are in no figure."""
    overall: ProductSummary | None = None
    """None: no row has an answer."""
    products: tuple[ProductSummary, ...] = ()
    """The best first."""


def products(groups: Iterable[Group]) -> tuple[ProductSummary, ...]:
    """A summary of each product, the best first."""
    by_product: dict[str | None, list[Group]] = {}
    for group in groups:
        by_product.setdefault(group.product, []).append(group)
    found = [summarise(name, some) for name, some in by_product.items()]
    found = _judged(found)
    return tuple(sorted(found, key=lambda one: (-one.mean, one.product or "")))


def overall(groups: Iterable[Group]) -> ProductSummary | None:
    """The same of all products together."""
    some = list(groups)
    return _judged([summarise(None, some)])[0] if some else None


def summarise(product: str | None, groups: Sequence[Group]) -> ProductSummary:
    """One product; its trend counts as significant only when :func:`products` has judged it."""
    total = _moments(groups)
    low, high = _interval(total)
    periods = _periods(groups)
    return ProductSummary(
        product=product, reviews=total.count, mean=total.mean, spread=total.std, low=low, high=high,
        positive_share=sum(one.count for one in groups if one.positive) / total.count,
        undated=sum(one.count for one in groups if one.first_day is None), periods=periods,
        trend=trend(periods),
    )


def trend(periods: Sequence[PeriodMean]) -> Trend | None:
    """The line through the means; None of fewer than three stretches.

    What happens in one month meets all its reviews, so the scatter of the months around the line
    says how sure it is, and not the number of reviews.
    """
    if len(periods) < LEAST_PERIODS:
        return None
    years = [one.first_day.toordinal() / DAYS_OF_YEAR for one in periods]
    weights = [one.reviews for one in periods]
    total = sum(weights)
    year = sum(w * t for w, t in zip(weights, years, strict=True)) / total
    mean = sum(w * one.mean for w, one in zip(weights, periods, strict=True)) / total
    squares = sum(w * (t - year) ** 2 for w, t in zip(weights, years, strict=True))
    slope = sum(
        w * (t - year) * (one.mean - mean)
        for w, t, one in zip(weights, years, periods, strict=True)
    ) / squares
    rest = sum(
        w * (one.mean - mean - slope * (t - year)) ** 2
        for w, t, one in zip(weights, years, periods, strict=True)
    )
    freedom = len(periods) - 2
    error = math.sqrt(rest / freedom / squares)
    ratio = abs(slope) / error if error > 0 else (math.inf if slope else 0.0)
    half = student.quantile(DOUBT, freedom) * error
    return Trend(
        per_year=slope, low=slope - half, high=slope + half,
        p_value=student.p_value(ratio, freedom), significant=False,
    )


# --- sums of squares ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Moments:
    """How many values, their mean, and the sum of the squares of their distances from it."""

    count: int
    mean: float
    squares: float

    @property
    def std(self) -> float | None:
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else None


def _moments(groups: Iterable[Group]) -> _Moments:
    """Of the sentiments of all groups together (Chan's formula)."""
    total = _Moments(0, 0.0, 0.0)
    for one in groups:
        mean = (2 * one.mean - 1) * (1 if one.positive else -1)
        squares = (2 * (one.std or 0.0)) ** 2 * (one.count - 1)
        count, away = total.count + one.count, mean - total.mean
        total = _Moments(
            count, total.mean + away * one.count / count,
            total.squares + squares + away * away * total.count * one.count / count,
        )
    return total


def _interval(total: _Moments) -> tuple[float | None, float | None]:
    """By Student's t; within what is possible."""
    if total.std is None:
        return None, None
    half = student.quantile(DOUBT, total.count - 1) * total.std / math.sqrt(total.count)
    return max(-1.0, total.mean - half), min(1.0, total.mean + half)


def _periods(groups: Iterable[Group]) -> tuple[PeriodMean, ...]:
    by_day: dict[date, list[Group]] = {}
    for one in groups:
        if one.first_day is not None:
            by_day.setdefault(one.first_day, []).append(one)
    found = {day: _moments(some) for day, some in sorted(by_day.items())}
    return tuple(
        PeriodMean(first_day=day, reviews=one.count, mean=one.mean) for day, one in found.items()
    )


def _judged(found: Sequence[ProductSummary]) -> list[ProductSummary]:
    """The same, with the trends that stand out (Benjamini and Hochberg)."""
    values = sorted(one.trend.p_value for one in found if one.trend)
    passed = [p for rank, p in enumerate(values, 1) if p <= DOUBT * rank / len(values)]
    bound = max(passed, default=-1.0)
    return [
        msgspec.structs.replace(
            one, trend=msgspec.structs.replace(one.trend, significant=one.trend.p_value <= bound)
        ) if one.trend else one
        for one in found
    ]
