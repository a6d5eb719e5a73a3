"""Work in a forked child of a command: what it says arrives, and it ends with the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from celeriac import errors
from producer.cli import aside

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from producer.cli import aside

def work():
    print(os.getpid(), flush=True)
    time.sleep(1)
    Path(sys.argv[1]).touch()
    time.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)
aside.run(work)
"""


def test_what_it_returns_arrives_and_what_it_changes_does_not() -> None:
    changed: list[int] = []

    def work() -> dict[str, Any]:
        changed.append(1)
        return {"pid": os.getpid()}

    assert aside.run(work)["pid"] != os.getpid()
    assert not changed


def test_errors_are_raised_as_they_are(tmp_path: Path) -> None:
    def refuses() -> NoReturn:
        raise errors.DatasetError("in.csv: no column 'x'")

    def opens() -> NoReturn:
        (tmp_path / "none").read_text()
        raise AssertionError

    with pytest.raises(errors.DatasetError, match=r"^in.csv: no column 'x'$"):
        aside.run(refuses)
    with pytest.raises(FileNotFoundError) as caught:
        aside.run(opens)
    assert caught.value.filename == str(tmp_path / "none")


def test_an_unexpected_error_shows_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    def breaks() -> NoReturn:
        raise ValueError("boom")

    with pytest.raises(SystemExit) as caught:
        aside.run(breaks)
    assert caught.value.code == 1
    assert "ValueError: boom" in capfd.readouterr().err


def test_a_child_that_is_killed_is_told() -> None:
    with pytest.raises(errors.CeleriacError, match="ended by signal 9; `celeriac batch list`"):
        aside.run(lambda: os.kill(os.getpid(), signal.SIGKILL))  # type: ignore[func-returns-value, arg-type, return-value]


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """Whatever started the tests in the background may have had them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interrupted_child_is_an_interrupt() -> None:
    def interrupted() -> NoReturn:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)
        raise AssertionError

    with pytest.raises(KeyboardInterrupt):
        aside.run(interrupted)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_does_not_outlive_the_command(signum: int, tmp_path: Path) -> None:
    mark = tmp_path / "went-on"
    argv = [sys.executable, "-c", PROGRAM, str(mark)]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as command:
        assert command.stdout
        child = Path("/proc") / command.stdout.readline().strip()
        command.send_signal(signum)
        command.wait(20)
    deadline = time.monotonic() + 20
    while child.exists() and "\nState:\tZ" not in (child / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not mark.exists()
