"""Decisions of the supervisor, and the supervisor with small real children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac import errors
from tests.waiting import wait_until
from workers import supervisor as supervisor_module
from workers.supervisor import Backoff, ChildSpec, Supervisor, after_exit, describe_exit

SLEEP = "import time; time.sleep(600)"
STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""
PARENT = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""
LAST_WORD = """
import pathlib, signal, sys, time
mark = pathlib.Path(sys.argv[1])
def end(*_):
    with mark.with_name("order").open("a") as order:
        order.write(mark.stem + " ")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
mark.touch()
time.sleep(600)
"""


def test_the_delay_doubles_up_to_its_limit() -> None:
    backoff, failures, delays = Backoff(first_s=1, longest_s=30), 0, []
    for _ in range(8):
        restart = after_exit(backoff, failures, uptime_s=2)
        failures = restart.failures
        delays.append(restart.delay_s)
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]


def test_the_delay_stays_finite_after_thousands_of_deaths() -> None:
    assert after_exit(Backoff(), 100_000, uptime_s=0).delay_s == 30


def test_good_health_resets_the_delay() -> None:
    assert after_exit(Backoff(healthy_s=60), 7, uptime_s=59.9).failures == 8
    restart = after_exit(Backoff(healthy_s=60), 7, uptime_s=60)
    assert (restart.failures, restart.delay_s) == (1, 1)


@pytest.mark.parametrize(
    ("returncode", "words"),
    [(0, "exit code 0"), (3, "exit code 3"), (-15, "by SIGTERM"), (-77, "by signal 77")],
)
def test_an_exit_in_words(returncode: int, words: str) -> None:
    assert words in describe_exit(returncode)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(said: list[str]) -> Iterator[Supervisor]:
    running = Supervisor(said.append)
    yield running
    running.hurry()
    running.stop()


def spec(folder: Path, code: str, name: str = "child", **options: object) -> ChildSpec:
    argument = str(folder / f"{name}.mark")
    return ChildSpec(
        name=name, argv=[sys.executable, "-c", code, argument], log=folder / f"{name}.log",
        env=dict(os.environ), **({"backoff": Backoff(first_s=0.1)} | options),  # type: ignore[arg-type]
    )


def alive(pid: int) -> bool:
    """True for a process that runs; a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_child_that_dies_is_started_again(
    supervisor: Supervisor, said: list[str], tmp_path: Path
) -> None:
    first = supervisor.launch(spec(tmp_path, SLEEP))
    supervisor.kill("child", signal.SIGKILL)
    wait_until(lambda: supervisor.status()["child"].pid not in (first, None))
    assert supervisor.status()["child"].deaths == 1
    assert "child was killed by SIGKILL; it starts again in 0.1 s" in said[0]
    assert "child is started again" in said[1]


def test_a_child_that_is_started_again_keeps_its_log_and_gets_its_folder(
    supervisor: Supervisor, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, folder = tmp_path / "child.log", tmp_path / "state" / "child"
    code = f"import os; print(os.getpid(), os.listdir({str(folder)!r}), flush=True)\n{SLEEP}"
    pids = [supervisor.launch(spec(tmp_path, code, makes=folder))]
    for most_bytes in (1_000, 1):
        wait_until(lambda: f"{pids[-1]} []" in log.read_text())
        monkeypatch.setattr(supervisor_module, "MOST_LOG_BYTES", most_bytes)
        folder.rmdir()
        supervisor.kill("child", signal.SIGKILL)
        wait_until(lambda: supervisor.status()["child"].pid not in (pids[-1], None))
        pids.append(supervisor.status()["child"].pid or 0)
    wait_until(lambda: log.exists() and log.read_text() == f"{pids[2]} []\n")
    assert Path(f"{log}.1").read_text() == f"{pids[0]} []\n{pids[1]} []\n"
    deaths = [line for line in said if "SIGKILL" in line]
    assert deaths[0].endswith(f"(log: {log})")
    assert deaths[1].endswith(f"(log: {log}.1)")


def test_what_a_dead_child_left_is_ended(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.launch(spec(tmp_path, PARENT))
    mark = tmp_path / "child.mark"
    wait_until(lambda: mark.exists() and mark.read_text())
    grandchild = int(mark.read_text())
    assert alive(grandchild)
    supervisor.kill("child", signal.SIGKILL)
    wait_until(lambda: not alive(grandchild))


def test_stop_ends_a_stage_before_the_stage_below_it(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    pids = [
        supervisor.launch(spec(tmp_path, LAST_WORD, name, stage=stage))
        for name, stage in (("a", 0), ("b", 1), ("c", 2))
    ]
    wait_until(lambda: len(list(tmp_path.glob("*.mark"))) == 3)
    supervisor.stop()
    assert (tmp_path / "order").read_text().split() == ["c", "b", "a"]
    assert not any(alive(pid) for pid in pids)


def test_a_child_that_does_not_drain_is_killed(
    supervisor: Supervisor, said: list[str], tmp_path: Path
) -> None:
    pid = supervisor.launch(spec(tmp_path, STUBBORN, drain_s=0.3))
    wait_until((tmp_path / "child.mark").exists)
    supervisor.stop()
    assert not alive(pid)
    assert said == ["child did not stop in 0.3 s; killed"]


def test_a_child_that_takes_a_while_to_die_is_killed_once(
    supervisor: Supervisor, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = supervisor_module._kill_group
    late: list[threading.Timer] = []

    def kill_late(pid: int) -> None:
        if late:
            return kill(pid)
        late.append(threading.Timer(0.2, kill, (pid,)))
        return late[0].start()

    pid = supervisor.launch(spec(tmp_path, STUBBORN, drain_s=0.3))
    wait_until((tmp_path / "child.mark").exists)
    monkeypatch.setattr(supervisor_module, "_kill_group", kill_late)
    supervisor.stop()
    late[0].join()
    assert not alive(pid)
    assert said == ["child did not stop in 0.3 s; killed"]


def test_hurry_does_not_wait_for_the_drain(supervisor: Supervisor, tmp_path: Path) -> None:
    pid = supervisor.launch(spec(tmp_path, STUBBORN, drain_s=60))
    wait_until((tmp_path / "child.mark").exists)
    began = time.monotonic()
    supervisor.hurry()
    supervisor.stop()
    assert time.monotonic() - began < 5
    assert not alive(pid)


def test_a_program_that_is_not_there_dies_with_a_reason(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.launch(
        ChildSpec(name="ghost", argv=["/no/such/program"], log=tmp_path / "ghost.log")
    )
    wait_until(lambda: supervisor.status()["ghost"].deaths)
    assert "/no/such/program: cannot be run" in (tmp_path / "ghost.log").read_text()


def test_a_folder_that_is_not_there_is_an_error(supervisor: Supervisor, tmp_path: Path) -> None:
    with pytest.raises(errors.WorkerError, match="child could not start"):
        supervisor.launch(spec(tmp_path, SLEEP, cwd=tmp_path / "nowhere"))


def test_a_name_is_used_once(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.launch(spec(tmp_path, SLEEP))
    with pytest.raises(errors.WorkerError, match="one of this name already"):
        supervisor.launch(spec(tmp_path, SLEEP))


def test_nothing_is_launched_after_the_stop(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.stop()
    with pytest.raises(errors.WorkerError, match="has stopped"):
        supervisor.launch(spec(tmp_path, SLEEP))
    with pytest.raises(errors.WorkerError, match="no process named 'child'"):
        supervisor.kill("child", signal.SIGTERM)


def test_a_terminal_that_went_away_ends_nothing(tmp_path: Path) -> None:
    def say(line: str) -> None:
        raise BrokenPipeError

    supervisor = Supervisor(say)
    try:
        first = supervisor.launch(spec(tmp_path, SLEEP))
        supervisor.kill("child", signal.SIGKILL)
        wait_until(lambda: supervisor.status()["child"].pid not in (first, None))
    finally:
        supervisor.stop()


def test_the_log_of_the_run_before_is_kept(tmp_path: Path) -> None:
    for word in ("first", "second", "third"):
        supervisor = Supervisor(lambda line: None)
        supervisor.launch(spec(tmp_path, f"print({word!r}, flush=True)\n{SLEEP}"))
        wait_until(lambda: (tmp_path / "child.log").stat().st_size)
        supervisor.stop()
    assert (tmp_path / "child.log").read_text() == "third\n"
    assert (tmp_path / "child.log.1").read_text() == "second\n"


def test_kill_9_of_the_supervisor_leaves_nothing(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import os, pathlib, sys, time
        from workers.supervisor import ChildSpec, Supervisor
        supervisor = Supervisor(print)
        pid = supervisor.launch(ChildSpec(
            name="child", argv=[sys.executable, "-c", {SLEEP!r}],
            log=pathlib.Path({str(tmp_path / "child.log")!r}), env=dict(os.environ)))
        print(pid, flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    wait_until(lambda: not alive(pid))
