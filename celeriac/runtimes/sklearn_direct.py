"""Shorter ways to the same probabilities, for small batches of a few kinds of estimators.

scikit-learn checks its input anew in every step, and a forest asks a pool of threads for each of
its trees: for one row that is most of the time. What is here does the same arithmetic on the same
fitted arrays. Whether it gives the same answers is tried when it is made; where it does not, or
where an input is unusual, there is no such way, and the estimator itself answers.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

Direct = Callable[[Any], Any]
"""From inputs to probabilities ``(n, labels)`` or values ``(n,)``; None: ask the estimator."""

MOST_TEXTS = 8
"""Of one batch: more of them are faster by scikit-learn's whole arrays."""
_FORESTS = ("RandomForestClassifier", "ExtraTreesClassifier", "RandomForestRegressor",
            "ExtraTreesRegressor")
_SAME = 1e-9


def direct(estimator: Any) -> Direct | None:
    """The shorter way of a fitted estimator, if there is one that gives the same answers."""
    if type(estimator).__name__ in _FORESTS and estimator.n_outputs_ == 1:
        return _forest(estimator)
    steps = [type(step).__name__ for _, step in getattr(estimator, "steps", ())]
    if steps == ["TfidfVectorizer", "LogisticRegression"]:
        return _texts(estimator.steps[0][1], estimator.steps[1][1])
    return None


def _forest(forest: Any) -> Direct | None:
    trees = [one.tree_ for one in forest.estimators_]
    columns, classifies = forest.n_features_in_, hasattr(forest, "classes_")

    def answer(rows: Any) -> Any:
        values = np.ascontiguousarray(rows, dtype=np.float32)
        if values.ndim != 2 or values.shape[1] != columns or not np.isfinite(values).all():
            return None
        total = trees[0].predict(values)
        for tree in trees[1:]:
            total += tree.predict(values)
        total /= len(trees)
        return total if classifies else total[:, 0]

    return answer if _agrees_with_forest(answer, forest) else None


def _agrees_with_forest(answer: Direct, forest: Any) -> bool:
    """Tried on random rows; they are no frame, of which a forest fitted on frames warns."""
    rows = np.random.default_rng(0).normal(size=(8, forest.n_features_in_))
    ask = forest.predict_proba if hasattr(forest, "classes_") else forest.predict
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(np.abs(answer(rows) - ask(rows)).max() < _SAME)
    except (ValueError, TypeError, AttributeError):
        return False


def _texts(vectorizer: Any, classifier: Any) -> Direct | None:
    analyze, vocabulary = vectorizer.build_analyzer(), vectorizer.vocabulary_
    idf = vectorizer.idf_ if vectorizer.use_idf else np.ones(len(vocabulary))
    weights = np.ascontiguousarray(classifier.coef_.T * idf[:, None])
    constant, times_of = classifier.intercept_, _times(vectorizer, idf)

    def scores(text: str) -> Any:
        counts = Counter(filter(None, map(get, analyze(text))))
        if not counts:
            return constant
        places = np.fromiter(counts, np.intp, len(counts)) - 1
        times = np.fromiter(counts.values(), np.float64, len(counts))
        return times_of(places, times) @ weights[places] + constant

    get = {term: place + 1 for term, place in vocabulary.items()}.get  # 0 would be "not there"
    for choose in (_sigmoid, _softmax):

        def answer(texts: Any, choose: Any = choose) -> Any:
            if len(texts) > MOST_TEXTS:
                return None
            return choose(np.array([scores(text) for text in texts]))

        if _agrees_with_texts(answer, vectorizer, classifier):
            return answer
    return None


def _times(vectorizer: Any, idf: Any) -> Callable[[Any, Any], Any]:
    """From how often each word occurs to its share, without its idf, which the weights have."""
    sublinear, binary, normed = (
        vectorizer.sublinear_tf, vectorizer.binary, vectorizer.norm == "l2"
    )

    def times_of(places: Any, times: Any) -> Any:
        if binary:
            times = np.ones_like(times)
        if sublinear:
            times = np.log(times) + 1.0
        if normed:
            squares = times * idf[places]
            times = times / np.sqrt(squares @ squares)
        return times

    return times_of


def _sigmoid(scores: Any) -> Any:
    with np.errstate(over="ignore"):
        chances = 1.0 / (1.0 + np.exp(-scores))
    if scores.shape[1] == 1:
        return np.column_stack([1.0 - chances[:, 0], chances[:, 0]])
    return chances / chances.sum(axis=1, keepdims=True)


def _softmax(scores: Any) -> Any:
    if scores.shape[1] == 1:
        scores = np.column_stack([-scores[:, 0], scores[:, 0]])
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _agrees_with_texts(answer: Direct, vectorizer: Any, classifier: Any) -> bool:
    """Tried on texts of the model's own words, on nothing, and on what it has never seen."""
    words = sorted(vectorizer.vocabulary_)
    some = words[:: max(1, len(words) // 40)]
    texts = ["", "\u00fc \u4e16\u754c 7", " ".join(some), " ".join(some[::3] * 3), f"{words[0]}!"]
    try:
        own = classifier.predict_proba(vectorizer.transform(texts))
        return bool(np.abs(answer(texts) - own).max() < _SAME)
    except (ValueError, TypeError, AttributeError):
        return False
