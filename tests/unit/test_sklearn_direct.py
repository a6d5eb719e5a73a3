"""The shorter ways through scikit-learn give its own answers, or there are none."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import LinearSVC

from celeriac import errors, release, runtimes
from celeriac.registry.manifest import ModelVersion
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions
from celeriac.runtimes.sklearn import SklearnModel, describe
from celeriac.runtimes.sklearn_direct import AT_ONCE, SAME, UNKNOWN, direct
from celeriac.runtimes.sklearn_terms import counter
from celeriac.scoring import isolate

TEXTS = ["good coffee, good day", "stale tea", "the best I had", "never again", "fine fine", "7 up"]
ODD = ["", "unseen words only", "G\u00d6\u00d6D c\u00f3ffee 7 \u4e16", "\x00\ud800", "the the THE",
       "good " * 500]
VECTORIZERS: list[dict[str, Any]] = [
    {}, {"ngram_range": (1, 2), "sublinear_tf": True}, {"use_idf": False}, {"norm": None},
    {"norm": "l1"}, {"norm": "l1", "use_idf": False, "binary": True, "sublinear_tf": True},
    {"binary": True, "stop_words": "english"}, {"strip_accents": "unicode"},
    {"strip_accents": "ascii", "stop_words": ["good"]}, {"smooth_idf": False},
    {"analyzer": "char"}, {"analyzer": "char", "ngram_range": (1, 3), "sublinear_tf": True},
    {"analyzer": "char_wb", "ngram_range": (2, 3)}, {"lowercase": False},
    {"token_pattern": r"[a-z]"}, {"token_pattern": r"(?u)\b(\w)\w*"}, {"max_features": 3},
    {"min_df": 4, "max_df": 0.5}, {"vocabulary": ["good", "tea", "never", "zebra"]},
    {"vocabulary": {"tea": 1, "good": 0}},
]


def pipeline(
    vectorizer: dict[str, Any], classes: int = 2, last: Any = None, **classifier: Any
) -> Any:
    labels = [f"c{number % classes}" for number in range(len(TEXTS) * 4)]
    last = last or LogisticRegression(**classifier)
    return make_pipeline(TfidfVectorizer(**vectorizer), last).fit(TEXTS * 4, labels)


@cache
def known(number: int, classes: int) -> tuple[Any, Any]:
    model = pipeline(VECTORIZERS[number], classes)
    return model, direct(model).way


def check(model: Any, way: Any, texts: list[str]) -> None:
    """Same labels and numbers; where two labels are as good as equal, scikit-learn answers."""
    found, own = way(texts), model.predict_proba(texts)
    if found is None:
        best = np.sort(own, axis=1)
        assert (best[:, -1] - best[:, -2]).min() <= 2 * SAME
        return
    assert np.abs(found - own).max() < SAME
    assert (model.classes_[found.argmax(axis=1)] == model.predict(texts)).all()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("number", range(len(VECTORIZERS)))
def test_texts(number: int, classes: int) -> None:
    model, way = known(number, classes)
    assert way is not None
    for text in [*TEXTS, *ODD]:
        check(model, way, [text])
    check(model, way, TEXTS)
    check(model, way, TEXTS * AT_ONCE)


def test_many_texts_of_many_labels_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    _, way = known(0, 3)
    monkeypatch.setattr("celeriac.runtimes.sklearn_direct.MOST_LABELS", 2)
    assert way((TEXTS * AT_ONCE)[: AT_ONCE + 1]) is None
    assert way((TEXTS * AT_ONCE)[:AT_ONCE]) is not None


def test_long_texts_are_looked_up_a_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their words, or n-grams of characters, would take many times as much memory as they do."""
    at_once: list[list[int]] = []

    def watched(vectorizer: Any) -> Any:
        count = counter(vectorizer)

        def counts(texts: list[str]) -> Any:
            at_once.append([len(text) for text in texts])
            return count(texts)

        return counts

    monkeypatch.setattr("celeriac.runtimes.sklearn_direct.counter", watched)
    monkeypatch.setattr("celeriac.runtimes.sklearn_direct.CHARACTERS", 1_000)
    model = pipeline({})
    way = direct(model).way
    at_once.clear()
    lengths = [5, 990, 5, 5, 4_000, 5, 1_000, 1_001, *[0] * AT_ONCE]
    check(model, way, [("good tea " * length)[:length] for length in lengths])
    assert at_once == [
        [5, 990, 5], [5], [4_000], [5], [1_000], [1_001], [0] * AT_ONCE,
    ]


WORDS = st.sampled_from([word for text in [*TEXTS, *ODD] for word in text.split()])
ANY_TEXT = st.one_of(
    st.lists(WORDS, max_size=30).map(" ".join), st.text(max_size=60), st.sampled_from(TEXTS)
)


@settings(max_examples=150)
@given(
    st.integers(0, len(VECTORIZERS) - 1), st.sampled_from([2, 3]),
    st.lists(ANY_TEXT, min_size=1, max_size=64),
)
def test_any_texts(number: int, classes: int, texts: list[str]) -> None:
    check(*known(number, classes), texts)


@settings(max_examples=60)
@given(st.lists(ANY_TEXT, min_size=2, max_size=9))
def test_a_text_is_answered_alike_in_any_company(texts: list[str]) -> None:
    _, way = known(1, 3)
    alone = [way([text]) for text in texts]
    together = way(texts)
    if together is not None:
        assert np.array_equal(np.concatenate(alone), together)


def shout(text: str) -> str:
    return text.upper()


class Odd(LogisticRegression):  # type: ignore[misc]
    """Its own answers."""

    def predict_proba(self, rows: Any) -> Any:
        return super().predict_proba(rows)[:, ::-1]


Odd.__name__ = "LogisticRegression"


@pytest.mark.parametrize(
    "model",
    [
        pipeline({"preprocessor": shout}),
        pipeline({"tokenizer": str.split, "token_pattern": None}),
        pipeline({"analyzer": str.split, "token_pattern": None}),
        pipeline({"strip_accents": shout}),
        pipeline({}, last=LinearSVC()), pipeline({}, last=SGDClassifier(loss="log_loss")),
        pipeline({}, last=CalibratedClassifierCV(LinearSVC(), cv=2)),
        pipeline({}, 3, last=OneVsRestClassifier(LogisticRegression())),
        pipeline({}, last=Odd()), pipeline({"dtype": np.float32}),
        make_pipeline(CountVectorizer(), LogisticRegression()).fit(TEXTS, [0, 1] * 3),
        Pipeline([("t", TfidfVectorizer()), ("none", "passthrough"), ("l", LogisticRegression())])
        .fit(TEXTS, [0, 1] * 3),
        LogisticRegression().fit([[0.0], [1.0]], [0, 1]),
    ],
    ids=lambda model: "-".join(type(step).__name__ for _, step in getattr(model, "steps", ())),
)
def test_no_way_for_what_is_not_known(model: Any) -> None:
    found = direct(model)
    assert found.way is None
    assert found.why


def test_no_way_for_what_answers_otherwise() -> None:
    model = pipeline({})
    model.steps[0][1].norm = None  # its transformer of counts keeps what it was fitted with
    assert direct(model).why.startswith("it gives other answers")
    model = pipeline({})
    model.steps[1][1].coef_[:] = 0
    assert "nothing to compare" in direct(model).why
    model.steps[1][1].coef_ = np.ones((1, 3))
    assert direct(model).why.startswith("trying it raised ValueError")


def test_no_way_for_counts_that_run_over() -> None:
    with pytest.warns(UserWarning, match="Only"):
        model = pipeline({"dtype": np.uint8})  # 256 times the same word is none
    assert direct(model).why == "it counts words in uint8"


def test_no_way_for_what_was_set_after_the_fit() -> None:
    words = [f"w{number}" for number in range(1500)]  # so many that a sample misses the strong
    texts = [" ".join(words[start::30]) for start in range(30)]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100)).fit(texts, [0, 1, 1] * 10)
    assert direct(model).way
    model.steps[0][1].sublinear_tf = True  # as norm: the fitted transformer does not know
    assert direct(model).why.startswith("it gives other answers")


def test_a_text_of_its_own_that_is_answered_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pipeline({})
    plain = LogisticRegression.predict_proba
    assert direct(model, ["never"]).way

    def other(self: Any, rows: Any) -> Any:
        found = plain(self, rows)
        found[-1] += 1e-6
        return found

    monkeypatch.setattr(LogisticRegression, "predict_proba", other)
    assert "other answers" in direct(model, ["never"]).why


def test_even_chances_are_scikit_learns() -> None:
    model = pipeline({"norm": None, "use_idf": False}, fit_intercept=False)
    way = direct(model).way
    assert way is not None
    assert way(["unseen words only"]) is None
    assert way(["good"]) is not None


@pytest.mark.parametrize("kind", [RandomForestClassifier, ExtraTreesClassifier])
def test_forests_to_the_last_bit(kind: Any) -> None:
    x, y = load_digits(return_X_y=True)
    forest = kind(12, random_state=1).fit(x[:300], y[:300])
    way = direct(forest).way
    assert way is not None
    assert np.array_equal(way(x[300:400]), forest.predict_proba(x[300:400]))


def test_forests_of_numbers() -> None:
    x, y = load_diabetes(return_X_y=True)
    forest = RandomForestRegressor(12, random_state=1).fit(x, y)
    way = direct(forest).way
    assert way is not None
    assert np.array_equal(way(x), forest.predict(x))


def test_no_way_for_forests_that_answer_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = RandomForestRegressor.predict
    x, y = load_diabetes(return_X_y=True)
    forest = RandomForestRegressor(3, random_state=1).fit(x, y)
    monkeypatch.setattr(RandomForestRegressor, "predict", lambda *given: plain(*given) + 1e-6)
    assert "other answers" in direct(forest).why
    forest.__class__ = type("RandomForestRegressor", (RandomForestRegressor,), {})
    assert direct(forest).why == UNKNOWN
    x, y = load_digits(return_X_y=True)
    two = RandomForestClassifier(3, random_state=0).fit(x[:50], np.c_[y[:50], y[:50]])
    assert direct(two).why == UNKNOWN


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_unusual_rows_are_the_estimators(bad: float) -> None:
    x, y = load_diabetes(return_X_y=True)
    way = direct(RandomForestRegressor(3, random_state=1).fit(x, y)).way
    assert way is not None
    row = x[:1].copy()
    row[0, 0] = bad
    with np.errstate(over="ignore"):
        assert way(row) is None
    assert way(x[:1, :3]) is None
    assert way(x[:1].tolist()) is None
    assert way(x[:1].astype(object)) is None


def test_forests_that_know_missing_values() -> None:
    x, y = load_diabetes(return_X_y=True)
    missing = x.copy()
    missing[y > 200, 2] = np.nan
    forest = RandomForestRegressor(12, random_state=1).fit(missing, y)
    assert any(np.isinf(tree.tree_.threshold).any() for tree in forest.estimators_)
    way = direct(forest).way
    assert way is not None
    assert way(missing) is None
    assert np.array_equal(way(x), forest.predict(x))


def test_frames_of_other_columns_are_the_estimators() -> None:
    frame, y = load_diabetes(return_X_y=True, as_frame=True)
    forest = RandomForestRegressor(3, random_state=1).fit(frame, y)
    way = direct(forest).way
    assert way is not None
    assert np.array_equal(way(frame), forest.predict(frame))
    assert way(frame[frame.columns[::-1]]) is None
    assert way(frame.assign(age="old")) is None
    assert way(frame.assign(age=pd.array([1] * len(frame), dtype="Int64"))) is None


def test_frames_with_bools_are_rounded_once() -> None:
    """2**60 + 2**36 + 1 is nearer to 2**60 + 2**37; as a float64 it is half way to 2**60."""
    whole = np.array([2**60, 2**60 + 2**36 + 1, 2**60 + 2**37] * 20)
    frame = pd.DataFrame({"whole": whole, "odd": np.arange(60) % 2 == 1})
    forest = RandomForestRegressor(5, random_state=1).fit(frame, np.arange(60) % 3)
    way = direct(forest).way
    assert way is not None
    assert np.array_equal(way(frame), forest.predict(frame))


# --- as a model of the runtime -------------------------------------------------------------------


def served(model: Any) -> tuple[SklearnModel, SklearnModel]:
    """The model with its shorter way, and without."""
    output = describe(model)
    return SklearnModel(model, output, direct(model)), SklearnModel(model, output)


@pytest.mark.parametrize("count", [1, 5, 80])
def test_bad_texts_fail_as_with_plain_scikit_learn(count: int) -> None:
    texts: list[Any] = [*TEXTS * 20][:count]
    for place, bad in ((0, None), (3, 7), (4, np.nan), (70, b"\xff")):
        if place < count:
            texts[place] = bad
    short, plain = (isolate(one, texts, count) for one in served(pipeline({})))
    assert list(short[1]) == list(plain[1])
    assert short[2].keys() == plain[2].keys() != set()
    assert [str(error) for error in short[2].values()] == [str(one) for one in plain[2].values()]
    if short[0] is None or plain[0] is None:
        assert short[0] is plain[0]
    else:
        assert np.array_equal(short[0].values, plain[0].values)


@pytest.mark.parametrize("bad", [["a", "b"], [1.0], [[1.0], [2.0]]])
def test_bad_rows_fail_as_with_plain_scikit_learn(bad: Any) -> None:
    x, y = load_diabetes(return_X_y=True)
    model = RandomForestRegressor(3, random_state=1).fit(x, y)
    said = []
    for one in served(model):
        with pytest.raises(ValueError, match=r".") as raised:
            one.predict(np.array(bad))
        said.append(str(raised.value))
    assert said[0] == said[1]


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelVersion]:
    registry = Registry(tmp_path_factory.mktemp("direct"))
    made = release.register("texts", pipeline({}), registry=registry, examples=TEXTS)
    return registry.folder("texts", 1), made


def load(version: tuple[Path, ModelVersion], **recipe: Any) -> Any:
    folder, manifest = version
    return runtimes.load(folder, manifest.model_copy(update={"recipe": recipe}), LoadOptions())


def test_a_version_is_run_the_shorter_way_unless_it_says_otherwise(
    version: tuple[Path, ModelVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("scikit-learn was asked")

    short, plain = load(version), load(version, direct=False)
    assert load(version, direct=0).form == "original"
    old = load(version, direct=True)  # as registered by an earlier celeriac optimize
    assert [short.form, old.form, plain.form] == ["direct", "direct", "original"]
    with pytest.raises(errors.RegistryError, match="asks for quick, which this release"):
        load(version, quick=True)
    monkeypatch.setattr(LogisticRegression, "predict_proba", refuse)
    for one in (short, old):
        assert one.predict(["stale tea"]).values.tolist() == ["c1"]
    with pytest.raises(AssertionError, match="was asked"):
        plain.predict(["stale tea"])
    assert load(version).form.startswith("original: trying it raised AssertionError")


def test_plain_scikit_learn_can_be_asked_for(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    made = release.register("texts", pipeline({}), registry=registry, examples=TEXTS,
                            recipe={"direct": False})
    assert registry.get("texts", made.version).recipe == {"direct": False}
    with pytest.raises(errors.RegistryError, match="asks for quick"):
        release.register("texts", pipeline({}), registry=registry, examples=TEXTS,
                         recipe={"quick": True})
    assert registry.versions("texts") == [1]
