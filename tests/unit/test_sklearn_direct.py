"""The shorter ways through scikit-learn give its own answers, or there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from celeriac.runtimes.sklearn_direct import MOST_TEXTS, direct

TEXTS = ["good coffee, good day", "stale tea", "the best I had", "never again", "fine fine", "7 up"]


def pipeline(vectorizer: dict[str, Any], classes: int = 2, **classifier: Any) -> Any:
    labels = [f"c{number % classes}" for number in range(len(TEXTS) * 4)]
    model = make_pipeline(TfidfVectorizer(**vectorizer), LogisticRegression(**classifier))
    return model.fit(TEXTS * 4, labels)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(
    "vectorizer",
    [
        {}, {"ngram_range": (1, 2), "sublinear_tf": True}, {"use_idf": False}, {"norm": None},
        {"binary": True, "stop_words": "english"}, {"strip_accents": "unicode"},
        {"analyzer": "char_wb", "ngram_range": (2, 3)}, {"lowercase": False},
    ],
)
def test_texts(vectorizer: dict[str, Any], classes: int) -> None:
    model = pipeline(vectorizer, classes)
    shorter = direct(model)
    assert shorter is not None
    texts = [*TEXTS, "", "unseen words only", "G\u00d6\u00d6D c\u00f3ffee 7 \u4e16"][:MOST_TEXTS]
    assert np.abs(shorter(texts) - model.predict_proba(texts)).max() < 1e-12
    assert shorter(TEXTS * 4) is None  # whole arrays are faster


MODEL = pipeline({"ngram_range": (1, 2)})
SHORTER = direct(MODEL)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(max_size=60) | st.sampled_from(TEXTS), min_size=1, max_size=MOST_TEXTS))
def test_any_texts(texts: list[str]) -> None:
    assert SHORTER is not None
    assert np.abs(SHORTER(texts) - MODEL.predict_proba(texts)).max() < 1e-12


def test_no_way_for_what_is_not_known() -> None:
    assert direct(pipeline({"norm": "l1"})) is None  # tried, and it gave other answers
    assert direct(LogisticRegression().fit([[0.0], [1.0]], [0, 1])) is None
    x, y = load_digits(return_X_y=True)
    two = RandomForestClassifier(3, random_state=0).fit(x[:50], np.c_[y[:50], y[:50]])
    assert direct(two) is None


@pytest.mark.parametrize("kind", [RandomForestClassifier, ExtraTreesClassifier])
def test_forests_to_the_last_bit(kind: Any) -> None:
    x, y = load_digits(return_X_y=True)
    forest = kind(12, random_state=1).fit(x[:300], y[:300])
    shorter = direct(forest)
    assert shorter is not None
    assert np.array_equal(shorter(x[300:400]), forest.predict_proba(x[300:400]))


def test_forests_of_numbers() -> None:
    x, y = load_diabetes(return_X_y=True)
    forest = RandomForestRegressor(12, random_state=1).fit(x, y)
    shorter = direct(forest)
    assert shorter is not None
    assert np.array_equal(shorter(x), forest.predict(x))


def test_no_way_for_forests_that_answer_otherwise() -> None:
    def predict(self: Any, rows: Any) -> Any:
        return RandomForestRegressor.predict(self, rows) + 1e-6

    x, y = load_diabetes(return_X_y=True)
    forest = RandomForestRegressor(3, random_state=1).fit(x, y)
    forest.__class__ = type("RandomForestRegressor", (RandomForestRegressor,), {"predict": predict})
    assert direct(forest) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_unusual_rows_are_the_estimators(bad: float) -> None:
    x, y = load_diabetes(return_X_y=True)
    shorter = direct(RandomForestRegressor(3, random_state=1).fit(x, y))
    assert shorter is not None
    row = x[:1].copy()
    row[0, 0] = bad
    with np.errstate(over="ignore"):
        assert shorter(row) is None
    assert shorter(x[:1, :3]) is None
