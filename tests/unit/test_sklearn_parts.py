"""A pipeline's steps are given large arrays in parts, and answer as they would to all at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

from celeriac.registry.manifest import Column, InputSchema, ModelVersion
from celeriac.runtimes import sklearn as runtime
from celeriac.scoring import Scorer

CHANCE = np.random.default_rng(5)
ROWS = CHANCE.standard_normal((1_000, 4))
LABELS = np.where(ROWS[:, 0] > 0, "yes", "no")


class Doubled(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A step that remembers how many bytes it was given."""

    def fit(self, rows: Any, _labels: Any = None) -> Doubled:
        self.width_ = rows.shape[1]
        return self

    def transform(self, rows: Any) -> Any:
        self.given = [*getattr(self, "given", []), getattr(rows, "nbytes", 0)]
        return np.asarray(rows) * 2


def _flat(probabilities: Any) -> Any:
    """Of one output or several; of a regressor, nothing."""
    return np.array([]) if probabilities is None else np.asarray(probabilities)


@pytest.mark.parametrize(("last", "labels"), [
    (LogisticRegression(), LABELS),
    (RandomForestClassifier(5, random_state=0), np.column_stack([LABELS, LABELS == "no"])),
    (Ridge(), ROWS[:, 1]),
])
def test_parts_answer_as_the_whole(
    monkeypatch: pytest.MonkeyPatch, last: Any, labels: Any
) -> None:
    pipeline = make_pipeline(Doubled(), last).fit(ROWS, labels)
    model = runtime.SklearnModel(pipeline, runtime.describe(pipeline))
    whole = model.predict(ROWS)
    pipeline[0].given = []

    monkeypatch.setattr(runtime, "COPY_BYTES", ROWS.nbytes // 3)
    found = model.predict(ROWS)

    assert len(pipeline[0].given) == 4
    assert max(pipeline[0].given) <= ROWS.nbytes // 3
    if whole.values.dtype.kind == "f":
        np.testing.assert_allclose(found.values, whole.values)
    else:
        assert found.values.tolist() == whole.values.tolist()
    of_parts, of_all = _flat(found.probabilities), _flat(whole.probabilities)
    np.testing.assert_allclose(of_parts, of_all)


def test_few_rows_and_what_is_no_array_are_given_whole() -> None:
    pipeline = make_pipeline(Doubled(), Ridge()).fit(ROWS, ROWS[:, 1])
    model = runtime.SklearnModel(pipeline, runtime.describe(pipeline))
    pipeline[0].given = []
    model.predict(ROWS)
    model.predict(ROWS.tolist())
    assert pipeline[0].given == [ROWS.nbytes, 0]


def test_a_table_is_put_together_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make_pipeline(Doubled(), LogisticRegression()).fit(ROWS, LABELS)
    output = runtime.describe(pipeline)
    schema = InputSchema(
        kind="table", dtype="float64", columns=tuple(Column(name=name) for name in "abcd")
    )
    version = ModelVersion(
        name="m", version=1, format="sklearn", files=(), created_at="", golden=(), input=schema,
        output=output,
    )
    cells = ROWS.copy()
    cells[700, 2] = np.inf
    table = pa.table(dict(zip("abcd", cells.T, strict=True)))
    whole = Scorer(version, runtime.SklearnModel(pipeline, output)).score_table(table)
    pipeline[0].given = []

    monkeypatch.setattr(runtime, "COPY_BYTES", ROWS.nbytes // 3)
    found = Scorer(version, runtime.SklearnModel(pipeline, output)).score_table(table)

    assert len(pipeline[0].given) == 4
    assert list(found.errors) == list(whole.errors) == [700]
    assert found.columns["prediction"] == whole.columns["prediction"]
    np.testing.assert_allclose(found.columns["probability"].to_numpy(zero_copy_only=False),
                               whole.columns["probability"].to_numpy(zero_copy_only=False))
