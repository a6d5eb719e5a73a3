"""Items and answers of ``celeriac predict``."""

from __future__ import annotations

import io

import pytest

from celeriac import errors
from celeriac.messages import Prediction
from producer.cli.predict import as_line, as_text, read_items, summary


def test_items_are_texts_lines_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo"))
    assert list(read_items(["a", "-", "3"], as_json=False)) == ["a", "one", "two", "3"]
    assert list(read_items(["[1, 2]", '"a"', "null"], as_json=True)) == [[1, 2], "a", None]
    with pytest.raises(errors.InvalidItem, match="'good coffee' is not JSON"):
        list(read_items(["good coffee"], as_json=True))


def test_answers_for_people() -> None:
    def shown(**answer: object) -> str:
        return as_text(Prediction(model="m", version=1, **answer))

    assert shown(label="positive", probability=0.98765) == "positive  0.9877"
    assert shown(label=3) == "3"
    assert shown(label=["a", 1], probability=[0.5, 0.25]) == "[a, 1]  [0.5000, 0.2500]"
    assert shown(value=2.0) == "2.0000"
    assert shown(value={"a": 1}) == '{"a": 1}'
    assert as_text(errors.InvalidItem("too short")) == "error: too short"


def test_answers_for_programs() -> None:
    assert as_line(Prediction(model="m", version=2, label="né")) == (
        '{"model": "m", "version": 2, "label": "né"}'
    )
    assert as_line(errors.InvalidItem("x")) == (
        '{"error": {"code": "item_invalid", "message": "x"}}'
    )


def test_the_summary() -> None:
    answer = Prediction(model="m", version=2, value=1)
    assert summary([answer], 1.25) == "(m@2, 1 item, 1.2 ms)"
    assert summary([answer, errors.ModelFailed()], 3) == "(m@2, 2 items, 3.0 ms)"
