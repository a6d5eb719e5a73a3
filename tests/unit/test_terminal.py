"""What commands print on a terminal of 80 columns."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from rich.table import Column, Table

from celeriac.tables import Fitted
from producer.cli.terminal import show_rows

NAME = "20261126-002631-be7eb6"
MOMENT = "2026-11-26 00:27:02"


@pytest.fixture
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.usefixtures("_narrow")
def test_names_stay_whole_and_other_cells_are_folded(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(("job", "begun", "ended", "why"), [(NAME, MOMENT, MOMENT, "[a] " + "word " * 9)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(NAME)
    assert "[a]" in lines[1]  # no markup
    assert len(lines) > 2
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.usefixtures("_narrow")
def test_a_very_long_name_is_folded_and_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(("sensor", "value"), [("s" * 200, "1.5")])
    assert capsys.readouterr().out.count("s") == 200 + "sensor".count("s")


def test_cells_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(("NAME",), [("a\x1b]0;owned\x07b\x9b31m\udcff",)])
    said = capsys.readouterr().out
    assert "a\ufffd]0;owned\ufffdb\ufffd31m\ufffd" in said


@pytest.mark.parametrize("width", [80, 60, 40])
def test_words_stay_whole_however_narrow_the_window_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [
        ("reviews", "realtime.cpu@host", "anything", "because the new one is better", MOMENT),
        ("films", "batch.cpu@host", "image 224x224x3", "", MOMENT),
    ]
    show_rows(("MODEL", "WORKER", "ANSWERS", "WHY", "BEGUN"), rows)
    said = capsys.readouterr().out
    assert all(len(line) <= width for line in said.splitlines())
    words = " ".join(cell for row in rows for cell in row).split()
    assert [word for word in words if said.split().count(word) < words.count(word)] == []


def test_figures_and_their_units_stay_together() -> None:
    table = Table("model", Column("up", justify="right"), "serving", box=None)
    table.add_row("reviews", "1 min 15 s", "reviews@1, films@1, delays@1")
    screen = Console(width=30, file=StringIO())
    screen.print(Fitted(table))
    assert isinstance(screen.file, StringIO)
    assert "1 min 15 s" in screen.file.getvalue()
    assert "films@1," in screen.file.getvalue()
