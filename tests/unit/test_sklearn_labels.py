"""A logistic regression is asked once: its labels are those of its probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, SGDClassifier

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
