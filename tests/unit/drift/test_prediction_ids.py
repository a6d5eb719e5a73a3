"""Ids of predictions, and labels beside what they say."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac import errors
from celeriac.drift import prediction_ids
from celeriac.drift.labels import from_text, judge
from celeriac.messages import Prediction
from celeriac.registry.manifest import OutputSchema

KEY = b"the installation's"
CLASSES = OutputSchema(kind="classifier", labels=("bad", "good"))
NUMBERED = OutputSchema(kind="classifier", labels=(0, 1, 2))
NUMBER = OutputSchema(kind="regressor")
ANY = OutputSchema(kind="any")


def made(**answer: Any) -> str:
    prediction = Prediction(model="reviews", version=3, **answer)
    return prediction_ids.make(prediction, key=KEY, tenant="shop", now_s=1_700_000_000.5)


@pytest.mark.parametrize(
    "answer", [{"label": "good"}, {"label": 0}, {"label": True}, {"value": 2.5}, {"value": 7}]
)
def test_an_id_says_what_was_predicted(answer: dict[str, Any]) -> None:
    said = prediction_ids.read(made(**answer), key=KEY, tenant="shop")
    assert (said.model, said.version, said.made_s) == ("reviews", 3, 1_700_000_000)
    assert said.predicted == next(iter(answer.values()))


def test_each_answer_has_an_id_of_its_own() -> None:
    assert len({made(label="good") for _ in range(100)}) == 100


def test_ids_can_be_part_of_an_address_and_are_short() -> None:
    text = made(label="good", probability=0.5)
    assert len(text) < 80
    assert set(text) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~"
    )
    longest = Prediction(model="m" * 64, version=999_999_999, label="\U0001f600" * 64)
    text = prediction_ids.make(longest, key=KEY, tenant="shop", now_s=1.7e9)
    assert prediction_ids.read(text, key=KEY, tenant="shop").predicted == longest.label


@pytest.mark.parametrize("answer", [{"label": ["a", "b"]}, {"value": [1.0, 2.0]}, {}])
def test_several_outputs_have_no_single_truth(answer: dict[str, Any]) -> None:
    with pytest.raises(errors.RequestError, match="no single label or number"):
        made(**answer)


@pytest.mark.parametrize("text", [
    "", "p1~", "order-7", "p1~AAAA", "p1~not base64", "p1~" + "A" * 5_000,
    "p1~é", "\x00", "p2~AAAA",
])  # fmt: skip
def test_invented_ids_are_refused(text: str) -> None:
    with pytest.raises(errors.PredictionNotFound, match="no id that was given here"):
        prediction_ids.read(text, key=KEY, tenant="shop")


def test_forged_ids_and_those_of_others_are_refused() -> None:
    text = made(label="good")
    for place in range(4, len(text) - 1):  # of the last character not all bits count
        forged = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1:]
        with pytest.raises(errors.PredictionNotFound):
            prediction_ids.read(forged, key=KEY, tenant="shop")
    for key, tenant in ((KEY, "other"), (b"another", "shop")):
        with pytest.raises(errors.PredictionNotFound):
            prediction_ids.read(text, key=key, tenant=tenant)


@pytest.mark.parametrize(("predicted", "label", "output", "right"), [
    ("good", "good", CLASSES, True), ("good", "bad", CLASSES, False),
    (2, 2.0, NUMBERED, True), (2, 1, NUMBERED, False),
    ("cat", "dog", ANY, False), (True, True, ANY, True),
])  # fmt: skip
def test_a_class_is_right_or_wrong(
    predicted: Any, label: Any, output: OutputSchema, right: bool
) -> None:
    assert judge(predicted, label, output).right is right


def test_long_labels_are_compared_by_their_digest() -> None:
    long = "a class with a name " * 9
    output = OutputSchema(kind="classifier", labels=(long, "other"))
    said = prediction_ids.read(made(label=long), key=KEY, tenant="shop")
    assert isinstance(said.predicted, bytes)
    assert judge(said.predicted, long, output).right is True
    assert judge(said.predicted, "other", output).right is False


def test_a_number_is_more_or_less_off() -> None:
    assert judge(2.5, 4, NUMBER).absolute_error == 1.5
    assert judge(2.5, 4, NUMBER).right is None


@pytest.mark.parametrize(("predicted", "label", "output", "message"), [
    ("good", "great", CLASSES, "'great' is no class of this version; it knows 'bad', 'good'"),
    (1, 10**400, NUMBERED, "10000.* is no class"),
    ("good", 1, CLASSES, "1 is no class"), (1, "1", NUMBERED, "'1' is no class"),
    (1, True, NUMBERED, "True is no class"), ("good", None, CLASSES, "not None"),
    ("good", ["good"], CLASSES, "a label is a text"), (2.5, "4", NUMBER, "answers with numbers"),
    (2.5, True, NUMBER, "answers with numbers"), (2.5, float("nan"), NUMBER, "with numbers"),
    (2.5, 10**400, NUMBER, "with numbers"), (-1e308, 1.7e308, NUMBER, "too far"),
])  # fmt: skip
def test_a_label_that_cannot_be_is_refused(
    predicted: Any, label: Any, output: OutputSchema, message: str
) -> None:
    with pytest.raises(errors.RequestError, match=message) as raised:
        judge(predicted, label, output)
    assert raised.value.field == "label"


def test_labels_from_files_of_texts() -> None:
    assert from_text("2", 1, NUMBERED) == 2
    assert from_text("9", 1, NUMBERED) == "9"
    assert from_text("good", "bad", CLASSES) == "good"
    assert from_text("2.5", 1.0, NUMBER) == 2.5
    assert from_text("many", 1.0, NUMBER) == "many"


def test_labels_as_pandas_writes_them() -> None:
    """A column of whole numbers with a gap is written as 1.0, one of truths as True."""
    truths = OutputSchema(kind="classifier", labels=(False, True))
    assert from_text("1.0", 1, NUMBERED) == 1
    assert from_text("True", False, truths) is True
    assert from_text("false", False, truths) is False


@pytest.mark.parametrize(("predicted", "text", "output"), [
    ("7", "7", ANY), (7, "7", ANY), (True, "True", ANY),
    (7, "7", OutputSchema(kind="classifier")), ("7", "7", OutputSchema(kind="classifier")),
])  # fmt: skip
def test_a_text_is_read_as_what_was_predicted_where_classes_are_not_known(
    predicted: Any, text: str, output: OutputSchema
) -> None:
    judged = judge(predicted, from_text(text, predicted, output), output)
    assert judged.right is True or judged.absolute_error == 0
