"""What commands print on a terminal of 80 columns."""

from __future__ import annotations

import pytest

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
