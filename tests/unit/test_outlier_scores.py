"""Outlier detectors that answer with scores: through files too, and the higher the stranger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from celeriac import errors, release
from celeriac.registry.store import Registry


def test_an_outlier_detector_answers_with_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(300, 3))
    forest = make_pipeline(StandardScaler(), IsolationForest(n_estimators=20, random_state=1))
    forest.fit(rows)
    version = release.register(
        "forest", forest, examples=rows, kind="regressor", registry=Registry(tmp_path),
        metrics={"anomaly_threshold": 0.6},
    )
    assert (version.output.kind, version.output.labels) == ("regressor", ())
    values = [example.answer["value"] for example in version.golden]
    items = np.array([example.item for example in version.golden])
    assert values == pytest.approx((-forest.score_samples(items)).tolist())
    strange = -forest.score_samples(np.full((1, 3), 9.0))
    assert strange > max(values)


def test_a_classifier_has_no_scores(tmp_path: Path) -> None:
    rows = np.array([[0.0], [1.0]])
    model = LogisticRegression().fit(rows, [0, 1])
    with pytest.raises(errors.RegistryError, match="is a classifier"):
        release.register(
            "m", model, examples=rows, kind="regressor", registry=Registry(tmp_path)
        )
