"""What ``celeriac batch`` says of a job, to people and to programs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from celeriac import errors
from celeriac.jobs.ledger import JobState
from producer.cli import batch, terminal
from producer.jobs import JobStatus

RUNNING = JobStatus(
    id="20261126-021500-5f0c1d", state=JobState.IN_PROGRESS, model="reviews", version=3,
    source="in.csv", output="/out", chunks_total=24, chunks_done=2, rows_total=200_000,
    rows_done=100_320, rows_failed=0, chunks_running=2, rows_per_s=30_735.0, eta_s=65.0,
)


def status(**changes: Any) -> JobStatus:
    return replace(RUNNING, **changes)


@pytest.mark.parametrize(("rate", "says"), [
    (30_735.2, "30,735 rows/s"), (10.0, "10 rows/s"), (4.21, "4.2 rows/s"), (0.316, "0.32 rows/s"),
])
def test_a_job_of_few_rows_has_a_rate_too(rate: float, says: str) -> None:
    assert says in batch.describe(status(rows_per_s=rate))


def test_a_job_that_waits_for_a_worker_says_so_while_one_looks_on() -> None:
    assert "waits" not in batch.describe(RUNNING)
    waiting = status(rows_done=0, rows_per_s=None, chunks_running=0, waits_for="batch.cpu")
    assert "no worker serves batch.cpu" in batch.describe(waiting)


def test_a_narrow_window_keeps_the_state_and_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        terminal, "console", lambda **_: Console(file=io.StringIO(), width=60, color_system=None)
    )
    progress = batch._progress()
    progress.add_task("in_progress", total=RUNNING.rows_total, note=batch.describe(RUNNING))
    with (console := progress.console).capture() as captured:
        console.print(progress.get_renderable())
    line = captured.get()
    assert "in_progress" in line
    assert "100,320 of 200,000 rows, 1:05 left" in line
    assert len(line.splitlines()) == 1


def test_where_there_is_no_terminal_only_a_change_is_a_line(
    capsys: pytest.CaptureFixture[str]
) -> None:
    progress = batch._progress()
    shown = batch._Shown(progress, progress.add_task("scoring", total=None, note=""))
    for second in range(130):
        rows = 20_000 if second < 3 else 40_000 if second < 12 else 60_000
        shown._print(f"{rows}\n", float(second))
    assert capsys.readouterr().err.split() == ["40000", "60000", "60000"]  # at 5, 12, 72 s


def test_a_dumb_terminal_gets_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    screen = io.StringIO()
    monkeypatch.setattr(
        terminal, "console", lambda **_: Console(file=screen, force_terminal=True)
    )
    with batch._progress() as progress:
        shown = batch._Shown(progress, progress.add_task("scoring", total=None, note=""))
        shown._line_s = -60.0  # long ago
        shown(RUNNING)
    assert "in_progress: 100,320 of 200,000 rows" in capsys.readouterr().err
    assert screen.getvalue() == ""


def test_one_line_of_json_has_what_the_handle_has(capsys: pytest.CaptureFixture[str]) -> None:
    batch._show(status(state=JobState.COMPLETED_WITH_ERRORS, rows_failed=7), as_json=True)
    text = capsys.readouterr().out
    found = json.loads(text)
    assert text.count("\n") == 1
    assert (found["id"], found["state"], found["rows_failed"]) == (
        RUNNING.id, "completed_with_errors", 7
    )


@pytest.mark.parametrize(("holds_job", "says"), [
    (False, "nothing was queued"), (True, "out holds a job, `celeriac batch status"),
])
def test_ctrl_c_while_a_dataset_is_planned_says_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], holds_job: bool, says: str
) -> None:
    output = tmp_path / "out"
    if holds_job:
        output.mkdir()
        (output / "job.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt), batch.planning(str(output)):
        raise KeyboardInterrupt
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("holds_job", [False, True])
def test_a_job_goes_on_unless_its_output_was_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], holds_job: bool
) -> None:
    output = tmp_path / "out"
    if holds_job:
        output.mkdir()
        (output / "job.json").write_text("{}")
    batch._print_status(status(state=JobState.FAILED, output=str(output)))
    assert ("celeriac batch resume" in capsys.readouterr().out) is holds_job


def test_chunks_that_were_given_up_can_be_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch._print_status(status(
        state=JobState.COMPLETED_WITH_ERRORS, output=str(tmp_path), chunks_dead=1,
    ))
    assert f"`celeriac batch dead requeue {RUNNING.id}` tries them again" in capsys.readouterr().out


def test_a_period_that_is_none_is_told_by_its_option() -> None:
    with pytest.raises(errors.RequestError, match=r"--period date=monthly: want one of day, week"):
        batch._aggregation(["date"], None, None, None, None, ["date=monthly"])
