from __future__ import annotations

import json

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from celeriac import errors
from celeriac.messages import Prediction
from celeriac.outputs import Output, answer_columns, answers, concat, table_answers
from celeriac.registry.manifest import OutputSchema

CLASSIFIER = OutputSchema(kind="classifier", labels=("no", "yes"), probabilities=True)
LABELS_ONLY = OutputSchema(kind="classifier", labels=(-1, 1))
NUMBER = OutputSchema(kind="regressor")
NUMBERS = OutputSchema(kind="regressor", outputs=2)
SEVERAL = OutputSchema(
    kind="classifier", labels=(("a", "b"), (0, 1, 2)), outputs=2, probabilities=True
)
NAMED = {"model": "m", "version": 3}


def test_a_classifier_answers_label_and_its_probability() -> None:
    output = Output(
        values=np.array(["yes", "no"]), probabilities=np.array([[0.2, 0.8], [0.6, 0.4]])
    )
    found = answers(output, CLASSIFIER, "m", 3)
    assert found == [
        {**NAMED, "label": "yes", "probability": 0.8}, {**NAMED, "label": "no", "probability": 0.6},
    ]
    assert Prediction.from_wire(found[0]).to_wire() == found[0]


def test_the_probability_is_that_of_the_label_even_if_another_is_higher() -> None:
    output = Output(values=np.array(["no"]), probabilities=np.array([[0.2, 0.8]]))
    assert answers(output, CLASSIFIER, "m", 3)[0]["probability"] == 0.2


def test_numbers_are_plain() -> None:
    found = answers(Output(values=np.array([1.5, 2], np.float32)), NUMBER, "m", 3)
    assert [type(answer["value"]) for answer in found] == [float, float]
    found = answers(Output(values=np.array([-1, 1])), LABELS_ONLY, "m", 3)
    assert found[0] == {**NAMED, "label": -1}


def test_several_outputs_answer_with_lists() -> None:
    output = Output(
        values=np.array([["a", 2], ["b", 0]], dtype=object),
        probabilities=[np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([[0, 0, 1], [1, 0, 0.0]])],
    )
    assert answers(output, SEVERAL, "m", 3) == [
        {**NAMED, "label": ["a", 2], "probability": [0.9, 1.0]},
        {**NAMED, "label": ["b", 0], "probability": [0.7, 1.0]},
    ]
    found = answers(Output(values=np.array([[1.0, 2.0]])), NUMBERS, "m", 3)
    assert found == [{**NAMED, "value": [1.0, 2.0]}]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_json_cannot_hold_is_an_error_of_its_item(bad: float) -> None:
    found = answers(Output(values=np.array([bad, 1.0])), NUMBER, "m", 3)
    assert found[0]["error"]["code"] == "output_not_finite"
    assert found[1]["value"] == 1.0
    found = answers(Output(values=np.array([[1.0, bad]])), NUMBERS, "m", 3)
    assert found[0]["error"]["code"] == "output_not_finite"
    output = Output(values=np.array(["no"]), probabilities=np.array([[bad, bad]]))
    assert answers(output, CLASSIFIER, "m", 3)[0]["error"]["code"] == "output_not_finite"


@pytest.mark.parametrize("bad", [np.nan, {"score": np.inf}, {1, 2}, {1: "a"}, "\ud800", ["\udfff"]])
def test_an_answer_that_no_reply_can_hold_spoils_no_other(bad: object) -> None:
    """The lane replied to nobody whose item was in the same batch."""
    values = [bad, np.float64(0.1), {"name": np.str_("a")}]
    found = answers(Output(values=values), OutputSchema(kind="any"), "m", 3)
    assert found[0]["error"]["code"] == "output_not_finite"
    told = [answer["value"] for answer in json.loads(msgspec.json.encode(found))[1:]]
    assert told == [0.1, {"name": "a"}]


@pytest.mark.parametrize("bad", [np.nan, {"score": np.inf}, {1, 2}, {1: "a"}, "\ud800", ["\udfff"]])
def test_what_json_cannot_hold_is_an_error_of_its_row(bad: object) -> None:
    """It ended the chunk, with all its rows."""
    found = table_answers(Output(values=["a", bad]), OutputSchema(kind="any"), [0, 2], {}, 3)
    assert found.columns["prediction"].to_pylist() == ['"a"', None, None]
    assert {row: error.code for row, error in found.errors.items()} == {2: "output_not_finite"}


def test_a_label_that_is_not_the_models_is_an_error() -> None:
    output = Output(values=np.array(["maybe"]), probabilities=np.array([[0.5, 0.5]]))
    assert answers(output, CLASSIFIER, "m", 3)[0]["error"]["code"] == "model_failed"


def test_columns_of_a_table() -> None:
    output = Output(
        values=np.array(["yes", "no", "maybe"]),
        probabilities=np.array([[0.2, 0.8], [np.nan, np.nan], [0.5, 0.5]]),
    )
    failed = {1: errors.InvalidItem("empty")}
    table = table_answers(output, CLASSIFIER, [0, 2, 3], failed, 4)
    assert list(table.columns) == answer_columns(CLASSIFIER) == ["prediction", "probability"]
    assert table.columns["prediction"].to_pylist() == ["yes", None, None, None]
    assert table.columns["probability"].to_pylist() == [0.8, None, None, None]
    assert {row: error.code for row, error in table.errors.items()} == {
        1: "item_invalid", 2: "output_not_finite", 3: "model_failed",
    }


def test_columns_of_several_outputs() -> None:
    assert answer_columns(SEVERAL) == [
        "prediction_0", "probability_0", "prediction_1", "probability_1",
    ]
    table = table_answers(Output(values=np.array([[1.0, 2.0]])), NUMBERS, [1], {}, 2)
    assert {name: cells.to_pylist() for name, cells in table.columns.items()} == {
        "prediction_0": [None, 1.0], "prediction_1": [None, 2.0],
    }


@pytest.mark.parametrize("schema", [CLASSIFIER, LABELS_ONLY, NUMBER, NUMBERS, SEVERAL,
                                    OutputSchema(kind="any"),
                                    OutputSchema(kind="classifier", labels=("a", 1))])
def test_types_of_columns_do_not_depend_on_the_rows(schema: OutputSchema) -> None:
    nothing = table_answers(None, schema, [], {0: errors.InvalidItem("x")}, 1)
    assert all(cells.to_pylist() == [None] for cells in nothing.columns.values())
    expected = {
        "classifier": pa.string() if "no" in schema.labels or "a" in schema.labels else pa.int64(),
        "regressor": pa.float64(), "any": pa.string(),
    }
    if schema is not SEVERAL:
        assert nothing.columns[answer_columns(schema)[0]].type == expected[schema.kind]


def test_an_item_as_answer_is_json_text_in_a_table() -> None:
    table = table_answers(Output(values=[{"a": "ü"}]), OutputSchema(kind="any"), [0], {}, 1)
    assert json.loads(table.columns["prediction"][0].as_py()) == {"a": "ü"}


def test_parts_join_in_order() -> None:
    parts = [
        Output(values=np.array([["a", 1]], object), probabilities=[np.eye(2)[:1], np.eye(3)[:1]]),
        Output(values=np.array([["b", 2]], object), probabilities=[np.eye(2)[1:], np.eye(3)[2:]]),
    ]
    whole = concat(parts)
    assert whole.values.tolist() == [["a", 1], ["b", 2]]
    assert isinstance(whole.probabilities, list)
    assert whole.probabilities[1].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert concat([Output(values=[1]), Output(values=["x"])]).values == [1, "x"]


@pytest.mark.parametrize("labels", [(3, 1, 2), (7,), (0, 1)])
def test_many_whole_numbers_are_looked_up_as_few_are(labels: tuple[int, ...]) -> None:
    schema = OutputSchema(kind="classifier", labels=labels)
    values = np.random.default_rng(0).integers(-1, 9, 1_000)
    many = table_answers(Output(values=values), schema, range(1_000), {}, 1_000)
    few = [
        table_answers(Output(values=values[at : at + 100]), schema, range(100), {}, 100)
        for at in range(0, 1_000, 100)
    ]
    assert many.columns["prediction"].to_pylist() == [
        label for part in few for label in part.columns["prediction"].to_pylist()
    ]
    assert [*many.errors] == [row for row in range(1_000) if values[row] not in labels]
