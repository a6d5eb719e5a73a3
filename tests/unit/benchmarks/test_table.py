"""Rows: ratios, goals, and the form for other programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.harness import table
from benchmarks.harness.load import SHARES
from benchmarks.harness.points import Measured, median


def test_a_goal_is_a_bound_on_the_ratio() -> None:
    row = table.compared("rate", 500, "items/s", "plain", 100, at_least=5)
    assert (row.ratio, row.goal, row.met) == (5, ">= 5", True)
    row = table.compared("wait", 3, "ms", "plain", 1, at_most=2)
    assert (row.ratio, row.goal, row.met) == (3, "<= 2", False)
    row = table.compared("wait", 3, "ms", "plain", 1)
    assert (row.goal, row.met) == ("", None)


def test_rows_are_saved_for_other_programs(tmp_path: Path) -> None:
    rows = [table.compared("rate", 500, "items/s", "plain", 100, at_least=5)]
    table.save(rows, tmp_path / "out" / "rows.json", {"command": "scripts/bench x"})
    saved = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert saved["rows"][0] | {"against": ""} == {
        "measure": "rate", "value": 500, "unit": "items/s", "against": "", "baseline": 100,
        "ratio": 5, "goal": ">= 5", "met": True,
    }
    assert saved["machine"]["packages"]["celery"]


@pytest.mark.parametrize(("value", "text"), [(12_345.6, "12,346"), (0.12345, "0.123"), (9, "9")])
def test_figures_have_three_digits_that_count(value: float, text: str) -> None:
    assert table.figure(value) == text


def test_the_median_is_taken_figure_by_figure() -> None:
    rounds = [
        Measured(per_s=rate, calls=int(rate), late=0, quantiles_ms=[rate] * len(SHARES),
                 cpu_us={"client": rate}, worker_bytes=1)
        for rate in (30.0, 10.0, 20.0)
    ]
    found = median(rounds)
    assert (found.per_s, found.ms(0.5), found.cpu_us) == (20, 20, {"client": 20})
