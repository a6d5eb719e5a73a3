"""Labels and probabilities are those of the estimator, however it gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier, StackingClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier

from celeriac.outputs import answers
from celeriac.runtimes.sklearn import SklearnModel, describe

CHANCE = np.random.default_rng(7)
ROWS = CHANCE.normal(size=(300, 6))
LABELS = np.array(["low", "middle", "high"])[np.digitize(ROWS @ CHANCE.normal(size=6), [-1, 1])]


def served(estimator: Any) -> SklearnModel:
    return SklearnModel(estimator, describe(estimator))


@pytest.mark.parametrize(("labels", "solver"), [
    (LABELS, "lbfgs"), (LABELS == "high", "lbfgs"), (LABELS == "high", "liblinear"),
])
def test_its_labels_are_as_it_says_itself(
    labels: Any, solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = LogisticRegression(solver=solver).fit(ROWS, labels)
    far = np.concatenate([ROWS, 1_000 * ROWS])
    expected = fitted.predict(far).tolist()
    monkeypatch.setattr(LogisticRegression, "predict", None)
    assert list(served(fitted).predict(far).values) == expected


def test_other_estimators_say_it_by_themselves() -> None:
    fitted = SGDClassifier(loss="modified_huber", random_state=1).fit(ROWS, LABELS)
    far = 1_000 * ROWS  # where several probabilities are 1 before they are normalised
    assert list(served(fitted).predict(far).values) == fitted.predict(far).tolist()


def test_a_stack_of_several_labels_has_the_probability_of_each_label() -> None:
    """Its own predict_proba gives that of 0, where all others give that of 1."""
    several = np.column_stack([ROWS[:, 0] > 0, ROWS[:, 1] > 0.5]).astype(int)
    stack = StackingClassifier(
        [("tree", DecisionTreeClassifier(max_depth=4, random_state=1))], cv=2,
        final_estimator=RandomForestClassifier(9, random_state=1),
    ).fit(ROWS, several)
    found = served(stack).predict(ROWS)
    last = stack.final_estimator_.predict_proba(stack.transform(ROWS))
    assert found.values.tolist() == stack.predict(ROWS).tolist()
    np.testing.assert_array_equal(found.probabilities, last)
    told = [one["probability"] for one in answers(found, describe(stack), "m", 1)]
    assert np.min(told) >= 0.5


@pytest.mark.parametrize("kind", [MultiOutputClassifier, ClassifierChain])
def test_several_outputs_that_are_one(kind: Any) -> None:
    fitted = kind(LogisticRegression()).fit(ROWS, (ROWS[:, :1] > 0).astype(int))
    output = describe(fitted)
    told = answers(served(fitted).predict(ROWS), output, "m", 1)
    assert [one["label"] for one in told] == fitted.predict(ROWS)[:, 0].tolist()
    own = np.reshape(fitted.predict_proba(ROWS), (len(ROWS), -1))[:, -1]
    of_label = [chance if one["label"] else 1 - chance
                for one, chance in zip(told, own, strict=True)]
    np.testing.assert_allclose([one["probability"] for one in told], of_label)


class _Sampler(BaseEstimator):  # type: ignore[misc]
    """A step that is there for the training only, as imbalanced-learn's: it does not transform."""


def test_a_pipeline_of_another_library_is_asked_itself() -> None:
    class Resampled(Pipeline):  # type: ignore[misc]
        def _validate_steps(self) -> None:
            """Its samplers are none of scikit-learn's steps."""

        def predict(self, rows: Any, **more: Any) -> Any:
            return self.steps[-1][1].predict(rows)

        def predict_proba(self, rows: Any, **more: Any) -> Any:
            return self.steps[-1][1].predict_proba(rows)

    Resampled.__name__ = "Pipeline"
    fitted = LogisticRegression().fit(ROWS, LABELS)
    found = served(Resampled([("sampler", _Sampler()), ("last", fitted)])).predict(ROWS)
    assert list(found.values) == fitted.predict(ROWS).tolist()


def test_a_class_of_ones_own_chooses_its_labels_itself() -> None:
    class Careful(LogisticRegression):  # type: ignore[misc]
        def predict(self, rows: Any) -> Any:
            return self.classes_[(self.predict_proba(rows)[:, 1] > 0.9).astype(int)]

    Careful.__name__ = "LogisticRegression"
    fitted = Careful().fit(ROWS, LABELS == "high")
    expected = fitted.predict(ROWS).tolist()
    assert expected != LogisticRegression.predict(fitted, ROWS).tolist()
    assert list(served(fitted).predict(ROWS).values) == expected
