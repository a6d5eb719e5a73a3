"""Shorter ways to the same probabilities, for a few kinds of estimators.

scikit-learn checks its input anew in every step, and a forest asks a pool of threads for each of
its trees: for one row that is most of the time. What is here does the same arithmetic on the same
fitted arrays, in the same order. Whether it gives the same answers is tried when it is made; where
it does not, or where an input is unusual, there is no such way, and the estimator itself answers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice, repeat
from typing import Any

import numpy as np

from celeriac import errors
from celeriac.runtimes.sklearn_terms import Counts, counter

Direct = Callable[[Any], Any]
"""From inputs to probabilities ``(n, labels)`` or values ``(n,)``; None: ask the estimator."""

AT_ONCE = 256
"""Texts whose words are looked up together, at most: more of them leave a core's caches."""
CHARACTERS = 262_144
"""Of these texts together, or of one that is longer: their words are held until they are counted,
and take many times as much memory, n-grams of characters most of all."""
MOST_LABELS = 64
"""For more texts than AT_ONCE; scikit-learn multiplies faster by a wider matrix."""
SAME = 1e-9
"""So little may a probability, or a forest's number, be off from scikit-learn's own."""
UNKNOWN = "for forests, and TF-IDF with logistic regression"
UNUSUAL = (TypeError, ValueError, AttributeError, LookupError)
"""What inputs raise that do not fit. The estimator says what is wrong with them."""
_FORESTS = ("RandomForestClassifier", "ExtraTreesClassifier", "RandomForestRegressor",
            "ExtraTreesRegressor")
_TEXTS = ("Pipeline", "TfidfVectorizer", "LogisticRegression")
_FUNCTIONS = ("analyzer", "tokenizer", "preprocessor", "strip_accents")
_WORDS = 40
_BETWEEN = "_-'.7\n\0\x1f\x7f\x85\xa0\xad\u00b2\u0130\u0301\u200d\u2028\u212a\u3042\U0001f600"
"""Between two words: characters of words, of none, and some that only Unicode knows."""
_ROWS = 16


@dataclass(frozen=True)
class Found:
    """What came of looking for a shorter way."""

    way: Direct | None
    why: str = ""
    """There is none."""


def direct(estimator: Any, texts: Sequence[str] = ()) -> Found:
    """The shorter way of a fitted estimator, if there is one that gives the same answers.

    ``texts`` are compared, too, beside those that are made of the model's own words. Raises
    nothing.
    """
    try:
        return _direct(estimator, texts)
    except Exception as error:  # another release may have changed anything
        if type(error).__name__ == "SoftTimeLimitExceeded":  # of the task that we run in
            raise
        return Found(None, f"trying it raised {errors.told(error)}")


def _direct(estimator: Any, texts: Sequence[str]) -> Found:
    if kind_of(estimator) in _FORESTS and estimator.n_outputs_ == 1:
        way = _forest(estimator)
        why = _forest_differs(way, estimator)
        return Found(None if why else way, why)
    steps = [step for _, step in getattr(estimator, "steps", ())]
    if (kind_of(estimator), *map(kind_of, steps)) != _TEXTS:
        return Found(None, UNKNOWN)
    vectorizer, classifier = steps
    if vectorizer.input != "content" or any(
        callable(getattr(vectorizer, name)) for name in _FUNCTIONS
    ):
        return Found(None, "it reads texts by a function or a file of its own")
    if np.dtype(vectorizer.dtype) != np.float64:  # 8 bits count to 255
        return Found(None, f"it counts words in {np.dtype(vectorizer.dtype)}")
    way = _texts(vectorizer, classifier)
    why = _texts_differ(way, vectorizer, classifier, texts)
    return Found(None if why else way, why)


def kind_of(estimator: Any) -> str:
    """The name of a class of scikit-learn's own; "": of any other, which may do otherwise."""
    kind = type(estimator)
    return kind.__name__ if kind.__module__.startswith("sklearn.") else ""


# --- forests -------------------------------------------------------------------------------------


def _forest(forest: Any) -> Direct:
    trees = [one.tree_ for one in forest.estimators_]
    columns, classifies = forest.n_features_in_, hasattr(forest, "classes_")
    names = list(getattr(forest, "feature_names_in_", ()))

    def answer(rows: Any) -> Any:
        if not _is_numbers(rows, names):
            return None
        values = np.ascontiguousarray(_without_bools(rows), dtype=np.float32)
        if values.ndim != 2 or values.shape[1] != columns or not np.isfinite(values).all():
            return None
        total = trees[0].predict(values)
        for tree in trees[1:]:
            total += tree.predict(values)
        total /= len(trees)
        return total if classifies else total[:, 0]

    return answer


def _is_numbers(rows: Any, names: Sequence[str]) -> bool:
    """False of text, objects, and frames of other columns: scikit-learn has its own rules."""
    if not hasattr(rows, "columns"):
        return getattr(rows, "dtype", np.dtype(object)).kind in "fiub"
    return list(rows.columns) == names and all(
        isinstance(one, np.dtype) and one.kind in "fiub" for one in rows.dtypes
    )


def _without_bools(rows: Any) -> Any:
    """As scikit-learn does it: pandas makes objects of a frame that has numbers, too, by which
    large whole numbers are rounded twice."""
    if hasattr(rows, "columns") and any(one.kind == "b" for one in rows.dtypes):
        return rows.astype(np.float32)
    return rows


def _forest_differs(way: Direct, forest: Any) -> str:
    """Tried on both sides of its own thresholds. They are no frame, of which one that was fitted
    on frames warns."""
    classifies = hasattr(forest, "classes_")
    rows = _around_thresholds(forest)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        labels = forest.predict(rows)
        own = forest.predict_proba(rows) if classifies else labels
    return _differs(way(rows), own, forest.classes_ if classifies else None, labels)


def _around_thresholds(forest: Any) -> Any:
    random = np.random.default_rng(0)
    rows = random.normal(size=(_ROWS, forest.n_features_in_))
    for number in range(_ROWS // 2):
        tree = forest.estimators_[number % len(forest.estimators_)].tree_
        # Where only what is missing goes the other way, the threshold is infinite.
        splits = (tree.feature >= 0) & np.isfinite(tree.threshold)
        nodes = random.permutation(np.flatnonzero(splits))
        rows[number, tree.feature[nodes]] = tree.threshold[nodes]
        rows[number] += random.choice([0.0, 1e-3, -1e-3], size=rows.shape[1])
    return rows


# --- texts ---------------------------------------------------------------------------------------


def _texts(vectorizer: Any, classifier: Any) -> Direct:
    """Sums run over a text's words in the order of the vocabulary, one after the other, as in
    scikit-learn: the last bits are the same, so that a text's answer depends on no other."""
    count, weighted = counter(vectorizer), _weighted(vectorizer)
    weights, constant = classifier.coef_, classifier.intercept_
    chances = _sigmoid if len(classifier.coef_) == 1 else _softmax

    def scores(texts: Sequence[str]) -> Any:
        counts = count(texts)
        return _sums(counts, weighted(counts, len(texts)), weights, len(texts)) + constant

    def answer(texts: Any) -> Any:
        if len(weights) > MOST_LABELS and len(texts) > AT_ONCE:
            return None
        found = chances(np.concatenate([scores(part) for part in _parts(texts)]))
        return found if _is_clear(found) else None

    return answer


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = characters = 0
    for at, text in enumerate(texts):
        characters += len(text)
        if start < at and (at - start == AT_ONCE or characters > CHARACTERS):
            yield texts[start:at]
            start, characters = at, len(text)
    yield texts[start:]


def _weighted(vectorizer: Any) -> Callable[[Counts, int], Any]:
    """From how often each word occurs to its weight in its text."""
    sublinear, binary, norm = vectorizer.sublinear_tf, vectorizer.binary, vectorizer.norm
    idf = vectorizer.idf_ if vectorizer.use_idf else None

    def weighted(counts: Counts, texts: int) -> Any:
        times = counts.times
        if binary:
            times = np.ones_like(times)
        if sublinear:
            times = np.log(times) + 1.0
        if idf is not None:
            times = times * idf[counts.place]
        if norm == "l2":
            times = times / np.sqrt(np.bincount(counts.text, times * times, texts))[counts.text]
        elif norm == "l1":
            times = times / np.bincount(counts.text, np.abs(times), texts)[counts.text]
        return times

    return weighted


def _sums(counts: Counts, times: Any, weights: Any, texts: int) -> Any:
    """Scores ``(texts, rows of weights)``, added up term by term; ``np.sum`` adds in pairs."""
    found = np.zeros((texts, len(weights)))
    if len(weights) <= texts:
        for score, row in enumerate(weights):
            found[:, score] = np.bincount(counts.text, times * row[counts.place], texts)
        return found
    ends = np.searchsorted(counts.text, np.arange(texts), side="right").tolist()
    for text, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if start < end:
            rows = times[start:end, None] * weights.T[counts.place[start:end]]
            found[text] = np.add.accumulate(rows, axis=0)[-1]
    return found


def _sigmoid(scores: Any) -> Any:
    from scipy.special import expit

    chances = np.empty((len(scores), 2))
    expit(scores[:, 0], out=chances[:, 1])
    np.subtract(1, chances[:, 1], out=chances[:, 0])
    return chances


def _softmax(scores: Any) -> Any:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _is_clear(chances: Any) -> bool:
    """False if two labels are as good as equal: the last bits decide, so scikit-learn shall."""
    best = np.sort(chances, axis=1)
    return bool((best[:, -1] - best[:, -2] > SAME).all())


def _texts_differ(
    way: Direct, vectorizer: Any, classifier: Any, texts: Sequence[str]
) -> str:
    texts = [*_of_own_words(vectorizer, classifier), *texts]
    inputs = vectorizer.transform(texts)
    own, labels = classifier.predict_proba(inputs), classifier.predict(inputs)
    alone = [way([text]) for text in texts]
    told = [number for number, one in enumerate(alone) if one is not None]
    if not told or np.ptp(own[told], axis=0).max() < SAME:
        return "its own words make no difference to it, so there is nothing to compare"
    together = way([texts[number] for number in told])
    return next(filter(None, (
        _differs(found, own[told], classifier.classes_, labels[told])
        for found in (np.concatenate([alone[number] for number in told]), together)
    )), "")


def _of_own_words(vectorizer: Any, classifier: Any) -> Iterator[str]:
    """Texts of words from all over the vocabulary and of those that count most, with all kinds of
    characters between them; nothing; and what the model has never seen."""
    vocabulary = vectorizer.vocabulary_
    some = list(islice(vocabulary, 0, None, max(1, len(vocabulary) // _WORDS)))
    strength = np.zeros(len(vocabulary))
    for row in classifier.coef_:
        np.maximum(strength, np.abs(row), out=strength)
    most = set(strength.argsort()[-_WORDS:].tolist())
    strong = sorted(word for word, place in vocabulary.items() if place in most)
    yield from ("", "\u00fc \u4e16\u754c 7", f"{some[0]}!", strong[0], strong[-1].upper())
    between = chain.from_iterable(zip(strong, cycle(_BETWEEN), strong, repeat(" ")))
    yield "".join(between)
    uneven = [word for place, word in enumerate(strong) for _ in range(1 + place % 3)]
    for words in (some, some[::3] * 3, strong, strong[::2] + some[::2], uneven):
        yield " ".join(words)


# --- both ----------------------------------------------------------------------------------------


def _differs(found: Any, own: Any, classes: Any, labels: Any) -> str:
    """Why it is not the same; "": it is. ``classes`` is None of numbers."""
    off = np.abs(found - own).max()
    if not off < SAME:  # NaN too
        return f"it gives other answers, off by {off:.0e}"
    if classes is not None and (classes[found.argmax(axis=1)] != labels).any():
        return "it gives other labels"
    return ""
