"""Sentiments and summaries: the figures are those of the reviews themselves."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from celeriac import errors
from celeriac.applications.reviews import dataset, page, student, summary
from celeriac.applications.reviews.sentiment import check_review, positive_label, sentiment_of
from celeriac.applications.reviews.summary import (
    Group,
    PeriodMean,
    ProductSummary,
    ReviewSummary,
    Trend,
)
from celeriac.datasets.aggregates import aggregate
from celeriac.messages import Prediction
from celeriac.registry.manifest import OutputSchema


def answers(*labels: Any, **more: Any) -> OutputSchema:
    return OutputSchema(kind="classifier", labels=labels, **{"probabilities": True, **more})


@pytest.mark.parametrize(("label", "probability", "sentiment"), [
    ("fresh", 1.0, 1.0), ("fresh", 0.5, 0.0), ("rotten", 0.75, -0.5), ("rotten", 1.0, -1.0),
])
def test_a_sentiment_is_the_label_and_how_sure_it_is(
    label: str, probability: float, sentiment: float
) -> None:
    found = sentiment_of(
        Prediction(model="films", version=3, label=label, probability=probability), "fresh"
    )
    assert (found.sentiment, found.model, found.version) == (sentiment, "films", 3)


@pytest.mark.parametrize(("output", "wanted", "found"), [
    (answers("rotten", "fresh"), None, "fresh"), (answers("Positive", "neg"), None, "Positive"),
    (answers(0, 1), "1", 1), (answers("a", "b"), "b", "b"), (answers("great", "other"), None,
    "great"), (answers(False, True), "true", True),
])
def test_which_label_is_good(output: OutputSchema, wanted: str | None, found: Any) -> None:
    assert positive_label(output, wanted, "m") == found


@pytest.mark.parametrize(("output", "wanted", "says"), [
    (answers("a", "b"), None, "name the positive label, 'a' or 'b'"),
    (answers("good", "great"), None, "does not say which is good"),
    (answers("good", "bad"), "better", "has no label 'better'"),
    (answers("a", "b", "c"), None, "has 3 labels"),
    (answers("good", "bad", probabilities=False), None, "no probabilities"),
    (OutputSchema(kind="regressor"), None, "no probabilities"),
])
def test_a_model_that_cannot_tell_is_refused(
    output: OutputSchema, wanted: str | None, says: str
) -> None:
    with pytest.raises(errors.RequestError, match=says):
        positive_label(output, wanted, "m")


@pytest.mark.parametrize("text", ["", " \n\t ", None, 7, b"good"])
def test_what_is_no_review(text: Any) -> None:
    with pytest.raises(errors.InvalidItem):
        check_review(text)


@settings(max_examples=200)
@given(t=st.floats(-60, 60), freedom=st.integers(1, 5_000))
def test_students_distribution(t: float, freedom: int) -> None:
    """Within 6e-7 where t is so small that its square is lost beside ``freedom``."""
    assert student.p_value(t, freedom) == pytest.approx(
        2 * stats.t.sf(abs(t), freedom), rel=1e-6, abs=1e-12
    )


@pytest.mark.parametrize("freedom", [1, 2, 5, 30, 1_000, 10**6])
def test_students_quantiles(freedom: int) -> None:
    assert student.quantile(0.05, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-6)


def test_a_quantile_takes_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand products need one each."""
    steps = [0]
    p_value = student.p_value

    def counted(t: float, freedom: int) -> float:
        steps[0] += 1
        return p_value(t, freedom)

    monkeypatch.setattr(student, "p_value", counted)
    for freedom in (1, 3, 40, 10**5):
        student.quantile.cache_clear()
        steps[0] = 0
        student.quantile(0.05, freedom)
        student.quantile(0.05, freedom)
        assert steps[0] <= 12


REVIEWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", None]), st.sampled_from(["good", "bad"]),
        st.floats(0.5, 1), st.sampled_from(["2025-01-07", "2025-02-28", "31.3.2025", None]),
    ), min_size=1, max_size=60,
)


@settings(max_examples=60)
@given(rows=REVIEWS, at=st.integers(0, 60))
def test_a_summary_of_groups_is_that_of_the_reviews(rows: list[Any], at: int) -> None:
    """Through the very aggregation that a job computes, over two parts."""
    names = ["product", "prediction", "probability", "date"]
    texts = pa.schema([(name, pa.string()) for name in names]).set(
        2, pa.field("probability", pa.float64())
    )
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], texts)
    wanted = dataset.aggregation("product", "date", "month", "good")
    groups = [
        Group(product=row["product"], first_day=row["date"],
              positive=row["prediction_share_good"] == 1, count=row["count"],
              mean=row["probability_mean"], std=row["probability_std"])
        for row in aggregate([table.slice(0, at), table.slice(at)], wanted).to_pylist()
    ]
    found = {one.product: one for one in summary.products(groups)}
    for product in {row[0] for row in rows}:
        mine = [row for row in rows if row[0] == product]
        values = np.array([(2 * row[2] - 1) * (1 if row[1] == "good" else -1) for row in mine])
        one = found[product]
        assert (one.reviews, one.mean) == (len(mine), pytest.approx(values.mean(), abs=1e-9))
        assert one.positive_share == pytest.approx(np.mean([row[1] == "good" for row in mine]))
        assert one.undated == sum(row[3] in ("31.3.2025", None) for row in mine)
        if len(mine) == 1:
            assert one.spread is one.low is one.high is None
            continue
        assert one.spread == pytest.approx(values.std(ddof=1), abs=1e-7)
        low, high = stats.t.interval(
            0.95, len(mine) - 1, values.mean(), max(stats.sem(values), 1e-12)
        )
        assert one.low == pytest.approx(max(-1, low), abs=1e-6)
        assert one.high == pytest.approx(min(1, high), abs=1e-6)


def month(number: int, mean: float, reviews: int = 10) -> PeriodMean:
    return PeriodMean(first_day=date(2020 + number // 12, number % 12 + 1, 1), reviews=reviews,
                      mean=mean)


def test_a_trend_is_the_weighted_line_through_the_means() -> None:
    chance = np.random.default_rng(3)
    periods = [month(n, 0.02 * n + chance.normal(0, 0.1), int(chance.integers(1, 50)))
               for n in range(24)]
    found = summary.trend(periods)
    assert found is not None
    x = np.array([one.first_day.toordinal() / summary.DAYS_OF_YEAR for one in periods])
    y, weights = (np.array([getattr(one, name) for one in periods]) for name in ("mean", "reviews"))
    slope = np.polyfit(x, y, 1, w=np.sqrt(weights))[0]
    assert found.per_year == pytest.approx(slope)
    even = summary.trend([month(n, one.mean) for n, one in enumerate(periods)])
    plain = stats.linregress(x, y)
    assert even is not None
    assert (even.per_year, even.p_value) == pytest.approx((plain.slope, plain.pvalue))
    assert even.low == pytest.approx(plain.slope - stats.t.ppf(0.975, 22) * plain.stderr)


def test_what_has_no_trend() -> None:
    assert summary.trend([month(0, 0.1), month(1, 0.9)]) is None
    level = summary.trend([month(n, 0.5) for n in range(5)])
    assert level is not None
    assert (level.per_year, level.p_value) == (pytest.approx(0, abs=1e-12), 1.0)


def product(name: str, means: list[float]) -> list[Group]:
    return [
        Group(product=name, first_day=month(n, 0).first_day, positive=mean > 0, count=10,
              mean=(1 + abs(mean)) / 2, std=0.1)
        for n, mean in enumerate(means)
    ]


def test_chance_is_not_called_a_trend_among_many_products() -> None:
    chance = np.random.default_rng(11)
    noise = [group for n in range(200)
             for group in product(f"noise {n}", list(chance.normal(0.4, 0.1, 12)))]
    falling = product("falling", list(0.9 - 0.06 * np.arange(12) + chance.normal(0, 0.02, 12)))
    found = summary.products([*noise, *falling])
    significant = [one.product for one in found if one.trend and one.trend.significant]
    assert significant == ["falling"]
    assert sum(one.trend.p_value < 0.05 for one in found if one.trend) > 5


@pytest.mark.parametrize(("product", "date"), [
    ("prediction", None), ("asin", "probability"), ("asin", "asin"),
])
def test_columns_that_cannot_be_told_apart_are_refused(product: str, date: str | None) -> None:
    with pytest.raises(errors.RequestError, match="column"):
        dataset.aggregation(product, date, "month", "good")


def a_product(name: str | None, trend: Trend | None = None) -> ProductSummary:
    periods = (month(0, -0.5), month(1, 0.2), month(2, 0.4))
    return ProductSummary(
        product=name, reviews=30, mean=0.2, spread=0.5, low=0.1, high=0.3, positive_share=0.6,
        undated=2, periods=periods if trend else (), trend=trend,
    )


@pytest.mark.parametrize("count", [0, 1, 3, 500])
def test_the_page_holds_any_number_of_products_and_any_name(count: int) -> None:
    trend = Trend(per_year=-0.5, low=-0.7, high=-0.3, p_value=1e-6, significant=True)
    products = tuple(
        a_product(f"<script>alert({n})</script> \U0001f355 \u05d0\u05d1", trend)
        for n in range(count)
    )
    found = ReviewSummary(
        job_id="j", model="m", version=1, positive="good", product_column="asin",
        date_column="date", rows_failed=1, overall=a_product(None, trend) if count else None,
        products=products,
    )
    made = page.render(found).decode()
    assert len(made) < 1_000_000
    assert "<script" not in made
    assert made.count("&lt;script&gt;") >= min(count, page.MOST_PRODUCTS)
    assert "http" not in made.replace("http-equiv", "")


def test_a_folder_without_a_finished_job_has_no_summary(tmp_path: Path) -> None:
    from celeriac.jobs.folder import JobFolder

    with pytest.raises(errors.Conflict, match="until the job has finished"):
        dataset.read_summary(JobFolder(tmp_path))


def test_one_review_has_a_mean_and_nothing_more() -> None:
    (one,) = summary.products([
        Group(product="a", first_day=None, positive=False, count=1, mean=0.9, std=None)
    ])
    assert (one.mean, one.spread, one.low) == (pytest.approx(-0.8), None, None)
    assert math.isclose(one.positive_share, 0)
