from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from celeriac import errors
from celeriac.outputs import Output
from celeriac.registry.manifest import (
    Column,
    GoldenExample,
    InputSchema,
    ModelVersion,
    OutputSchema,
)
from celeriac.scoring import Scorer, same_answer


class Fussy:
    """Answers the length of a text; raises if a text of the batch is poison."""

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, inputs: Any) -> Output:
        self.calls += 1
        if "memory" in inputs or (len(inputs) > 64 and "heavy" in inputs):
            raise MemoryError
        for text in inputs:
            if text.startswith("poison"):
                raise ValueError(f"cannot read /srv/models/secret/file.txt: {text}\nmore")
        return Output(values=np.array([float(len(text)) for text in inputs]))


def scorer(model: Any, golden: tuple[GoldenExample, ...] = ()) -> Scorer:
    manifest = ModelVersion(
        name="m", version=2, format="echo", files=(), created_at="", golden=golden,
        input=InputSchema(kind="text", columns=(Column(name="text", dtype="text"),)),
        output=OutputSchema(kind="regressor"),
    )
    return Scorer(manifest, model)


def test_only_the_poisoned_items_fail() -> None:
    texts = [f"text {number}" for number in range(200)]
    texts[0] = texts[77] = texts[199] = "poison"
    model = Fussy()
    found = scorer(model).score(texts)
    failed = [number for number, answer in enumerate(found) if "error" in answer]
    assert failed == [0, 77, 199]
    assert all(found[n]["value"] == len(texts[n]) for n in range(200) if n not in failed)
    assert model.calls < 60
    assert found[77]["error"] == {
        "code": "model_failed",
        "message": "the model raised ValueError: cannot read file.txt: poison",
    }


def test_errors_of_schema_and_model_keep_their_places() -> None:
    found = scorer(Fussy()).score(["a", 3, "poison", "bb"])
    assert [answer.get("value", answer.get("error", {}).get("code")) for answer in found] == [
        1.0, "item_invalid", "model_failed", 2.0,
    ]


def test_too_little_memory_halves_the_batch() -> None:
    found = scorer(Fussy()).score(["heavy"] * 200)
    assert [answer["value"] for answer in found] == [5.0] * 200
    found = scorer(Fussy()).score(["a", "memory"])
    assert found[0]["value"] == 1.0
    assert found[1]["error"]["code"] == "resource_exhausted"


def test_passes_keep_the_cap_and_a_failure_outside_the_model_is_taken_apart() -> None:
    found = scorer(Fussy())
    sizes = []
    score = found.score

    def fragile(items: Any) -> list[dict[str, Any]]:
        sizes.append(len(items))
        if "large" in items:
            raise MemoryError
        if "odd" in items:
            raise KeyError("somewhere")
        return score(items)

    found.score = fragile  # type: ignore[method-assign]
    items = ["a"] * 30
    items[3], items[17] = "large", "odd"
    answers = found.answer(items, 8)
    assert max(sizes) == 8
    assert [answer.get("value", answer.get("error", {}).get("code")) for answer in answers] == [
        {3: "resource_exhausted", 17: "worker_failed"}.get(n, 1.0) for n in range(30)
    ]
    assert found.answer([], 8) == []


def test_a_model_that_always_fails_is_not_asked_thousands_of_times() -> None:
    model = Fussy()
    found = scorer(model).score(["poison"] * 10_000)
    assert {answer["error"]["code"] for answer in found} == {"model_failed"}
    assert "ValueError" in found[0]["error"]["message"]
    assert model.calls < 30


def test_nobody_reads_of_the_items_of_others() -> None:
    found = scorer(Fussy()).score([f"poison of {number}" for number in range(200)])
    messages = {answer["error"]["message"] for answer in found}
    assert messages == {"the model fails with every item; send one alone for the reason"}


def test_a_table_is_isolated_as_items_are() -> None:
    texts = [f"text {number}" for number in range(300)]
    texts[5] = "poison"
    table = pa.table({"text": [*texts, None]})
    scored = scorer(Fussy()).score_table(table)
    assert sorted(scored.errors) == [5, 300]
    assert scored.columns["prediction"].to_pylist() == [
        None if number == 5 else float(len(text)) for number, text in enumerate(texts)
    ] + [None]


def test_a_table_of_bad_rows_only() -> None:
    scored = scorer(Fussy()).score_table(pa.table({"text": ["poison", None]}))
    assert sorted(scored.errors) == [0, 1]
    assert scored.columns["prediction"].to_pylist() == [None, None]


def test_a_time_limit_is_no_failure_of_an_item() -> None:
    limit = type("SoftTimeLimitExceeded", (Exception,), {})

    class Slow:
        def predict(self, inputs: Any) -> Output:
            raise limit

    with pytest.raises(limit):
        scorer(Slow()).score(["a"])


def test_golden_examples() -> None:
    good = GoldenExample(item="abc", answer={"value": 3.0})
    scorer(Fussy(), (good,)).check_golden()
    bad = GoldenExample(item="abc", answer={"value": 4.0})
    with pytest.raises(errors.PromotionRefused) as refused:
        scorer(Fussy(), (good, bad)).check_golden()
    assert refused.value.message == (
        "m@2: golden example 2 of 2 should answer {'value': 4.0}; it answered {'value': 3.0}"
    )


def test_a_version_is_warmed_with_one_item_too() -> None:
    class Counting(Fussy):
        def predict(self, inputs: Any) -> Output:
            sizes.append(len(inputs))
            return super().predict(inputs)

    sizes: list[int] = []
    good = GoldenExample(item="abc", answer={"value": 3.0})
    scorer(Counting(), (good, good, good)).warm()
    assert sizes == [3, 1]
    poison = GoldenExample(item="poison", answer={"value": 6.0})
    scorer(Fussy(), (poison, good)).warm()  # promotion is where each answer counts
    with pytest.raises(errors.RegistryError, match="m@2: it answers none of its golden examples"):
        scorer(Fussy(), (poison, poison)).warm()
    scorer(Fussy()).warm()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"value": 1.0}, {"value": 1.00005, "model": "m", "version": 1}, True),
        ({"value": 1.0}, {"value": 1.001}, False),
        ({"value": 0.0}, {"value": 1e-7}, True),
        ({"value": [1.0, 2.0]}, {"value": [1.0, 2.5]}, False),
        ({"value": [1.0]}, {"value": [1.0, 2.0]}, False),
        ({"label": "a", "probability": 0.5}, {"label": "a", "probability": 0.50001}, True),
        ({"label": "a"}, {"label": "b"}, False),
        ({"label": 1}, {"label": 1, "probability": 0.5}, False),
        ({"value": 1.0}, {"error": {"code": "x", "message": "y"}}, False),
    ],
)
def test_when_answers_agree(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    assert same_answer(one, other) is same


def test_overhead_of_a_batch_of_texts_is_small() -> None:
    class Free:
        def predict(self, inputs: Any) -> Output:
            return Output(values=np.zeros(len(inputs)))

    fast, texts = scorer(Free()), ["Best coffee I ever bought"] * 32
    fast.score(texts)
    best = min(_elapsed_s(fast, texts) for _ in range(50))
    assert best < 0.001  # measured: 0.00005


def _elapsed_s(subject: Scorer, texts: list[str]) -> float:
    start = time.perf_counter()
    subject.score(texts)
    return time.perf_counter() - start
