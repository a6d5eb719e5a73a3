"""Who gives way: the process, and its session where it has one of its own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from celeriac import niceness

AUTOGROUP = Path("/proc/self/autogroup")
SCRIPT = (
    "import os; from celeriac.niceness import give_way; give_way(3); "
    "print(os.nice(0)); print(open('/proc/self/autogroup').read())"
)


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this kernel has no autogroups")
@pytest.mark.parametrize("own_session", [True, False])
def test_a_session_of_its_own_gives_way_too(own_session: bool) -> None:
    before = AUTOGROUP.read_text()
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT], start_new_session=own_session, capture_output=True,
        text=True, timeout=30, check=True,
    ).stdout.splitlines()
    wanted = min(os.nice(0) + 3, 19)
    assert int(said[0]) == wanted
    assert said[1].endswith(f"nice {wanted}") or not own_session
    assert own_session or said[1] == before.strip()


@pytest.mark.parametrize("refusals", [0, 2])
def test_the_kernel_is_asked_again_when_it_has_had_enough(
    monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    asked: list[str] = []

    class Group:
        def write_text(self, text: str) -> None:
            asked.append(text)
            if len(asked) <= refusals:
                raise OSError(errno.EAGAIN, "too often")

    monkeypatch.setattr(niceness, "_AUTOGROUP", Group())
    monkeypatch.setattr(niceness, "_PAUSE_S", 0.0)
    niceness._weigh_session(10)
    assert asked == ["10"] * (refusals + 1)


def test_a_kernel_without_autogroups_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(niceness, "_AUTOGROUP", tmp_path / "none" / "autogroup")
    niceness._weigh_session(10)
    niceness.give_way(0)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not tell")
def test_the_kernel_tells_what_has_waited_for_the_processor() -> None:
    script = "while True: pass"
    core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    both = [subprocess.Popen([*core, sys.executable, "-c", script]) for _ in range(2)]
    try:
        deadline = time.monotonic() + 30
        while min(niceness.waited_s(one.pid) for one in both) < 0.05:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        for one in both:
            one.kill()
            one.wait(10)
    assert niceness.waited_s(2**22 + 1) == 0.0  # no such thread
    assert niceness.waited_s(threading.get_native_id()) >= 0.0
