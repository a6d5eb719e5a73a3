"""Whether another form is the same model, and whether it is worth having."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from celeriac import errors, release
from celeriac.optimize import choosing
from celeriac.optimize.optimising import Optimiser, Wanted
from celeriac.optimize.parity import Allowed, check_labels, compare, golden_problem
from celeriac.optimize.variants import ORIGINAL
from celeriac.outputs import Output
from celeriac.registry.manifest import OutputSchema
from celeriac.registry.store import Registry
from celeriac.runtimes import LoadOptions

CLASSES = OutputSchema(kind="classifier", labels=("a", "b"), probabilities=True)
NUMBERS = OutputSchema(kind="regressor")


def answers(*chances: float) -> Output:
    second = np.array(chances)
    return Output(values=np.where(second > 0.5, "b", "a"),
                  probabilities=np.column_stack([1 - second, second]))


@pytest.mark.parametrize(
    ("other", "allowed", "problem"),
    [
        ((0.1, 0.9, 0.6), Allowed(), ""),
        ((0.1, 0.9, 0.605), Allowed(), ""),
        ((0.1, 0.9, 0.62), Allowed(), "off by 0.02; 0.01 is allowed"),
        ((0.1, 0.9, 0.61 + 1e-7), Allowed(), ""),  # one tree of 100, in float32
        ((0.1, 0.9, 0.6 + 1e-7), Allowed(error=1e-9), "off by 1e-07; 1e-09 is allowed"),
        ((0.1, 0.9, 0.62), Allowed(error=0.05), ""),
        ((0.1, 0.9, 0.4), Allowed(error=1), "other labels for 1 of 3 samples"),
        ((0.1, 0.9, 0.4), Allowed(error=1, agreement=0.5), ""),
        ((0.1, 0.9, math.nan), Allowed(agreement=0), "off by nan"),
        ((0.1, 0.9), Allowed(), "gives 2 answers"),
    ],
)
def test_labels_and_probabilities(
    other: tuple[float, ...], allowed: Allowed, problem: str
) -> None:
    found = compare(answers(0.1, 0.9, 0.6), answers(*other), CLASSES, allowed)
    assert found.problem.startswith(problem)
    assert bool(found.problem) == bool(problem)


YES = {"label": "yes", "probability": 0.8}
FAILED = {"error": {"code": "model_failed", "message": "it raised"}}


@pytest.mark.parametrize(("before", "after", "allowed", "problem"), [
    (YES, YES | {"probability": 0.805}, Allowed(), ""),
    (YES, YES | {"probability": 0.7}, Allowed(), "off by 0.1 with a golden example; 0.01 is"),
    (YES, YES | {"label": "no"}, Allowed(), "other labels for 1 of 2 golden examples"),
    (YES, YES | {"label": "no"}, Allowed(agreement=0.9), ""),
    (YES, FAILED, Allowed(agreement=0), "golden example 2 fails: it raised"),
    (FAILED, FAILED, Allowed(), ""),
    ({"label": [1, 0], "probability": [0.9, 0.8]}, {"label": [1, 0], "probability": [0.9, 0.7]},
     Allowed(), "off by 0.1 "),
    ({"value": 1.0}, {"value": 1.1}, Allowed(), ""),
])
def test_golden_answers(before: Any, after: Any, allowed: Allowed, problem: str) -> None:
    found = golden_problem([YES, before], [YES, after], allowed)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_a_form_that_agrees_on_the_samples_and_not_on_golden_examples_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a graph whose tokenizer knows no umlauts, where no sample has any."""
    registry = Registry(tmp_path / "models")
    release.register("m", "echo", examples=["a"], registry=registry)
    optimiser = Optimiser(
        registry, "m", 1, options=LoadOptions(), wanted=Wanted(), items=["a", "b", "c"]
    )
    same = answers(0.1, 0.9, 0.6)
    monkeypatch.setattr("celeriac.optimize.optimising.read_answers", lambda _: same)
    optimiser._work = tmp_path
    optimiser._measured = {
        ORIGINAL: SimpleNamespace(golden=[YES]),  # type: ignore[dict-item]
        "onnx": SimpleNamespace(golden=[YES | {"label": "no"}]),  # type: ignore[dict-item]
    }
    assert optimiser._parity(same, ORIGINAL).problem == ""
    assert optimiser._parity(same, "onnx").problem == "other labels for 1 of 1 golden examples"


def test_accuracy_may_not_fall() -> None:
    allowed = Allowed(agreement=0.5, error=1)
    before, after = answers(0.1, 0.9, 0.6), answers(0.1, 0.9, 0.4)
    worse = compare(before, after, CLASSES, allowed, ["a", "b", "b"])
    assert (worse.metric_before, worse.metric) == (1.0, pytest.approx(2 / 3))
    assert worse.problem == "accuracy falls from 1.0000 to 0.6667"
    better = compare(before, after, CLASSES, allowed, ["a", "b", "a"])
    assert better.problem == ""
    tolerant = Allowed(agreement=0.5, error=1, metric_drop=0.5)
    assert compare(before, after, CLASSES, tolerant, ["a", "b", "b"]).problem == ""


def test_labels_that_differ_in_type_are_compared_as_texts() -> None:
    one = Output(values=np.array([3, 4]))
    found = compare(one, one, OutputSchema(kind="classifier", labels=(3, 4)), Allowed(), ["3", "4"])
    assert found.metric == 1.0


@pytest.mark.parametrize(
    ("values", "labels"),
    [([3, 4], [3.0, 4.0]), ([3, 4], ["3.0", "4"]), (["3", "4"], [3.0, 4.0]), ([True], ["True"])],
)
def test_a_label_read_as_another_kind_of_number_is_the_same(values: Any, labels: Any) -> None:
    one = Output(values=np.array(values))
    schema = OutputSchema(kind="classifier", labels=tuple(values))
    assert compare(one, one, schema, Allowed(), labels).metric == 1.0
    other = Output(values=one.values[::-1])
    assert len(values) == 1 or compare(other, one, schema, Allowed(), labels).metric_before == 0.0


def test_r2_of_a_regressor_may_not_fall() -> None:
    before = Output(values=np.array([0.0, 1.0, 2.0]))
    near = Output(values=np.array([0.0, 1.0, 2.005]))
    right = ["0", "1", "2"]
    found = compare(before, near, NUMBERS, Allowed(), right)
    assert (found.metric_before, found.metric) == (1.0, pytest.approx(1 - 0.005**2 / 2))
    assert found.problem == ""  # within the error that is allowed
    far = Output(values=np.array([0.0, 1.0, 3.0]))
    assert compare(before, far, NUMBERS, Allowed(error=0.2), right).problem.startswith("off by")
    found = compare(before, Output(values=np.array([0.3, 1.3, 2.3])), NUMBERS,
                    Allowed(error=0.4, metric_drop=-0.3), right)
    assert found.problem == "R2 falls from 1.0000 to 0.8650"
    assert compare(before, near, NUMBERS, Allowed(), [1, 1, 1]).metric is None


def test_labels_that_say_nothing_are_refused() -> None:
    check_labels(NUMBERS, [1, "2.5"])
    check_labels(CLASSES, ["a", "b"])
    with pytest.raises(errors.RequestError, match="one of these is 'much'"):
        check_labels(NUMBERS, [1, "much"])
    with pytest.raises(errors.RequestError, match="this one has 2"):
        check_labels(OutputSchema(kind="regressor", outputs=2), [1, 2])


def test_each_output_has_its_own_spread() -> None:
    before = np.array([[0.0, 0.0, 7.0], [1000.0, 0.001, 7.0]])
    after = before + np.array([0.0, 0.0005, 0.0])
    schema = OutputSchema(kind="regressor", outputs=3)
    found = compare(Output(values=before), Output(values=after), schema, Allowed())
    assert found.error == pytest.approx(1.0)
    same = compare(Output(values=before), Output(values=before), schema, Allowed())
    assert same.error == 0.0
    # of a constant output, whose spread is rounding alone, the values themselves count
    thirds = np.full(7, 0.1)
    found = compare(Output(values=thirds), Output(values=thirds + 1e-9), NUMBERS, Allowed())
    assert found.error == pytest.approx(1e-9)


def test_numbers_are_compared_in_shares_of_their_spread() -> None:
    before = Output(values=np.array([0.0, 100.0, 200.0]))
    near = compare(before, Output(values=np.array([0.5, 100.0, 200.0])), NUMBERS, Allowed())
    assert near.problem == ""
    assert near.error == pytest.approx(0.5 / np.std([0, 100, 200]))
    far = compare(before, Output(values=np.array([2.0, 100.0, 200.0])), NUMBERS, Allowed())
    assert far.problem.startswith("off by")


def test_several_outputs_and_none_of_probabilities() -> None:
    schema = OutputSchema(kind="classifier", labels=((0, 1), (0, 1)), outputs=2,
                          probabilities=True)
    one = answers(0.1, 0.9).probabilities
    shifted = answers(0.1, 0.93).probabilities
    values = np.array([[0, 0], [1, 1]])
    found = compare(Output(values=values, probabilities=[one, one]),
                    Output(values=values, probabilities=[one, shifted]), schema, Allowed())
    assert found.error == pytest.approx(0.03)
    lost = compare(Output(values=values, probabilities=[one, one]), Output(values=values),
                   schema, Allowed())
    assert lost.problem.startswith("off by nan")


@pytest.mark.parametrize(
    ("other_ms", "expected"),
    [
        ({1: 0.5, 32: 4.0}, "faster"),
        ({1: 0.5, 32: 10.5}, "faster"),  # 0.95 x is noise
        ({1: 0.1, 32: 12.0}, "slower"),  # however much is gained elsewhere
        ({1: 0.98, 32: 9.5}, "no gain"),
        ({1: 1.0, 32: 10.0}, "no gain"),
    ],
)
def test_what_the_times_say(other_ms: dict[int, float], expected: str) -> None:
    found = choosing.gain({1: 1.0, 32: 10.0}, other_ms)
    assert choosing.verdict(found)[0] == expected


def test_bad_luck_is_measured_again_and_a_loss_is_not() -> None:
    base = {1: 1.0, 32: 10.0}
    assert choosing.is_doubtful(choosing.gain(base, {1: 0.1, 32: 12.0}))
    assert not choosing.is_doubtful(choosing.gain(base, {1: 0.1, 32: 40.0}))
    assert not choosing.is_doubtful(choosing.gain(base, {1: 0.1, 32: 8.0}))


def test_the_winner_gains_most_in_the_mean() -> None:
    base = {1: 1.0, 32: 10.0}
    gains = {
        "good at one": choosing.gain(base, {1: 0.1, 32: 10.0}),
        "good at all": choosing.gain(base, {1: 0.2, 32: 2.0}),
        "slower": choosing.gain(base, {1: 0.001, 32: 20.0}),
    }
    assert choosing.winner(gains) == "good at all"
    assert choosing.winner({"slower": gains["slower"]}) is None
    assert choosing.winner({}) is None


@pytest.mark.parametrize(
    ("fixed", "item"), [(0.001, 0.0001), (0.0, 0.002), (0.004, 0.0)]
)
def test_the_cost_line_is_found_again(fixed: float, item: float) -> None:
    seconds = {size: fixed + item * size for size in (1, 8, 32, 128)}
    found: Any = choosing.cost_line(seconds)
    assert found == (pytest.approx(fixed, abs=1e-9), pytest.approx(item, abs=1e-9))


def test_neither_part_of_the_line_is_negative() -> None:
    assert choosing.cost_line({1: 0.001, 8: 0.02, 32: 0.5})[0] == 0.0
    assert choosing.cost_line({1: 0.1, 32: 0.01})[1] == 0.0
    assert choosing.cost_line({4: 0.008}) == (0.004, 0.001)


def test_what_a_gain_is_over_is_named() -> None:
    found = choosing.gain({1: 1.0, 8: 2.0}, {1: 2.0, 8: 1.0})
    assert choosing.verdict(found, "direct") == ("slower", "0.50 x of direct at batches of 1")
    same = choosing.gain({1: 1.0}, {1: 1.0})
    assert choosing.verdict(same, "direct")[1] == "1.00 x of direct in the mean"
    assert choosing.verdict(same)[1] == "1.00 x in the mean"
