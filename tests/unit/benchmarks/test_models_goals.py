"""The rows of the benchmark of models: which figure is held against which goal."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from benchmarks import models
from benchmarks.harness import plot
from benchmarks.models import DELAYS, DIGITS, FILMS, FOREST, TEXT, HeldOut, Results
from celeriac.optimize.optimising import Found, Line
from celeriac.optimize.parity import Parity

SWAPS = {"megabytes": 100, "workers": 2, "requests": 900, "failed": 0,
         "rounds": [{"spread_s": 1.0, "command_s": 4.0, "rollback_s": 1.2},
                    {"spread_s": 1.5, "command_s": 3.0, "rollback_s": 1.1}]}


def found(name: str, **forms_ms: float) -> Found:
    """Each form takes so long for one item, and as long for each of a larger batch."""
    lines = [
        Line(name=form, what="", threads=1, verdict="original" if form == "original" else "winner",
             predict_ms={size: ms * size for size in (1, 32, 128)}, mean_speedup=1.0,
             parity=Parity(samples=10, agreement=1.0, error=0.0, metric=0.75))
        for form, ms in forms_ms.items()
    ]
    return Found(model=f"{name}@1", machine="m", device="cpu", threads=1, samples=10,
                 golden_only=False, measured_at="now", lines=lines, winner=lines[-1].name)


def results(forest_ms: float = 0.05) -> Results:
    return Results(
        found={FOREST: found(FOREST, original=6.0, onnx=forest_ms),
               TEXT: found(TEXT, original=0.9, direct=0.1),
               FILMS: found(FILMS, original=0.9, direct=0.1),
               DELAYS: found(DELAYS, original=3.0),
               DIGITS: found(DIGITS, original=0.3, onnx=0.1)},
        plain_ms={FOREST: 5.0, TEXT: 0.6}, swaps=SWAPS,
    )


def test_all_goals_are_met() -> None:
    rows = list(models.goals(results()))
    assert all(row.met for row in rows if row.goal)
    assert len([row for row in rows if row.goal]) == 10
    by_name = {row.measure: row for row in rows}
    assert by_name["random forest, 100 trees, one row: onnx"].ratio == 100
    assert by_name["command to flip, 100 MB, 2 workers"].value == 4.0  # the slowest
    assert by_name["alias flip to served everywhere, 100 MB, 2 workers"].value == 1.5


def test_a_goal_that_is_missed_is_told() -> None:
    missed = [row.measure for row in models.goals(results(forest_ms=1.0)) if row.met is False]
    assert missed == ["random forest, 100 trees, one row: onnx"]


def test_every_model_of_the_demonstration_has_its_rows_its_table_and_its_panels(
    tmp_path: Path
) -> None:
    rows = list(models.goals(results()))
    text = models.document(rows, results())
    plot.models(results().found, tmp_path / "models.svg")
    drawn = ElementTree.parse(tmp_path / "models.svg").getroot()
    panels = ElementTree.tostring(drawn, encoding="unicode")
    for name in (FOREST, TEXT, FILMS, DELAYS, DIGITS):
        assert any(row.measure.startswith(f"{name}, batch of 1: ") for row in rows)
        assert f"`{name}@1`, 10 held-out samples, one thread" in text
        assert f"{name}: items/s" in panels
        assert f"{name}: ms for a batch" in panels
    assert "| accuracy |" in text
    assert "| 0.7500 |" in text


def test_samples_come_from_all_parts_of_the_held_out_data() -> None:
    some = HeldOut.of(range(2_500), range(2_500))
    assert some.items == some.labels == list(range(0, 2_500, 3))
    assert HeldOut.of([1, 2], "ab") == HeldOut(items=[1, 2], labels=["a", "b"])
