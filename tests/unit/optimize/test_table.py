"""The table of forms: everything that was measured, in a terminal of 80 columns."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from celeriac.optimize.choosing import Verdict
from celeriac.optimize.optimising import BATCH_SIZES, Found, Line
from celeriac.optimize.parity import Parity
from celeriac.optimize.table import show


def line(name: str, verdict: Verdict, parity: Parity | None, *ms: float, why: str = "") -> Line:
    return Line(name=name, what="", threads=1, verdict=verdict, why=why, mean_speedup=123.45,
                predict_ms=dict(zip(BATCH_SIZES, ms, strict=True)), parity=parity)


def parity(metric: float | None, metric_name: str = "accuracy") -> Parity:
    return Parity(samples=1000, agreement=0.9999, error=1e-17, metric=metric,
                  metric_name=metric_name)


def shown(*lines: Line, default: str = "original", golden: int = 0) -> list[str]:
    found = Found(model="m@1", machine="a machine", device="cpu", threads=1,
                  samples=golden or 1000, golden_only=bool(golden), measured_at="",
                  lines=list(lines), default=default)
    file = io.StringIO()
    show(found, Console(file=file, width=80, highlight=False))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("metric", ["accuracy", "R2"])
def test_the_metric_of_each_form_stands_in_80_columns(metric: str) -> None:
    rows = shown(
        line("original", "original", parity(0.8040, metric), 0.0293, 100.07, 3555.05, 12345.6),
        line("onnx", "differs", parity(-12.3456, metric), 0.0293, 100.07, 3555.05, 12345.6),
        line("original, 16 threads", "threads", parity(0.8041, metric), 1, 2, 3, 4),
    )
    table = [row.rstrip() for row in rows[2:]]
    assert max(map(len, rows[:8])) <= 80
    assert "…" not in "".join(rows)
    assert table[1].split()[-2:] == [metric, "verdict"]
    assert table[2].split() == ["original", "0.0293", "100", "3555", "12346", "123.45", "x",
                                "99.9%", "1e-17", "0.8040"]
    assert table[3].split()[-2:] == ["-12.3456", "differs"]
    assert "0.8041" in table[4]


def test_without_labels_there_is_no_such_column() -> None:
    rows = shown(line("original", "original", parity(None), 1, 2, 3, 4),
                 line("onnx", "winner", parity(None), 1, 2, 3, 4))
    assert rows[3].split()[-3:] == ["labels", "by", "verdict"]
    assert rows[5].split()[-3:] == ["99.9%", "1e-17", "winner"]


def test_what_is_run_unasked_is_told() -> None:
    rows = shown(line("original", "original", parity(None), 1, 2, 3, 4),
                 line("direct", "default", parity(None), 1, 2, 3, 4), default="direct")
    assert rows[5].split()[-1] == "default"
    assert rows[-2].startswith("m@1 is run as direct now")
    assert rows[-1].endswith("nothing is registered.")


def test_what_is_run_unasked_and_differs_is_told() -> None:
    rows = shown(line("original", "original", parity(None), 1, 2, 3, 4),
                 line("direct", "differs", parity(None), 1, 2, 3, 4), default="direct")
    assert "m@1 is run as direct now, and should not be" in "\n".join(rows)


def test_how_many_examples_there_were_reads_well() -> None:
    only = line("original", "original", parity(None), 1, 2, 3, 4)
    for golden, words in ((0, "1000 samples"), (1, "1 golden example"), (8, "8 golden examples")):
        rows = shown(only, golden=golden)
        assert " ".join(rows[1:3]).partition("ms of")[0].strip().endswith(f"compared on {words}")
