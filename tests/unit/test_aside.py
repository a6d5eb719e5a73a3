"""The process beside ours: it does not outlive the one that asked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from celeriac import errors
from celeriac.release.aside import run_aside

SLEEPER = """
import os, sys, time
from pathlib import Path
from celeriac import errors
from celeriac.release.aside import answer_with

def answers(wanted):
    yield {"early": True}
    if wanted["back"]:
        yield None
    time.sleep(120) if wanted["hangs"] else os._exit(3)

def work(wanted):
    if "note" not in wanted:
        return [{"score": Path("/proc/self/oom_score_adj").read_text().strip(),
                 "niceness": os.nice(0), **wanted}]
    if wanted["note"] == "answers":
        return answers(wanted)
    if wanted["note"] == "prints":
        for _ in range(100):
            print("x" * 1_000_000)
        print("so much", flush=True)
        os._exit(3)
    Path(wanted["note"] + ".new").write_text(str(os.getpid()))
    os.rename(wanted["note"] + ".new", wanted["note"])
    time.sleep(120)

sys.exit(answer_with(work, told=lambda error: errors.RegistryError(str(error))))
"""
CALLER = """
import sys
from celeriac import errors
from celeriac.release.aside import run_aside

run_aside("sleeper", [], {"note": sys.argv[1]}, timeout_s=120, late="late", what="it",
          kind=errors.RegistryError)
"""

TALKER = """
import resource
from celeriac import errors
from celeriac.release.aside import run_aside

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000

before = peak_mb()
try:
    run_aside("sleeper", [], {"note": "prints"}, timeout_s=60, late="late", what="it",
              kind=errors.RegistryError)
except errors.RegistryError as error:
    print(error.message, peak_mb() - before, sep="\\n")
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the signal is Linux's")


@pytest.fixture
def path(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}


def test_it_ends_when_its_caller_is_killed(tmp_path: Path, path: dict[str, str]) -> None:
    note = tmp_path / "pid"
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(note)], env={**os.environ, **path}
    )
    try:
        assert _soon(note.exists, 60)
    finally:
        caller.kill()
        caller.wait(10)
    pid = int(note.read_text())
    assert _soon(lambda: not _lives(pid), 20)


def test_it_is_the_first_to_go_where_memory_is_short_and_gives_way(path: dict[str, str]) -> None:
    for niceness in (0, 10):
        found = run_aside("sleeper", [], {"a": 1}, timeout_s=60, late="late", what="it",
                          kind=errors.RegistryError, env=path, niceness=niceness)
        expected = min(os.nice(0) + niceness, 19)
        assert found == {"score": "1000", "niceness": expected, "a": 1}


def test_what_it_waits_for_others_is_not_its_time(
    path: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.release.aside.waited_s", lambda pid: 60.0)

    def ask(niceness: int) -> object:
        return run_aside("sleeper", [], {"a": 1}, timeout_s=0.05, late="late", what="it",
                         kind=errors.RegistryError, env=path, niceness=niceness)

    monkeypatch.setattr("celeriac.release.aside._MOST_WAITED", 1_200)
    assert ask(1)
    with pytest.raises(errors.RegistryError, match="late"):
        ask(0)  # gives way to nobody
    monkeypatch.setattr("celeriac.release.aside._MOST_WAITED", 1)
    with pytest.raises(errors.RegistryError, match="late"):
        ask(1)  # nor does anybody wait for ever


def test_what_it_prints_fills_nobodys_memory(path: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TALKER], env={**os.environ, **path}, text=True, capture_output=True,
        timeout=60, check=True,
    )
    said, grown_mb = done.stdout.splitlines()
    assert said == "it ended with exit code 3: so much"
    assert float(grown_mb) < 50  # of 100 MB


def test_it_does_nothing_for_a_caller_that_is_gone(tmp_path: Path, path: dict[str, str]) -> None:
    note = tmp_path / "pid"
    done = subprocess.run(
        [sys.executable, "-m", "sleeper"], input=f'{{"caller": 1, "wanted": {{"note": "{note}"}}}}',
        env={**os.environ, **path}, text=True, capture_output=True, timeout=60, check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert not note.exists()


@pytest.mark.parametrize(("hangs", "says"), [(True, "late"), (False, "it ended with exit code 3")])
def test_its_last_answer_counts_unless_it_was_taken_back(
    path: dict[str, str], hangs: bool, says: str
) -> None:
    def run(back: bool) -> dict[str, object]:
        return run_aside(
            "sleeper", [], {"note": "answers", "hangs": hangs, "back": back},
            timeout_s=8 if hangs else 60, late="late", what="it", kind=errors.RegistryError,
            env=path,
        )

    with ThreadPoolExecutor(2) as both:  # at once, since each takes its time
        kept, taken_back = (both.submit(run, back) for back in (False, True))
    assert kept.result() == {"early": True}
    with pytest.raises(errors.RegistryError, match=says):
        taken_back.result()


def _soon(holds: Callable[[], bool], limit_s: float) -> bool:
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        if holds():
            return True
        time.sleep(0.05)
    return False


def _lives(pid: int) -> bool:
    """False of a zombie, too: whoever inherits it may never wait for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
